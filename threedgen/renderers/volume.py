"""Volume rendering: a RadianceField seen by pinhole cameras (NeRF, Mildenhall et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras, RadianceField, RenderOutput
from threedgen.renderers import backends
from threedgen.renderers.base import Background, split_background
from threedgen.renderers.volumetric import Composited, Marching, Rays, camera_rays

# What a sample keeps until the backward pass in a field of three planes and a small MLP: an estimate.
_BYTES_PER_SAMPLE = 1000


class VolumeRenderer:
    """Renders radiance fields: rgb, alpha, depth, and normals where they are asked for."""

    primitive = RadianceField

    @dataclass(frozen=True)
    class Config:
        """How rays are marched, and by whom.

        backend: auto (the fastest for the field's device), native (CPU), nerfacc (CUDA) or torch (slow).
        samples: intervals on the diagonal of the field's box; all rays are cut at this pitch.
        jitter: samples at random places in their intervals while training (when a generator is given).
        early_stop: transmittance below which nothing behind is looked at, 0 to look at everything.
        memory: megabytes that samples may hold at once; beyond it, rays are rendered in chunks, and computed
        again in the backward pass. normals: also render normals (four more densities a sample). distortion: also
        compute each ray's distortion, which the term of that name in `regularizers` needs.
        """

        backend: str = "auto"
        samples: int = 96
        jitter: bool = True
        early_stop: float = 1e-3
        memory: float = 1500.0
        normals: bool = False
        distortion: bool = False

        def __post_init__(self) -> None:
            if not 1 <= self.samples <= 4096:
                raise UserError(f"renderer.samples is {self.samples}; it must be between 1 and 4096")
            if not 0.0 <= self.early_stop < 1.0:
                raise UserError(f"renderer.early_stop is {self.early_stop}; it must be in [0, 1)")
            if not 0.0 < self.memory < math.inf:
                raise UserError(
                    f"renderer.memory is {self.memory}; it must be a positive number of megabytes"
                )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def __call__(
        self,
        primitive: RadianceField,
        cameras: Cameras,
        background: Background,
        /,
        rng: torch.Generator | None = None,
    ) -> RenderOutput:
        """Render [B, H, W] pictures of a field, on the device and in the floating type of its bounds.

        background: [3] or [B, 3] colours, or [B, H, W, 3] pictures. Gradients reach it and whatever the field's
        query depends on, not the cameras. A float64 field is rendered by the torch twin, the only backend that
        keeps the precision. rng: a CPU generator for the jitter; None puts samples in the middle.
        `normal` is the sum of weight x unit normal (world), like depth: its length is at most alpha.
        Raises UserError when the configured backend is absent; ValueError on a background of another shape, or
        a field that returns wrong shapes, a negative density or one that is not finite.
        """
        bounds = primitive.bounds
        if bounds.dtype == torch.float64:
            name = "torch"
        else:
            name = backends.choose("volume", self.config.backend, bounds.device)
        cameras = cameras.to(bounds.device, bounds.dtype)
        solid, picture = split_background(background.to(bounds), cameras)
        rays = camera_rays(cameras, bounds, rng if self.config.jitter else None)
        seen = self._render(backends.load("volume", name), primitive, rays)
        shape = (len(cameras), cameras.height, cameras.width)
        alpha, features = seen.alpha.reshape(*shape, 1), seen.features.reshape(*shape, -1)
        behind = solid[:, None, None, :] if picture is None else picture
        return RenderOutput(
            rgb=features[..., :3] + (1 - alpha) * behind,
            alpha=alpha,
            depth=seen.depth.reshape(*shape, 1),
            normal=features[..., 3:] if self.config.normals else None,
            distortion=None if seen.distortion is None else seen.distortion.reshape(*shape, 1),
        )

    def _render(self, backend: ModuleType, field: RadianceField, rays: Rays) -> Composited:
        """What all rays show, in as many chunks as the memory asks for."""
        diagonal = float(torch.linalg.vector_norm((field.bounds[1] - field.bounds[0]).double()))
        step = diagonal / self.config.samples
        marching = Marching(
            step,
            self.config.samples,
            self.config.early_stop,
            0.5 * step if self.config.normals else None,
            self.config.distortion,
        )
        evaluations = 5 if self.config.normals else 1
        most = int(self.config.memory * 1e6 / (_BYTES_PER_SAMPLE * evaluations))
        if len(rays) * marching.limit <= most:  # they cannot have more samples than that: no need to count
            return backend.render(field, rays, marching)
        chunks = list(_chunks(backend.count(field, rays, marching), most))
        if len(chunks) == 1:
            return backend.render(field, rays, marching)
        parts = []
        for rows in chunks:
            if torch.is_grad_enabled():
                parts.append(checkpoint(backend.render, field, rays[rows], marching, use_reentrant=False))
            else:
                parts.append(backend.render(field, rays[rows], marching))
        spreads = [part.distortion for part in parts if part.distortion is not None]
        return Composited(
            torch.cat([part.features for part in parts]),
            torch.cat([part.alpha for part in parts]),
            torch.cat([part.depth for part in parts]),
            torch.cat(spreads) if spreads else None,
        )


def _chunks(counts: Tensor, most: int) -> Iterator[slice]:
    """Consecutive rays with at most `most` samples together, at least one ray each."""
    ends, begin, done = counts.cumsum(0), 0, 0
    while True:
        end = int(torch.searchsorted(ends, done + most, right=True))
        end = min(max(end, begin + 1), len(counts))
        yield slice(begin, end)
        if end == len(counts):
            return
        begin, done = end, int(ends[end - 1])
