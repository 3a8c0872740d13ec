"""Splatting by gsplat (CUDA, version 1.5.3 or later): a thin adapter around `gsplat.rasterization`.

It computes the same as the torch backend, with one exception: gsplat leaves out the Gaussian that would bring the
transmittance to 1e-4 or below, while the other backends draw it and stop after it. For a nearly opaque Gaussian the
difference is up to the transmittance before it. Nothing here runs, or is tested, without CUDA.
"""

from __future__ import annotations

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
    from gsplat import rasterization  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    picture, alpha, meta = rasterization(
        means=cloud.means,
        quats=cloud.quats,
        scales=cloud.scales,
        opacities=cloud.opacities,
        colors=cloud.sh,
        viewmats=cameras.camera_from_world,
        Ks=cameras.intrinsics,
        width=cameras.width,
        height=cameras.height,
        near_plane=cameras.near,
        far_plane=cameras.far,
        eps2d=LOW_PASS,
        sh_degree=cloud.sh_degree,
        packed=False,
        render_mode="RGB+D",
    )
    if means2d.requires_grad and meta["means2d"].requires_grad:

        def carry(gradient: Tensor) -> None:
            means2d.grad = gradient.clone() if means2d.grad is None else means2d.grad + gradient

        meta["means2d"].register_hook(carry)
    rgb = picture[..., :3] + (1 - alpha) * background[:, None, None]
    radii = meta["radii"].to(torch.float32)
    return rgb, alpha, picture[..., 3:4], radii.amax(-1) if radii.ndim == 3 else radii
