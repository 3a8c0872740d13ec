"""The visibility of mesh faces in plain torch, in float32 or float64, on any device.

It defines the result that every other backend must reproduce. A pixel sees the face that the ray through its centre
meets first at a camera z in [near, far]. A ray through an edge meets both of its faces; of two faces at one z,
the one with the lower index is seen. Corners may be behind the camera: that piece of a face is not drawn. With
corners a, b, c and the ray d = (dx, dy, 1), the weights of the corners are proportional to d.(b x c), d.(c x a)
and d.(a x b), and the ray meets the face if all have the sign of a.(b x c) (homogeneous rasterisation, Olano
and Greer 1997).

It is exact and slow: it is the reference of tests, and the backend if no compiled kernel exists.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.types import Cameras
from threedgen.renderers.mesh_shading import corner_weights, facing, interpolate

__all__ = ["interpolate", "visible_faces"]

_TILE = 16


@torch.no_grad()
def visible_faces(
    points: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], cameras: Cameras, cull: bool
) -> Int[Tensor, "B H W"]:
    """The face that each pixel centre sees, int32, -1 for none.

    points: vertices in the cameras' own axes. cull: faces that look away from the camera are not drawn. Each
    tile of 16 x 16 pixels is compared with all faces whose bounding box overlaps it.
    """
    shape = (len(cameras), cameras.height, cameras.width)
    face_id = torch.full(shape, -1, dtype=torch.int32, device=points.device)
    if len(faces) == 0:
        return face_id
    front = facing(points, faces)
    for view in range(len(cameras)):
        corners = points[view][faces]
        drawn = corners.isfinite().all(-1).all(-1) & (corners[..., 2] >= cameras.near).any(-1)
        low, high = _boxes(corners, cameras, view)
        if cull:
            drawn = drawn & front[view]
        for top in range(0, cameras.height, _TILE):
            for left in range(0, cameras.width, _TILE):
                tile = torch.tensor([left, top], device=low.device)
                meets = drawn & (high >= tile).all(-1) & (low <= tile + _TILE).all(-1)
                chosen = torch.nonzero(meets).squeeze(-1)
                if len(chosen):
                    block = (slice(top, top + _TILE), slice(left, left + _TILE))
                    nearest = _nearest(corners[chosen], cameras, view, top, left)
                    face_id[view][block] = torch.where(nearest < 0, -1, chosen[nearest]).to(torch.int32)
    return face_id


def _boxes(corners: Tensor, cameras: Cameras, view: int) -> tuple[Float[Tensor, "F 2"], Float[Tensor, "F 2"]]:
    """Bounding boxes in pixels, infinite for faces with a corner nearer than the near plane."""
    intrinsics = cameras.intrinsics[view]
    z = corners[..., 2:]
    pixels = corners[..., :2] / z * intrinsics.diagonal()[:2] + intrinsics[:2, 2]
    behind = (z < cameras.near).any(1)
    low = torch.where(behind, -torch.inf, pixels.amin(1) - 1e-3)
    return low, torch.where(behind, torch.inf, pixels.amax(1) + 1e-3)


def _nearest(corners: Float[Tensor, "K 3 3"], cameras: Cameras, view: int, top: int, left: int) -> Tensor:
    """For each pixel of a tile, the index of the nearest of K faces, or -1."""
    rows = torch.arange(top, min(top + _TILE, cameras.height), device=corners.device)
    columns = torch.arange(left, min(left + _TILE, cameras.width), device=corners.device)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    weights = corner_weights(corners[:, None, None], cameras.intrinsics[view], row, column)
    z = corners[:, None, None, :, 2]
    total = weights.sum(-1)
    depth = (weights * z).sum(-1) / total
    hit: Bool[Tensor, "K h w"] = (weights >= 0).all(-1) | (weights <= 0).all(-1)
    hit = hit & (total != 0) & (depth >= cameras.near) & (depth <= cameras.far)
    least, index = torch.where(hit, depth, torch.inf).min(dim=0)
    return torch.where(least.isfinite(), index, -1)
