"""The renderer of Gaussian clouds (3D Gaussian Splatting, Kerbl et al. 2023)."""

from __future__ import annotations

import torch

from threedgen.core.rendering import BackgroundColors
from threedgen.core.roles import RendererRoles
from threedgen.core.settings import settings
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
            return render_frames(self, primitive, cameras, background, rng)
        means = primitive.means
        if means.dtype == torch.float64:
            name = "torch"
        else:
            name = backends.choose("splatting", self.config.backend, means.device)
        cameras = cameras.to(means.device, means.dtype)
        solid, picture = split_background(background.to(means), cameras)
        needs_grad = torch.is_grad_enabled() and any(
            tensor.requires_grad
            for tensor in (means, primitive.quats, primitive.scales, primitive.opacities, primitive.sh)
        )
        if len(primitive) == 0 and name == "gsplat":  # it divides by the number of Gaussians
            name = "torch"
        means2d = means.new_zeros(len(cameras), len(primitive), 2, requires_grad=needs_grad)
        rgb, alpha, depth, radii = backends.load("splatting", name).splat(primitive, cameras, solid, means2d)
        if picture is not None:
            rgb = rgb + (1 - alpha) * picture
        screen = ScreenStatistics(means2d, radii, cameras.height, cameras.width)
        return RenderOutput(rgb=rgb, alpha=alpha, depth=depth, screen=screen)
