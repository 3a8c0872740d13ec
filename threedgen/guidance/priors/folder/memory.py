"""Fitting a prior into less memory than it would take: which of a few measures a budget calls for, and doing them.

The measures, mildest first. Each costs time; none changes what a run converges to, and only `tiling` changes the
numbers (at the seams of its tiles).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from threedgen.guidance.priors.clip_codec import VideoLatents
from threedgen.guidance.priors.codec import Latents

_GB = 1024.0**3
# What a picture of 512 x 512 takes in the autoencoder (float32, forward and backward) and a denoiser's pass
# without slices, in GB, as rough as a budget needs; both grow with the number of pixels.
_CODEC_WORK, _NETWORK_WORK = 5.0, 1.5


@dataclass(frozen=True)
class Sizes:
    """What a prior would take on its device, in GB, were nothing done: weights of the denoiser (with what
    controls it), of the autoencoder, and of the text encoders; pixels: side of its pictures; frames: of its clips
    (the autoencoder takes a few at a time, the denoiser all)."""

    network: float
    vae: float
    encoders: float
    pixels: int
    frames: int = 1


@dataclass(frozen=True)
class Plan:
    """What is done about memory.

    encoders_aside: texts are encoded on the CPU (the encoders are dropped after a run's texts in any case).
    slicing: attention one head at a time, where the network can. tiling: the autoencoder takes one picture after
    the other in tiles of half its side, and recomputes them in the backward pass instead of keeping them.
    offload: the denoiser's weights wait in the CPU's memory, and each layer is fetched when it computes.
    """

    encoders_aside: bool = False
    slicing: bool = False
    tiling: bool = False
    offload: bool = False

    def encoder_device(self, device: torch.device) -> torch.device:
        """Where the text encoders compute."""
        return torch.device("cpu") if self.encoders_aside else device

    def place_network(self, network: Any, device: torch.device) -> Any:
        """The frozen denoiser, ready to compute on `device`."""
        network.requires_grad_(False).eval()
        if self.slicing and hasattr(network, "set_attention_slice"):
            network.set_attention_slice("max")
        if not self.offload or device.type == "cpu":
            if any(weight.ndim > 4 for weight in network.parameters()):
                return network.to(device=device)
            # channels_last: 6% faster on a CPU for the embedded UNet, and what tensor cores want.
            return network.to(device=device, memory_format=torch.channels_last)
        network.enable_group_offload(onload_device=device, offload_type="leaf_level")
        return network

    def place_codec(self, codec: Latents | VideoLatents) -> None:
        """Switch the autoencoder to slices and tiles, when planned and where it has them."""
        vae = codec.vae
        if not self.tiling or not hasattr(vae, "use_tiling"):
            return
        if isinstance(codec, VideoLatents):
            codec.use_tiles()
            return
        vae.enable_slicing()
        vae.enable_tiling()
        vae.tile_sample_min_size = max(codec.size // 2, codec.reduction)
        vae.tile_latent_min_size = vae.tile_sample_min_size // codec.reduction
        vae.encoder = Recomputed(vae.encoder)


class Recomputed(torch.nn.Module):
    """A frozen module whose insides are computed again in the backward pass instead of being kept for it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch.utils.checkpoint import checkpoint

        return checkpoint(self.inner, x, use_reentrant=False)  # type: ignore[return-value]


def plan(budget: float, sizes: Sizes, slicing: bool = False, tiling: bool = False) -> Plan:
    """The first of these that keeps within `budget` GB (0: no limit); slicing and tiling may be asked for anyway.

    In order: nothing; encoders aside; tiles; attention slices; the denoiser fetched layer by layer. The last is
    taken even where it does not suffice: the estimate is rough and the run may fit.
    """
    pixels = (sizes.pixels / 512.0) ** 2
    if budget <= 0.0:
        return Plan(slicing=slicing, tiling=tiling)
    steps = [Plan(slicing=slicing, tiling=tiling)]
    steps.append(Plan(encoders_aside=True, slicing=slicing, tiling=tiling))
    steps.append(Plan(encoders_aside=True, slicing=slicing, tiling=True))
    steps.append(Plan(encoders_aside=True, slicing=True, tiling=True))
    last = Plan(encoders_aside=True, slicing=True, tiling=True, offload=True)
    for step in steps:
        if _estimate(step, sizes, pixels) <= budget:
            return step
    return last


def _estimate(step: Plan, sizes: Sizes, pixels: float) -> float:
    """GB on the device, at the worst moment: while the texts are encoded, or in a step."""
    resident = sizes.network + sizes.vae
    texts = 0.0 if step.encoders_aside else resident + sizes.encoders
    work = pixels * max(
        _CODEC_WORK / (4.0 if step.tiling else 1.0),
        sizes.frames * _NETWORK_WORK / (2.0 if step.slicing else 1.0),
    )
    return max(texts, resident + work)


def gigabytes(size: float) -> float:
    """Bytes in GB."""
    return size / _GB
