"""Splatting by the compiled CPU kernels: float32, all cores, same semantics as the torch twin.

The number of threads is torch's (`torch.set_num_threads`); the result does not depend on it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.kernels import _native  # pyright: ignore[reportAttributeAccessIssue]
from threedgen.types import Cameras, GaussianCloud


def variants() -> list[str]:
    """Instruction-set variants of the kernels that this machine can run, best first, "baseline" last."""
    return _native.splat_variants()


def splat(
    cloud: GaussianCloud,
    cameras: Cameras,
    background: Float[Tensor, "B 3"],
    means2d: Float[Tensor, "B N 2"],
    variant: str = "",
) -> tuple[
    Float[Tensor, "B H W 3"], Float[Tensor, "B H W 1"], Float[Tensor, "B H W 1"], Float[Tensor, "B N"]
]:
    """Render a float32 CPU cloud; returns (rgb over the solid background, alpha, depth, radii in pixels).

    Differentiable once in the cloud's tensors and the background; means2d must be zeros and only
    receives its gradient. Cameras get no gradient. variant: one of `variants()`, the best by default.
    """
    rgb, alpha, depth, radii = _Splat.apply(
        cloud.means,
        cloud.quats,
        cloud.scales,
        cloud.opacities,
        cloud.sh,
        background,
        means2d,
        cameras,
        variant,
    )
    return rgb, alpha, depth, radii


class _Splat(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        sh: Tensor,
        background: Tensor,
        means2d: Tensor,
        cameras: Cameras,
        variant: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cloud = [_buffer(tensor) for tensor in (means, quats, scales, opacities, sh)]
        exact = cameras.to("cpu", torch.float64)
        views, size = len(cameras), (cameras.height, cameras.width)
        rgb = means.new_empty(views, *size, 3)
        alpha, depth = means.new_empty(views, *size, 1), means.new_empty(views, *size, 1)
        radii = means.new_empty(views, len(means))
        state = _native.SplatState()
        _native.splat_forward(
            state,
            *cloud,
            exact.camera_from_world.detach().contiguous(),
            exact.centers.detach().contiguous(),
            exact.intrinsics.detach().contiguous(),
            _buffer(background),
            *size,
            cameras.near,
            cameras.far,
            torch.get_num_threads(),
            variant,
            rgb,
            alpha,
            depth,
            radii,
        )
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(*cloud)
            ctx.state = state
        ctx.mark_non_differentiable(radii)
        return rgb, alpha, depth, radii

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, d_rgb: Tensor, d_alpha: Tensor, d_depth: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        cloud = ctx.saved_tensors
        gradients = [torch.empty_like(tensor) for tensor in cloud]
        views = len(d_rgb)
        background, means2d = d_rgb.new_empty(views, 3), d_rgb.new_empty(views, len(cloud[0]), 2)
        _native.splat_backward(
            ctx.state,
            *cloud,
            *(_buffer(gradient) for gradient in (d_rgb, d_alpha, d_depth)),
            torch.get_num_threads(),
            *gradients,
            background,
            means2d,
        )
        return (*gradients, background, means2d, None, None)


def _buffer(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()
