"""Pictures to what a denoiser denoises, and back: pixels in [-1, 1], or the latents of an autoencoder."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images


class Pixels:
    """The picture itself. size: its height and width."""

    latent = False

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 size size"]:
        return signed(images, self.size)

    def decode(self, x: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B h w 3"]:
        return (x.permute(0, 2, 3, 1) + 1.0) / 2.0


class Latents:
    """(mode of the autoencoder - shift) times scale, as its config says; size: of the pictures, in pixels.

    The mode, not a draw: the encoder's spread is far below the noise added next, and a Prior owns no random
    stream. Raises UserError for an autoencoder that normalises each channel by itself.
    """

    latent = True

    def __init__(self, vae: Any, size: int) -> None:
        if getattr(vae.config, "latents_mean", None) is not None:
            raise UserError(
                "this prior's autoencoder normalises its channels one by one (latents_mean): not supported"
            )
        self.vae = vae.requires_grad_(False).eval()
        self.size = size
        self.reduction = 2 ** (len(vae.config.block_out_channels) - 1)
        self._scale = vae.config.scaling_factor
        self._shift = getattr(vae.config, "shift_factor", None) or 0.0

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        return (self.unscaled(images) - self._shift) * self._scale

    def unscaled(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Without shift and scale: how networks that are shown a picture beside z were trained to see it."""
        pixels = signed(images, self.size).to(self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.mode()

    def decode(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        pixels = self.vae.decode(x.to(self.vae.dtype) / self._scale + self._shift).sample
        return (pixels.permute(0, 2, 3, 1) + 1.0) / 2.0


Codec = Pixels | Latents


def signed(images: Float[Tensor, "B H W 3"], size: int) -> Float[Tensor, "B 3 size size"]:
    """Pictures in [0, 1] of any size -> channels first in [-1, 1] at `size`."""
    return resize_images(images, size).permute(0, 3, 1, 2) * 2.0 - 1.0
