"""Gaussian splatting: a GaussianCloud seen by pinhole cameras (Kerbl et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from threedgen.core.types import Cameras, Frames, GaussianCloud, RenderOutput, ScreenStatistics
from threedgen.renderers import backends
from threedgen.renderers.base import Background, render_frames, split_background


class SplattingRenderer:
    """Renders Gaussian clouds: rgb, alpha, depth, and screen statistics for density control."""

    @dataclass(frozen=True)
    class Config:
        """backend: auto (the fastest for the cloud's device), native (CPU), gsplat (CUDA) or torch (slow)."""

        backend: str = "auto"

    primitive = GaussianCloud

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def __call__(
        self,
        primitive: GaussianCloud | Frames,
        cameras: Cameras,
        background: Background,
        /,
        rng: torch.Generator | None = None,
    ) -> RenderOutput:
        """Render [B, H, W] pictures of a cloud, or of a moving one's moments; the cameras must be on the cloud's
        device. Nothing is drawn from `rng`.

        background: [3] or [B, 3] colours, or [B, H, W, 3] pictures; gradients reach it and all of the cloud.
        A float64 cloud is rendered by the torch twin, the only backend that keeps the precision.
        `screen.means2d.grad` holds the gradient of the projected means (pixels) after a backward pass.
        Raises UserError when the configured backend is absent; ValueError on a background of another shape.
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
        means2d = means.new_zeros(len(cameras), len(primitive), 2, requires_grad=needs_grad)
        rgb, alpha, depth, radii = backends.load("splatting", name).splat(primitive, cameras, solid, means2d)
        if picture is not None:
            rgb = rgb + (1 - alpha) * picture
        screen = ScreenStatistics(means2d, radii, cameras.height, cameras.width)
        return RenderOutput(rgb=rgb, alpha=alpha, depth=depth, screen=screen)
