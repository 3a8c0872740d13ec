"""Splatting by gsplat (CUDA, version 1.5.3 or later): a thin adapter around `gsplat.rasterization`.

It computes the same as the torch backend, with one exception: gsplat leaves out the Gaussian that would bring the
transmittance to 1e-4 or below, while the other backends draw it and stop after it. For a nearly opaque Gaussian the
difference is up to the transmittance before it. Nothing here runs, or is tested, without CUDA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.types import Cameras, GaussianCloud
from threedgen.renderers.backends.torch import LOW_PASS


def splat(
    cloud: GaussianCloud,
    cameras: Cameras,
    background: Float[Tensor, "B 3"],
    means2d: Float[Tensor, "B N 2"],
) -> tuple[
    Float[Tensor, "B H W 3"], Float[Tensor, "B H W 1"], Float[Tensor, "B H W 1"], Float[Tensor, "B N"]
]:
    """Renders a float32 CUDA cloud; returns (rgb over the solid background, alpha, depth, radii in pixels).

    means2d: a leaf tensor of zeros, whose `.grad` receives the gradient of the projected means.
    """
    picture, alpha, meta = _drawn(_tensors(cloud), cameras.camera_from_world, cameras.intrinsics, cameras)
    if means2d.requires_grad and meta["means2d"].requires_grad:

        def carry(gradient: Tensor) -> None:
            means2d.grad = gradient.clone() if means2d.grad is None else means2d.grad + gradient

        meta["means2d"].register_hook(carry)
    rgb = picture[..., :3] + (1 - alpha) * background[:, None, None]
    radii = meta["radii"].to(torch.float32)
    return rgb, alpha, picture[..., 3:4], radii.amax(-1) if radii.ndim == 3 else radii


def splat_moments(
    clouds: Sequence[GaussianCloud], cameras: Cameras, background: Float[Tensor, "B 3"]
) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 1"], Float[Tensor, "B H W 1"]]:
    """As `splat`, of T clouds of one shape in one batch of gsplat, each seen by the next B / T cameras."""
    moments = len(clouds)
    stacked = tuple(torch.stack(parts) for parts in zip(*map(_tensors, clouds), strict=True))
    poses, intrinsics = (
        tensor.unflatten(0, (moments, -1)) for tensor in (cameras.camera_from_world, cameras.intrinsics)
    )
    picture, alpha, _ = _drawn(stacked, poses, intrinsics, cameras)
    picture, alpha = picture.flatten(0, 1), alpha.flatten(0, 1)
    return picture[..., :3] + (1 - alpha) * background[:, None, None], alpha, picture[..., 3:4]


def _tensors(cloud: GaussianCloud) -> tuple[Tensor, ...]:
    return cloud.means, cloud.quats, cloud.scales, cloud.opacities, cloud.sh


def _drawn(
    cloud: tuple[Tensor, ...], poses: Tensor, intrinsics: Tensor, cameras: Cameras
) -> tuple[Tensor, Tensor, Any]:
    """gsplat's picture with depth, alpha, and what else it says, of clouds and poses with the same leading
    dimensions. cameras: says the size of the pictures and the clipping planes."""
    from gsplat import rasterization  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    means, quats, scales, opacities, sh = cloud
    return rasterization(
        means=means,
        quats=quats,
        scales=scales,
        opacities=opacities,
        colors=sh,
        viewmats=poses,
        Ks=intrinsics,
        width=cameras.width,
        height=cameras.height,
        near_plane=cameras.near,
        far_plane=cameras.far,
        eps2d=LOW_PASS,
        sh_degree=math.isqrt(sh.shape[-2]) - 1,
        packed=False,
        render_mode="RGB+D",
    )
