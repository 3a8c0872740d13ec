"""The renderer of radiance fields (NeRF, Mildenhall et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Annotated

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from threedgen.core.rendering import BackgroundColors
from threedgen.core.roles import RendererRoles
from threedgen.core.settings import above, between, settings
from threedgen.core.transfer import on_cpu
from threedgen.core.types import Cameras, RadianceField, RenderOutput
from threedgen.renderers import backends
from threedgen.renderers.base import split_background
from threedgen.renderers.volumetric import BAD_DENSITY, Composited, Marching, Rays, camera_rays

# The memory of a sample until the backward pass in a field of three planes and a small MLP: an estimate.
_BYTES_PER_SAMPLE = 1000


class VolumeRenderer(RendererRoles):
    """Renders radiance fields: rgb, alpha, depth, and normals and distortion on request."""

    primitive = RadianceField

    @settings
    class Config:
        """How radiance fields are rendered.

        Attributes:
            backend: The library that renders: native (CPU), torch (slow on a CPU), nerfacc (CUDA, by name only), or
                auto, which takes the fastest for the field's device.
            samples: Number of intervals on the diagonal of the field's box. All rays are cut into intervals of this
                length, with one sample in each.
            jitter: Whether each sample is at a random place in its interval during training, and not in its middle.
            early_stop: Transmittance below which the samples behind on a ray are left out. With 0 none are.
            memory (megabytes): Memory that samples may take at once. If they need more, rays are rendered in
                chunks, which are computed again in the backward pass.
            normals: Whether to render normals, too, with four more densities for each sample.
            distortion: Whether to compute each ray's distortion, which the regularizer of that name needs.
        """

        backend: str = "auto"
        samples: Annotated[int, between(1, 4096)] = 96
        jitter: bool = True
        early_stop: Annotated[float, between(0.0, 1.0, open_high=True)] = 1e-3
        memory: Annotated[float, above(0.0)] = 1500.0
        normals: bool = False
        distortion: bool = False

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def __call__(
        self,
        primitive: RadianceField,
        cameras: Cameras,
        background: BackgroundColors,
        /,
        rng: torch.Generator | None = None,
    ) -> RenderOutput:
        """The pictures [B, H, W] of a field, on the device and in the floating type of its bounds.

        Gradients reach all that the field's query depends on, and the background, but not the cameras. Float64
        fields are rendered by the torch backend, the only one that keeps the precision. Like depth, `normal` is
        a sum of weight x unit normal in the world, so that its length is at most alpha.

        background: [3], [B, 3] or [B, H, W, 3]. rng: a CPU generator for the jitter; None puts samples in the
        middle of their intervals. Raises UserError if the configured backend is not available, and ValueError
        for a background of another shape, or a field that returns wrong shapes or a density that is negative or
        not finite. On a GPU, a render with a gradient has NaN instead where such a density is seen, because a
        training step must not wait for the device; the loop's watchdog takes such a step back.
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
        learning = torch.is_grad_enabled()
        if not learning and bounds.device.type != "cpu" and bool(alpha.isnan().any()):
            raise ValueError(BAD_DENSITY)
        behind = solid[:, None, None, :] if picture is None else picture
        return RenderOutput(
            rgb=features[..., :3] + (1 - alpha) * behind,
            alpha=alpha,
            depth=seen.depth.reshape(*shape, 1),
            normal=features[..., 3:] if self.config.normals else None,
            distortion=None if seen.distortion is None else seen.distortion.reshape(*shape, 1),
        )

    def _render(self, backend: ModuleType, field: RadianceField, rays: Rays) -> Composited:
        """What all rays show, in as many chunks as the limit of the memory needs."""
        low, high = on_cpu(field.bounds)
        diagonal = float(torch.linalg.vector_norm((high - low).double()))
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
        if len(rays) * marching.limit <= most:  # more samples than that are impossible: no need to count
            return backend.render(field, rays, marching)
        chunks = list(_chunks(backend.count(field, rays, marching), most))
        if len(chunks) == 1:
            return backend.render(field, rays, marching)
        seen = []
        for rows in chunks:
            if torch.is_grad_enabled():
                seen.append(checkpoint(backend.render, field, rays[rows], marching, use_reentrant=False))
            else:
                seen.append(backend.render(field, rays[rows], marching))
        spreads = [chunk.distortion for chunk in seen if chunk.distortion is not None]
        return Composited(
            torch.cat([chunk.features for chunk in seen]),
            torch.cat([chunk.alpha for chunk in seen]),
            torch.cat([chunk.depth for chunk in seen]),
            torch.cat(spreads) if spreads else None,
        )


def _chunks(counts: Tensor, most: int) -> Iterator[slice]:
    """Ranges of consecutive rays with at most `most` samples together, or of one ray."""
    ends, begin, done = counts.cumsum(0), 0, 0
    while True:
        end = int(torch.searchsorted(ends, done + most, right=True))
        end = min(max(end, begin + 1), len(counts))
        yield slice(begin, end)
        if end == len(counts):
            return
        begin, done = end, int(ends[end - 1])
