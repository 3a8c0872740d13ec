"""Fitting a prior into limited memory: the choice of measures for a budget, and the measures themselves.

Each measure costs time. None changes what a run converges to, and only `tiling` changes the numbers (at the seams
of its tiles).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from threedgen.guidance.priors.clip_codec import VideoLatents
from threedgen.guidance.priors.codec import Latents, Recomputed

_GB = 1024.0**3
# GB that a picture of 512 x 512 pixels takes in the autoencoder in float32, forward and backward, and that a sample
# of this size takes in a pass of a denoiser, counted by benchmarks/gpu_memory.py; both grow with the pixels.
_CODEC_WORK, _NETWORK_WORK = 3.0, 0.15
_BRANCHES = 2  # passes for each sample: with the text and without it
_VIEWS: ContextVar[int] = ContextVar("views of a step", default=1)


@contextmanager
def for_views(count: int) -> Iterator[None]:
    """Priors that are loaded inside the block are planned for steps of `count` samples: views, or clips."""
    token = _VIEWS.set(count)
    try:
        yield
    finally:
        _VIEWS.reset(token)


def views_of_a_step() -> int:
    """The samples of a step for which priors are planned now: 1 outside of `for_views`."""
    return _VIEWS.get()


@dataclass(frozen=True)
class Sizes:
    """What a prior takes on its device without any measure.

    network, vae, encoders: GB of the weights of the denoiser (and of its ControlNet), of the autoencoder and of the
    text encoders. pixels: side of its pictures. frames: length of its clips. codec_bytes: of a number in the
    autoencoder. views: samples in a step, as `for_views` says. The autoencoder takes one picture at a time, and the
    denoiser all.
    """

    network: float
    vae: float
    encoders: float
    pixels: int
    frames: int = 1
    codec_bytes: int = 4
    views: int = field(default_factory=views_of_a_step)


@dataclass(frozen=True)
class Plan:
    """The measures that are taken to save memory.

    encoders_aside: texts are encoded on the CPU (in any case the encoders are removed once all texts are encoded).
    slicing: attention is computed one head at a time, if the network supports it. tiling: the autoencoder takes
    pictures in tiles of half their side, which the backward pass recomputes one by one. offload: the weights of the
    denoiser stay in the memory of the CPU, and each layer is moved to the device when it computes.
    """

    encoders_aside: bool = False
    slicing: bool = False
    tiling: bool = False
    offload: bool = False

    def encoder_device(self, device: torch.device) -> torch.device:
        """The device of the text encoders."""
        return torch.device("cpu") if self.encoders_aside else device

    def place_network(self, network: Any, device: torch.device) -> Any:
        """The frozen denoiser, ready to compute on `device`."""
        network.requires_grad_(False).eval()
        if self.slicing and hasattr(network, "set_attention_slice"):
            network.set_attention_slice("max")
        if not self.offload or device.type == "cpu":
            if any(weight.ndim > 4 for weight in network.parameters()):
                return network.to(device=device)
            # channels_last is 6% faster on a CPU for the embedded UNet, and the layout of tensor cores.
            return network.to(device=device, memory_format=torch.channels_last)
        network.enable_group_offload(onload_device=device, offload_type="leaf_level")
        return network

    def place_codec(self, codec: Latents | VideoLatents) -> None:
        """Switch the autoencoder to tiles, if planned and if it supports them."""
        vae = codec.vae
        if not self.tiling or not hasattr(vae, "use_tiling"):
            return
        if isinstance(codec, VideoLatents):
            codec.use_tiles()
            return
        vae.enable_tiling()
        vae.tile_sample_min_size = max(codec.size // 2, codec.reduction)
        vae.tile_latent_min_size = vae.tile_sample_min_size // codec.reduction
        vae.encoder = Recomputed(vae.encoder)


def plan(budget: float, sizes: Sizes, slicing: bool = False, tiling: bool = False) -> Plan:
    """The mildest plan that stays within `budget` GB (0: no limit). slicing, tiling: take these measures anyway.

    In this order measures are added: none, encoders aside, tiles, attention slices, the denoiser moved layer by
    layer. The last plan is taken even if it does not suffice, because the estimate is rough and the run may fit.
    """
    pixels = (sizes.pixels / 512.0) ** 2
    if budget <= 0.0:
        return Plan(slicing=slicing, tiling=tiling)
    steps = [
        Plan(slicing=slicing, tiling=tiling),
        Plan(encoders_aside=True, slicing=slicing, tiling=tiling),
        Plan(encoders_aside=True, slicing=slicing, tiling=True),
        Plan(encoders_aside=True, slicing=True, tiling=True),
    ]
    last = Plan(encoders_aside=True, slicing=True, tiling=True, offload=True)
    for step in steps:
        if _estimate(step, sizes, pixels) <= budget:
            return step
    return last


def _estimate(step: Plan, sizes: Sizes, pixels: float) -> float:
    """GB on the device at the peak: while the texts are encoded, or in a step."""
    resident = sizes.network + sizes.vae
    texts = 0.0 if step.encoders_aside else resident + sizes.encoders
    work = pixels * max(
        _CODEC_WORK * sizes.codec_bytes / 4.0 / (4.0 if step.tiling else 1.0),
        _BRANCHES * sizes.views * sizes.frames * _NETWORK_WORK / (2.0 if step.slicing else 1.0),
    )
    return max(texts, resident + work)


def gigabytes(size: float) -> float:
    """Bytes in GB."""
    return size / _GB
