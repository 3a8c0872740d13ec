"""Splatting by the compiled CPU kernels in float32, with the same result as the torch backend.

The number of threads is torch's (`torch.set_num_threads`). The result does not depend on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.types import Cameras, GaussianCloud
from threedgen.kernels import _native  # pyright: ignore[reportAttributeAccessIssue]


def variants() -> list[str]:
    """The instruction-set variants of the kernels that this machine can run, the best first and "baseline" last."""
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
    """Renders a float32 cloud of any device on the CPU; returns (rgb over the solid background, alpha, depth, radii
    in pixels) on the device of the cloud.

    Differentiable once in the cloud's tensors and the background, but not in the cameras. means2d: zeros, which
    only receive a gradient. variant: one of `variants()`; "" takes the best.
    """
    tensors = (cloud.means, cloud.quats, cloud.scales, cloud.opacities, cloud.sh, background, means2d)
    drawn = _Splat.apply(*(tensor.cpu() for tensor in tensors), cameras, variant)
    rgb, alpha, depth, radii = (tensor.to(cloud.means.device) for tensor in drawn)
    return rgb, alpha, depth, radii


def count_blocks(cloud: GaussianCloud, cameras: Cameras) -> int:
    """The number of 4x4 pixel blocks of single Gaussians that a render composites, a measure of its work."""
    tensors = (cloud.means, cloud.quats, cloud.scales, cloud.opacities, cloud.sh)
    background = torch.zeros(len(cameras), 3)
    return _forward(tuple(_buffer(tensor) for tensor in tensors), cameras, background, "")[0].blocks()


def _forward(
    cloud: tuple[Tensor, ...], cameras: Cameras, background: Tensor, variant: str
) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
    # Poses are inverted and Gaussians projected in double precision.
    poses, intrinsics = (_exact(tensor) for tensor in (cameras.world_from_camera, cameras.intrinsics))
    views, height, width = len(cameras), cameras.height, cameras.width
    rgb, alpha, depth = (torch.empty(views, height, width, channels) for channels in (3, 1, 1))
    radii = torch.empty(views, len(cloud[0]))
    state = _native.SplatState()
    _native.splat_forward(
        state,
        *_arrays(*cloud),
        *_arrays(poses, intrinsics, background),
        height,
        width,
        cameras.near,
        cameras.far,
        torch.get_num_threads(),
        variant,
        *_arrays(rgb, alpha, depth, radii),
    )
    return state, rgb, alpha, depth, radii


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
        cloud = tuple(_buffer(tensor) for tensor in (means, quats, scales, opacities, sh))
        state, rgb, alpha, depth, radii = _forward(cloud, cameras, _buffer(background), variant)
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
            *_arrays(*cloud, *(_buffer(gradient) for gradient in (d_rgb, d_alpha, d_depth))),
            torch.get_num_threads(),
            *_arrays(*gradients, background, means2d),
        )
        return (*gradients, background, means2d, None, None)


def _buffer(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64).contiguous()


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    """The tensors' memory; the bindings take numpy's arrays ten times faster than torch's tensors."""
    return [tensor.numpy() for tensor in tensors]
