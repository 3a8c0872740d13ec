"""3D consistency: whether neighbouring views show the same surface in the same colours.

Each view is compared with its nearest neighbour. The points that it shows, placed by its depth, are looked up
in the picture of the neighbour wherever the depth of the neighbour agrees that it sees them, too
(docs/methods.md, "Consistency of views"). The measure is how much the colour of a point changes between the two
views. Even views of one model change it by resampling and by highlights, so a value is to be compared with that
of true pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.core.pictures import psnr
from threedgen.core.types import Cameras, RenderOutput

SOLID = 0.95  # a pixel with a larger alpha shows a surface and nothing behind it
TOLERANCE = 0.01  # share of the distance of a point: depths that differ by more belong to two surfaces
FEWEST = 16  # a pair of views that share fewer points is left out


@dataclass(frozen=True)
class Consistency:
    """The agreement of views, over the points that a view and its neighbour both see.

    psnr: in dB, mean over views, at most 100. error: mean absolute difference of the colours, in [0, 1]. share: the
    share of the solid pixels that could be compared.
    """

    psnr: float
    error: float
    share: float


@torch.no_grad()
def consistency(output: RenderOutput, cameras: Cameras) -> Consistency | None:
    """The consistency of views with depth (the sum of weight x z, as in RenderOutput).

    None without depth, with fewer than two views, and if no two neighbours share FEWEST points.
    """
    if output.depth is None or len(cameras) < 2:
        return None
    decibels, errors, compared, solid = [], [], 0, 0
    depth = output.depth / output.alpha.clamp_min(1e-6)
    firm = _shrunk(output.alpha[..., 0] > SOLID)
    for view, other in neighbours(cameras):
        place, z = _seen_from(depth[view], cameras, view, other)
        there, agreed = _looked_up(output.rgb[other], depth[other], firm[other], place, z)
        both = firm[view] & agreed
        solid += int(firm[view].sum())
        if int(both.sum()) < FEWEST:
            continue
        mine, theirs = output.rgb[view][both].clamp(0.0, 1.0), there[both]
        compared += int(both.sum())
        decibels.append(float(psnr(mine[None, None], theirs[None, None])))
        errors.append(float((mine - theirs).abs().mean()))
    if not compared:
        return None
    return Consistency(sum(decibels) / len(decibels), sum(errors) / len(errors), compared / solid)


def neighbours(cameras: Cameras) -> Iterator[tuple[int, int]]:
    """Pairs of each view and the other view whose camera is nearest."""
    distance = torch.cdist(cameras.centers.double()[None], cameras.centers.double()[None])[0]
    distance.fill_diagonal_(math.inf)
    yield from enumerate(distance.argmin(dim=1).tolist())


def _shrunk(mask: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B H W"]:
    """The mask without the pixels beside its edge, whose depth is an average over the edge."""
    return -F.max_pool2d(-mask[:, None].float(), 3, 1, 1)[:, 0] > 0.5


def _seen_from(
    depth: Float[Tensor, "H W 1"], cameras: Cameras, view: int, other: int
) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, "H W"]]:
    """Where the points of the pixels of `view` are in the picture of `other`, in pixels, and their z there."""
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
    """Colours of a picture at `place`, and whether the surface there is firm and at the distance z.

    1 / z is interpolated, because that of a plane is linear on the screen.
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
