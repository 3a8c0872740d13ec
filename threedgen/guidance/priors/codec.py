"""Pictures to the samples of a denoiser, and back: pixels in [-1, 1], or the latents of an autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images


class Pixels:
    """The picture itself. size: height and width in pixels."""

    latent = False

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 size size"]:
        return signed(images, self.size)

    def decode(self, x: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B h w 3"]:
        return (x.permute(0, 2, 3, 1) + 1.0) / 2.0


class Latents:
    """(mode of the autoencoder - shift) times scale, both from its config. size: of the pictures, in pixels.

    The mode instead of a random draw: the spread of the encoder is far below the noise that is added next, and a
    Prior has no random stream of its own. Pictures are encoded and decoded one by one, and the backward pass
    recomputes all but the last, so that memory does not grow with their number. The results are float32, whatever
    the autoencoder computes in. Raises UserError for an autoencoder that normalises each channel by itself.
    """

    latent = True

    def __init__(self, vae: Any, size: int) -> None:
        if getattr(vae.config, "latents_mean", None) is not None:
            raise UserError(
                "the autoencoder of this prior normalises its channels one by one (latents_mean), which is not "
                "supported: use another prior"
            )
        self.vae = vae.requires_grad_(False).eval()
        self.size = size
        self.reduction = 2 ** (len(vae.config.block_out_channels) - 1)
        self._scale = vae.config.scaling_factor
        self._shift = getattr(vae.config, "shift_factor", None) or 0.0

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        return (self.unscaled(images) - self._shift) * self._scale

    def unscaled(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Latents without shift and scale, the form in which networks with a picture beside z were trained with
        it."""
        return _one_by_one(self._mode, images)

    def decode(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        return _one_by_one(self._picture, x)

    def fitted(self, picture: Float[Tensor, "1 H W 3"]) -> Float[Tensor, "1 3 h w"]:
        """A picture in [0, 1] as the autoencoder takes it."""
        return signed(picture, self.size)

    def most_likely(self, pixels: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 C h w"]:
        """The mode of the autoencoder for what it takes, without shift and scale."""
        return self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()

    def _mode(self, picture: Float[Tensor, "1 H W 3"]) -> Float[Tensor, "1 C h w"]:
        return self.most_likely(self.fitted(picture))

    def _picture(self, latents: Float[Tensor, "1 C h w"]) -> Float[Tensor, "1 H W 3"]:
        x = (latents / self._scale + self._shift).to(self.vae.dtype)
        return (self.vae.decode(x).sample.float().permute(0, 2, 3, 1) + 1.0) / 2.0


Codec = Pixels | Latents


def signed(images: Float[Tensor, "B H W 3"], size: int) -> Float[Tensor, "B 3 size size"]:
    """Pictures in [0, 1] of any size -> channels first, in [-1, 1], `size` pixels on each side."""
    return resize_images(images, size).permute(0, 3, 1, 2) * 2.0 - 1.0


def _one_by_one(part: Callable[[Tensor], Tensor], x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """`part` of each of x. Of the last one all is kept, because the backward pass begins with it: what recomputing
    another takes then has its place."""
    *others, last = x.split(1)
    return torch.cat([*(recomputed(part, one) for one in others), part(last)])


class Recomputed(torch.nn.Module):
    """A frozen module whose activations are computed again in the backward pass instead of being stored."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return recomputed(self.inner, x)


def recomputed(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`part(x)`, which draws no random numbers, keeping only x for the backward pass."""
    from torch.utils.checkpoint import checkpoint

    if not (torch.is_grad_enabled() and x.requires_grad):
        return part(x)
    again: Any = checkpoint(part, x, use_reentrant=False, preserve_rng_state=False)
    return again
