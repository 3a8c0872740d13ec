"""Clips to the samples of a video model, and back: [B, f C, h, w], the channels of the f latent frames in order.

In this layout a clip is a sample like any other for all code outside of video priors; `frames_of` returns the
frames.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.priors.codec import Latents, recomputed, signed


class FrameLatents:
    """Each frame is encoded by itself, by the autoencoder of pictures `pictures`; f is `frames`."""

    latent = True

    def __init__(self, pictures: Latents, frames: int) -> None:
        self.pictures, self.frames = pictures, frames
        self.vae, self.size = pictures.vae, pictures.size
        self.latent_frames = frames

    def encode(self, images: Float[Tensor, "B*F H W 3"]) -> Float[Tensor, "B F*C h w"]:
        require_clips(images, self.frames)
        return self.pictures.encode(images).unflatten(0, (-1, self.frames)).flatten(1, 2)

    def decode(self, x: Float[Tensor, "B F*C h w"]) -> Float[Tensor, "B*F H W 3"]:
        return self.pictures.decode(frames_of(x, self.frames).flatten(0, 1))


class TemporalLatents(FrameLatents):
    """AutoencoderKLTemporalDecoder (Stable Video Diffusion): frames are encoded one by one
    and decoded together."""

    def decode(self, x: Float[Tensor, "B F*C h w"]) -> Float[Tensor, "B*F H W 3"]:
        clips = (frames_of(x, self.frames) / self.vae.config.scaling_factor).to(self.vae.dtype)
        pixels = torch.cat([self.vae.decode(clip, num_frames=self.frames).sample for clip in clips]).float()
        return (pixels.permute(0, 2, 3, 1) + 1.0) / 2.0


class VideoLatents:
    """An autoencoder that compresses time too (CogVideoX, Wan): f = 1 + (frames - 1) / ratio, (mode - mean) / std.

    ratio: frames per latent frame. reduction: pixels per latent, along a side. mean, std: of each of the C
    channels, or one number for all. together: f is padded to a multiple of it by copies of the first latent frame
    in front, as models whose tokens hold several latent frames were trained (CogVideoX 1.5). Clips are encoded
    one by one, and the backward pass recomputes them.
    """

    latent = True

    def __init__(
        self,
        vae: Any,
        size: int,
        frames: int,
        ratio: int,
        reduction: int,
        mean: Tensor | float,
        std: Tensor | float,
        together: int = 1,
    ) -> None:
        self.vae = vae.requires_grad_(False).eval()
        self.size, self.frames = size, frames
        self._reduction = reduction
        packed = 1 + (frames - 1) // ratio
        self._copies = -packed % together
        self.latent_frames = packed + self._copies
        self._mean = torch.as_tensor(mean).reshape(-1, 1, 1)
        self._std = torch.as_tensor(std).reshape(-1, 1, 1)

    def encode(self, images: Float[Tensor, "B*F H W 3"]) -> Float[Tensor, "B f*C h w"]:
        require_clips(images, self.frames)
        clips = [recomputed(self._mode, clip) for clip in images.split(self.frames)]
        modes = torch.stack(clips)
        return ((modes - self._mean.to(modes)) / self._std.to(modes)).flatten(1, 2)

    def decode(self, x: Float[Tensor, "B f*C h w"]) -> Float[Tensor, "B*F H W 3"]:
        clips = frames_of(x, self.latent_frames)[:, self._copies :]
        clips = (clips * self._std.to(x) + self._mean.to(x)).transpose(1, 2).to(self.vae.dtype)
        pixels = [self.vae.decode(clip[None]).sample[0] for clip in clips]
        return (torch.cat(pixels, dim=1).float().permute(1, 2, 3, 0) + 1.0) / 2.0

    def use_tiles(self) -> None:
        """From now on, encode and decode each clip in tiles of about half its side, which overlap by a quarter."""
        # Latents per side, a multiple of 4 so that a quarter is a whole number: the default tiles of the
        # autoencoders do not fit together at sizes other than their own.
        tile = -(-self.size // (8 * self._reduction)) * 4
        side = tile * self._reduction
        step = {"tile_sample_stride_height": side * 3 // 4, "tile_sample_stride_width": side * 3 // 4}
        if hasattr(self.vae, "tile_overlap_factor_height"):
            step = {"tile_overlap_factor_height": 0.25, "tile_overlap_factor_width": 0.25}
        self.vae.enable_tiling(side, side, **step)

    def _mode(self, frames: Float[Tensor, "F H W 3"]) -> Float[Tensor, "f C h w"]:
        pixels = signed(frames, self.size).to(self.vae.dtype)
        latents = self.vae.encode(pixels.transpose(0, 1)[None]).latent_dist.mode()[0].float().transpose(0, 1)
        return torch.cat([latents[:1].expand(self._copies, -1, -1, -1), latents])


ClipCodec = FrameLatents | VideoLatents


def frames_of(x: Float[Tensor, "B f*C h w"], latent_frames: int) -> Float[Tensor, "B f C h w"]:
    """The latent frames of clips in the layout of a sample."""
    return x.unflatten(1, (latent_frames, -1))


def require_clips(images: Float[Tensor, "N H W 3"], frames: int) -> None:
    """Raises UserError unless the pictures are whole clips."""
    if len(images) % frames:
        raise UserError(
            f"this video prior needs clips of {frames} frames, not {len(images)} pictures: set "
            f"cameras.name=clips cameras.frames={frames}"
        )
