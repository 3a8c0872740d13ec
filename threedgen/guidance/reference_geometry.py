"""Terms on the depth and the normals of a render, from a given picture (image to 3D).

A depth picture has neither unit nor origin. So a render is compared with it in two ways: by correlation, which is
invariant to increasing affine maps of the picture, and by the order of pairs of pixels, which is invariant to all
increasing maps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.core.transfer import sent
from threedgen.core.types import Cameras, RenderOutput

_PAIRS = 2048  # random pairs of pixels per step
_TIE = 0.02  # share of the depth range of the object below which two points have no order
_FLAT = 1e-6  # world units squared; added to the variance of depth, so that noise has no correlation
_EDGE = 10.0  # a step of 0.1 in the mean colour of the picture reduces the weight of a crease to 1/e
_SMOOTH = 1e-3  # length of a difference of normals below which the term is quadratic


def expected_depth(output: RenderOutput) -> Float[Tensor, "B H W 1"]:
    """The depth (camera z) of each pixel in world units, meaningful where alpha is high. Needs output.depth."""
    assert output.depth is not None
    return output.depth / output.alpha.clamp_min(1e-6)


def decorrelation(depth: Float[Tensor, " n"], nearness: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """1 + Pearson's correlation of depth (far is large) with nearness (near is large), in [0, 2]: 0 if one is a
    decreasing affine map of the other, 1 for constant depth. 0 for fewer than two pixels."""
    if len(depth) < 2:
        return depth.sum() * 0.0
    depth, nearness = depth - depth.mean(), nearness - nearness.mean()
    spread = (depth.square().mean() + _FLAT).sqrt() * nearness.square().mean().sqrt()
    return 1.0 + (depth * nearness).mean() / spread.clamp_min(1e-12)


def misorder(
    depth: Float[Tensor, " n"], nearness: Float[Tensor, " n"], rng: torch.Generator
) -> Float[Tensor, ""]:
    """Mean over random pairs of pixels of how much farther away, in world units, the render has the pixel that is
    nearer in the picture: a hinge with margin 0 in place of the logistic loss of Chen et al. 2016. 0 if all pairs
    are in order, and without pairs; pairs with the same depth in the picture are not counted."""
    if len(depth) < 2:
        return depth.sum() * 0.0
    one, two = sent(torch.randint(len(depth), (2, _PAIRS), generator=rng), depth.device)
    difference = nearness[one] - nearness[two]
    nearer = difference.sign() * (difference.abs() > _TIE)
    return F.relu(nearer * (depth[one] - depth[two])).sum() / nearer.abs().sum().clamp_min(1.0)


def normals(
    output: RenderOutput, cameras: Cameras, seen: Bool[Tensor, "B H W 1"]
) -> tuple[Float[Tensor, "B h w 3"], Bool[Tensor, "B h w 1"]]:
    """Unit normals, and the pixels where they are known. They are those of the renderer (world axes) if it gives
    normals; else those of the rendered depth (camera axes, towards the camera), each from a pixel in `seen` and its
    neighbours to the right and below: h, w = H - 1, W - 1. Needs output.normal or output.depth."""
    if output.normal is not None:
        return F.normalize(output.normal, dim=-1, eps=1e-6), seen
    depth = expected_depth(output)
    height, width = depth.shape[1:3]
    rows = torch.arange(height, device=depth.device, dtype=depth.dtype) + 0.5
    columns = torch.arange(width, device=depth.device, dtype=depth.dtype) + 0.5
    intrinsics = cameras.intrinsics.to(depth)[:, :, :, None, None]
    x = ((columns[None, None, :] - intrinsics[:, 0, 2]) / intrinsics[:, 0, 0]).expand(-1, height, -1)
    y = ((rows[None, :, None] - intrinsics[:, 1, 2]) / intrinsics[:, 1, 1]).expand(-1, -1, width)
    points = depth * torch.stack([x, y, torch.ones_like(x)], dim=-1)
    corner = points[:, :-1, :-1]
    across = torch.linalg.cross(points[:, 1:, :-1] - corner, points[:, :-1, 1:] - corner)
    return (
        F.normalize(across, dim=-1, eps=1e-12),
        seen[:, :-1, :-1] & seen[:, 1:, :-1] & seen[:, :-1, 1:],
    )


def roughness(
    normals: Float[Tensor, "B h w 3"], known: Bool[Tensor, "B h w 1"], picture: Float[Tensor, "B h w 3"]
) -> Float[Tensor, ""]:
    """Edge-aware total variation of normals: the mean over horizontal and vertical neighbours, both known, of the
    length of the difference of their normals times exp(-10 d), where d is the difference of their colours in the
    picture, mean over channels. In [0, 2]; 0 for a plane, and if no neighbours are known."""
    total, count = normals.new_zeros(()), known.new_zeros((), dtype=torch.long)
    for axis in (1, 2):
        size = normals.shape[axis] - 1
        change, colors = (torch.diff(values, dim=axis) for values in (normals, picture))
        both = known.narrow(axis, 0, size) & known.narrow(axis, 1, size)
        length = (change.square().sum(-1, keepdim=True) + _SMOOTH**2).sqrt() - _SMOOTH
        weight = torch.exp(-_EDGE * colors.abs().mean(-1, keepdim=True))
        total = total + torch.where(both, weight * length, 0.0).sum()
        count = count + both.sum()
    return total / count.clamp_min(1)
