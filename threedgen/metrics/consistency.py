"""3D consistency: do neighbouring views show one and the same surface in the same colours? (METHODS 11.4)

Each view is compared with its nearest neighbour: the points that it shows, placed by its depth, are looked up in
the neighbour's picture where the neighbour's own depth says that it sees them, too. What is left is how much the
colour of a point changes from view to view. Views of one model keep it, but for resampling, and but for what
shines: so compare with the value of true pictures, not with infinity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.core.types import Cameras, RenderOutput

SOLID = 0.95  # alpha of a pixel that shows a surface and nothing behind it
TOLERANCE = 0.01  # of a point's distance: depths that differ by more are of two surfaces
FEWEST = 16  # points that two views must share to count


@dataclass(frozen=True)
class Consistency:
    """psnr: dB, over the points that a view and its neighbour both see, mean over views; at most 100. error: mean
    absolute difference of their colours, in [0, 1]. share: of the solid pixels, those that could be compared."""

    psnr: float
    error: float
    share: float


@torch.no_grad()
def consistency(output: RenderOutput, cameras: Cameras) -> Consistency | None:
    """Of pictures that come with depth, RenderOutput's: the sum of weight x z. None without depth, with fewer than
    two views, and where no two neighbours share FEWEST points."""
    if output.depth is None or len(cameras) < 2:
        return None
    squares, errors, compared, solid = [], [], 0, 0
    depth = output.depth / output.alpha.clamp_min(1e-6)
    firm = _shrunk(output.alpha[..., 0] > SOLID)
    for view, other in neighbours(cameras):
        place, z = _seen_from(depth[view], cameras, view, other)
        there, agreed = _looked_up(output.rgb[other], depth[other], firm[other], place, z)
        both = firm[view] & agreed
        solid += int(firm[view].sum())
        if int(both.sum()) < FEWEST:
            continue
        difference = output.rgb[view][both].clamp(0.0, 1.0) - there[both]
        compared += int(both.sum())
        squares.append(float(difference.square().mean()))
        errors.append(float(difference.abs().mean()))
    if not compared:
        return None
    psnr = [-10.0 * math.log10(max(square, 1e-10)) for square in squares]
    return Consistency(sum(psnr) / len(psnr), sum(errors) / len(errors), compared / solid)


def neighbours(cameras: Cameras) -> Iterator[tuple[int, int]]:
    """Each view with the other one whose camera is nearest."""
    distance = torch.cdist(cameras.centers.double()[None], cameras.centers.double()[None])[0]
    distance.fill_diagonal_(math.inf)
    yield from enumerate(distance.argmin(dim=1).tolist())


def _shrunk(mask: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B H W"]:
    """Without the pixels beside the edge: their depth is an average over the edge."""
    return -F.max_pool2d(-mask[:, None].float(), 3, 1, 1)[:, 0] > 0.5


def _seen_from(
    depth: Float[Tensor, "H W 1"], cameras: Cameras, view: int, other: int
) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, "H W"]]:
    """Where the points of a view's pixels are in another's picture, in pixels, and how far along its z axis."""
    height, width = depth.shape[:2]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=depth.device) + 0.5,
        torch.arange(width, device=depth.device) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1)
    points = pixels @ torch.linalg.inv(cameras.intrinsics[view]).T * depth
    pose = cameras.camera_from_world[other] @ cameras.world_from_camera[view]
    points = points @ pose[:3, :3].T + pose[:3, 3]
    z = points[..., 2]
    image = points @ cameras.intrinsics[other].T
    return image[..., :2] / z.clamp_min(cameras.near)[..., None], z


def _looked_up(
    rgb: Float[Tensor, "H W 3"],
    depth: Float[Tensor, "H W 1"],
    firm: Bool[Tensor, "H W"],
    place: Float[Tensor, "h w 2"],
    z: Float[Tensor, "h w"],
) -> tuple[Float[Tensor, "h w 3"], Bool[Tensor, "h w"]]:
    """Colours of a picture at places in it, and whether the surface there is firm and as far away as z.

    1 / z of a plane is linear on the screen, so it is what is interpolated.
    """
    height, width = depth.shape[:2]
    size = place.new_tensor([width, height])
    grid = (2.0 * place / size - 1.0)[None]
    inverse = 1.0 / depth.clamp_min(1e-6)
    values = torch.cat([rgb.clamp(0.0, 1.0), inverse, firm[..., None].to(rgb)], dim=-1).permute(2, 0, 1)[None]
    found = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    found = found[0].permute(1, 2, 0)
    distance = 1.0 / found[..., 3].clamp_min(1e-6)
    agreed = (z > 0.0) & (found[..., 4] > 1.0 - 1e-4) & ((distance - z).abs() < TOLERANCE * z)
    return found[..., :3], agreed
