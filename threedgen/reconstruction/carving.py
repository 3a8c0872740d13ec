"""A closed mesh of what the outlines of all views allow an object to be (space carving, Laurentini 1994)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras, TriMesh
from threedgen.export.mesh import MeshConfig, zero_level

HALF = 1.2
"""World units from the origin to each side of the cube that is carved; objects lie inside it."""
_MARGIN = 2  # empty voxels at the sides, where a mesh closes
CLEANING = MeshConfig(floaters=0.02, smoothing=0)
"""Of surfaces here: crumbs are dropped, and nothing is smoothed, because the fields are smooth."""


@torch.no_grad()
def carved(alpha: Float[Tensor, "V H W"], cameras: Cameras, voxel: float) -> TriMesh:
    """The hull of outlines, closed and oriented outwards, without colours, on the CPU.

    The field is the signed distance to the outline in the picture, in world units at the depth of the point, and
    the least of all views: so the surface lies between the pixels and the voxels instead of on them. alpha:
    coverages in [0, 1], each of the whole object. voxel: world units. Raises UserError for an outline that is
    empty, and for outlines that no object can have.
    """
    side = lattice_side(voxel)
    field = torch.full((len(side),) * 3, torch.inf)
    points = torch.cartesian_prod(side, side, side)
    for view in range(len(cameras)):
        camera = cameras[view : view + 1].resized(*alpha.shape[1:]).to("cpu", torch.float32)
        distance = _outline_distance(alpha[view].cpu(), view)
        matrix = camera.camera_from_world[0]
        inside = points @ matrix[:3, :3].T + matrix[:3, 3]
        depth = inside[:, 2].clamp_min(camera.near)
        pixel = (inside @ camera.intrinsics[0].T)[:, :2] / depth[:, None]
        height, width = distance.shape
        # The distances have a pixel more on each side than the picture.
        grid = 2.0 * (pixel + 1.0) / pixel.new_tensor([width, height]) - 1.0
        pixels = F.grid_sample(
            distance[None, None], grid[None, None], padding_mode="border", align_corners=False
        )[0, 0, 0]
        world = pixels * depth / camera.intrinsics[0, 0, 0]
        field = torch.minimum(field, torch.where(inside[:, 2] > camera.near, world, -HALF).view_as(field))
    found = surface_of(field, side)
    if found is None:
        raise UserError(
            "no object has these outlines together: check that the pictures and the cameras belong together, or "
            "take a smaller voxel"
        )
    return found


def lattice_side(voxel: float) -> Float[Tensor, " S"]:
    """The coordinates of the lattice of a carving along each axis, `voxel` world units apart."""
    half = int(np.ceil(HALF / voxel)) + _MARGIN
    return voxel * torch.arange(-half, half + 1, dtype=torch.float32)


def surface_of(field: Float[Tensor, "S S S"], side: Float[Tensor, " S"]) -> TriMesh | None:
    """The closed surface around the positive values of a lattice over side x side x side; None without any."""
    step, corner = float(side[1] - side[0]), np.full(3, float(side[0]))
    found = zero_level(field.double().numpy().copy(), corner, step, CLEANING)
    if found is None or not len(found[1]):
        return None
    return TriMesh(torch.from_numpy(found[0]).float(), torch.from_numpy(found[1]))


def _outline_distance(alpha: Float[Tensor, "H W"], view: int) -> Float[Tensor, "h w"]:
    """Pixels from each pixel to the outline, positive inside it, with a border of one pixel around the picture."""
    from scipy.ndimage import distance_transform_edt

    mask = np.pad(alpha.numpy() >= 0.5, 1)
    if not mask.any():
        raise UserError(
            f"view {view + 1} shows no object, so nothing can be carved: leave that view out, or draw it again"
        )
    distance = np.asarray(distance_transform_edt(mask)) - np.asarray(distance_transform_edt(~mask))
    distance = np.where(mask, distance - 0.5, distance + 0.5)
    # Where a pixel is covered in part, the outline runs through it.
    share = np.pad(alpha.numpy(), 1)
    partial = (share > 0.02) & (share < 0.98)
    return torch.from_numpy(np.where(partial, share - 0.5, distance)).float()
