"""Bilinear features of points from three axis-aligned planes, as in a triplane field.

Plane 0 is xy, plane 1 xz, plane 2 yz, each [H, W, C] with its first coordinate along W and its second along H
(EG3D, Chan et al. 2022, section 3.2, with the third plane that its released code lacks). The planes cover
[-1, 1] with the outermost texels' centres on the border (align_corners); points outside take the border's value.

The three features of a point are returned side by side, [M, 3, C], so that a decoder may concatenate, sum or
multiply them. A first linear layer on the concatenation includes the sum.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.kernels import load_native

AXES = ((0, 1), (0, 2), (1, 2))  # the coordinates of a point along W and H of each plane


def sample_planes(planes: Float[Tensor, "3 H W C"], points: Float[Tensor, "M 3"]) -> Float[Tensor, "M 3 C"]:
    """The features of each point on each plane. Differentiable in the planes, and in the points.

    Float32 planes on the CPU are sampled by the compiled kernel (unless the points require a gradient), with
    torch's number of threads; the result does not depend on it. Raises ValueError for other shapes or mixed
    types.
    """
    if planes.ndim != 4 or planes.shape[0] != 3 or 0 in planes.shape:
        raise ValueError(f"planes must be [3, H, W, C] with no empty side, got {tuple(planes.shape)}")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must be [M, 3], got {tuple(points.shape)}")
    if planes.dtype != points.dtype or planes.device != points.device:
        raise ValueError(
            f"planes are {planes.dtype} on {planes.device}, but points are {points.dtype} on {points.device}"
        )
    moving = torch.is_grad_enabled() and points.requires_grad
    if planes.dtype == torch.float32 and planes.device.type == "cpu" and not moving and load_native():
        return _SamplePlanes.apply(planes, points)
    return sample_planes_torch(planes, points)


def sample_planes_torch(
    planes: Float[Tensor, "3 H W C"], points: Float[Tensor, "M 3"]
) -> Float[Tensor, "M 3 C"]:
    """The same as `sample_planes` by `grid_sample`, for any device and floating type."""
    columns = points.unbind(1)  # and no list as an index, which a GPU would wait for
    grid = torch.stack([torch.stack([columns[a], columns[b]], dim=1) for a, b in AXES])[
        :, None
    ]  # [3, 1, M, 2]
    features = F.grid_sample(
        planes.permute(0, 3, 1, 2), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return features[:, :, 0].permute(2, 0, 1)


class _SamplePlanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, planes: Tensor, points: Tensor) -> Tensor:
        texels, places = planes.detach().contiguous(), points.detach().contiguous()
        features = texels.new_empty(len(places), 3, texels.shape[3])
        native: Any = load_native()
        native.sample_planes(texels, places, torch.get_num_threads(), features)
        ctx.save_for_backward(places)
        ctx.shape = texels.shape
        return features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_features: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        d_planes = d_features.new_empty(ctx.shape)
        native: Any = load_native()
        native.sample_planes_backward(places, d_features.contiguous(), torch.get_num_threads(), d_planes)
        return d_planes, None
