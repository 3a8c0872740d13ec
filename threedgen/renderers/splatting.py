"""The renderer of Gaussian clouds (3D Gaussian Splatting, Kerbl et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from threedgen.core.rendering import BackgroundColors
from threedgen.core.roles import RendererRoles
from threedgen.core.settings import settings
from threedgen.core.transfer import on_cpu, rows
from threedgen.core.types import Cameras, Frames, GaussianCloud, RenderOutput, ScreenStatistics
from threedgen.renderers import backends
from threedgen.renderers.base import render_frames, split_background


class SplattingRenderer(RendererRoles):
    """Renders Gaussian clouds: rgb, alpha, depth, and screen statistics for density control."""

    @settings
    class Config:
        """How Gaussians are rendered.

        Attributes:
            backend: The library that renders: gsplat (CUDA), native (CPU, also for a GPU), torch (slow), or auto,
                which takes the fastest for the cloud's device.
        """

        backend: str = "auto"

    primitive = GaussianCloud

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def __call__(
        self,
        primitive: GaussianCloud | Frames,
        cameras: Cameras,
        background: BackgroundColors,
        /,
        rng: torch.Generator | None = None,
    ) -> RenderOutput:
        """The pictures [B, H, W] of a cloud, or of the moments of a moving one. No random numbers are drawn
        from `rng`.

        Gradients reach all tensors of the cloud, and the background, but not the cameras. Float64 clouds are
        rendered by the torch backend, the only one that keeps the precision. `screen.means2d.grad` holds the
        gradient of the projected means (in pixels) after a backward pass.

        background: [3], [B, 3] or [B, H, W, 3]. Raises UserError if the configured backend is not available, and
        ValueError for a background of another shape.
        """
        if isinstance(primitive, Frames):
            return self._moments(primitive, cameras, background, rng)
        means = primitive.means
        name = self._backend(primitive)
        cameras = cameras.to(means.device, means.dtype)
        solid, picture = split_background(background.to(means), cameras)
        needs_grad = torch.is_grad_enabled() and any(
            tensor.requires_grad
            for tensor in (means, primitive.quats, primitive.scales, primitive.opacities, primitive.sh)
        )
        means2d = means.new_zeros(len(cameras), len(primitive), 2, requires_grad=needs_grad)
        rgb, alpha, depth, radii = backends.load("splatting", name).splat(primitive, cameras, solid, means2d)
        if picture is not None:
            rgb = rgb + (1 - alpha) * picture
        screen = ScreenStatistics(means2d, radii, cameras.height, cameras.width)
        return RenderOutput(rgb=rgb, alpha=alpha, depth=depth, screen=screen)

    def _backend(self, cloud: GaussianCloud) -> str:
        if cloud.means.dtype == torch.float64:
            return "torch"
        name = backends.choose("splatting", self.config.backend, cloud.means.device)
        # gsplat divides by the number of Gaussians.
        return "torch" if len(cloud) == 0 and name == "gsplat" else name

    def _moments(
        self, moving: Frames, cameras: Cameras, background: BackgroundColors, rng: torch.Generator | None
    ) -> RenderOutput:
        """All moments in one batch if the backend takes batches and the moments can share one; else one by one."""
        frames = [frame for frame in moving.frames if isinstance(frame, GaussianCloud)]
        module = backends.load("splatting", self._backend(frames[0]))
        rows_of = views_by_moment(moving, frames) if hasattr(module, "splat_moments") else None
        if rows_of is None:
            return render_frames(self, moving, cameras, background, rng)
        clouds = [frames[moment] for moment in rows_of]
        order = torch.tensor([row for found in rows_of.values() for row in found])
        device = clouds[0].means.device
        cameras = cameras[order].to(device, torch.float32)
        behind = background if background.ndim == 1 else rows(background, order)
        solid, picture = split_background(behind.to(clouds[0].means), cameras)
        rgb, alpha, depth = module.splat_moments(clouds, cameras, solid)
        if picture is not None:
            rgb = rgb + (1 - alpha) * picture
        back = order.argsort()
        return RenderOutput(rgb=rows(rgb, back), alpha=rows(alpha, back), depth=rows(depth, back))


def views_by_moment(moving: Frames, frames: Sequence[GaussianCloud]) -> dict[int, list[int]] | None:
    """The cameras of each moment that is seen, or None if the moments are not of one shape or are not seen equally
    often: then they cannot share a batch."""
    found: dict[int, list[int]] = {}
    for row, moment in enumerate(on_cpu(moving.index).tolist()):
        found.setdefault(moment, []).append(row)
    clouds = [frames[moment] for moment in found]
    alike = (
        len({cloud.sh.shape for cloud in clouds}) == 1 and len({len(seen) for seen in found.values()}) == 1
    )
    return found if alike else None
