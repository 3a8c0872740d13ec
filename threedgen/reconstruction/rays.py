"""The rays of the pixels of cameras."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.types import Cameras


def pixel_rays(
    cameras: Cameras, size: int
) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B P 3"], Float[Tensor, " B"]]:
    """Of each camera with square pictures of `size` pixels: its place, the vectors to the centres of its pixels (of
    depth 1), row by row, and the width of a pixel at depth 1."""
    scaled = cameras.resized(size, size)
    at = torch.arange(size, device=scaled.intrinsics.device) + 0.5
    y, x = torch.meshgrid(at, at, indexing="ij")
    focal_x, focal_y = scaled.intrinsics[:, 0, 0], scaled.intrinsics[:, 1, 1]
    center_x, center_y = scaled.intrinsics[:, 0, 2], scaled.intrinsics[:, 1, 2]
    local = torch.stack(
        [
            (x.flatten()[None] - center_x[:, None]) / focal_x[:, None],
            (y.flatten()[None] - center_y[:, None]) / focal_y[:, None],
            torch.ones(len(scaled), size * size, device=at.device),
        ],
        dim=2,
    )
    pose = scaled.world_from_camera
    # No matrix product, which autocast would make in half precision.
    directions = (local[:, :, None] * pose[:, None, :3, :3]).sum(3)
    return pose[:, :3, 3], directions, 1.0 / focal_y


def pluecker(cameras: Cameras, size: int) -> Float[Tensor, "B 6 size size"]:
    """The Pluecker coordinates of the rays of pictures of `size` pixels: direction, and origin x direction."""
    origins, directions, _ = pixel_rays(cameras, size)
    unit = F.normalize(directions, dim=2)
    moments = torch.linalg.cross(origins[:, None].expand_as(unit), unit, dim=2)
    return torch.cat([unit, moments], dim=2).transpose(1, 2).unflatten(2, (size, size))
