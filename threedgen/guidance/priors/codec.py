"""Pictures to the samples of a denoiser, and back: pixels in [-1, 1], or the latents of an autoencoder."""

from __future__ import annotations

from typing import Any

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
    Prior has no random stream of its own. Raises UserError for an autoencoder that normalises each channel by
    itself.
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
        pixels = signed(images, self.size).to(self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.mode()

    def decode(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        pixels = self.vae.decode(x.to(self.vae.dtype) / self._scale + self._shift).sample
        return (pixels.permute(0, 2, 3, 1) + 1.0) / 2.0


Codec = Pixels | Latents


def signed(images: Float[Tensor, "B H W 3"], size: int) -> Float[Tensor, "B 3 size size"]:
    """Pictures in [0, 1] of any size -> channels first, in [-1, 1], `size` pixels on each side."""
    return resize_images(images, size).permute(0, 3, 1, 2) * 2.0 - 1.0
