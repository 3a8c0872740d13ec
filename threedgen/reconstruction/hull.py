"""Where the outlines of all views allow an object to be (visual hull, Laurentini 1994), along the rays of each.

A network that is told so need not learn what follows from geometry alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.types import Cameras
from threedgen.reconstruction.rays import pixel_rays

DEPTH = 1.2
"""World units before and behind the origin in which objects are."""
SAMPLES = 32
"""Points of a ray."""
_WHITE = 0.04  # of a channel, the largest difference to white of a background


@torch.no_grad()
def visual_hull(
    pictures: Float[Tensor, "B V 3 H W"], cameras: Cameras, size: int
) -> Float[Tensor, "B V 3 size size"]:
    """Of the pixels of pictures of `size` pixels: where a ray enters the hull and where it leaves it, relative to
    the depth of the origin and divided by DEPTH, and 1; all zero for a ray that misses it.

    pictures: in [-1, 1] on white, each of the whole object. cameras: B V of them, those of an object one after the
    other.
    """
    count, views = pictures.shape[:2]
    masks = foreground(pictures.flatten(0, 1)).float()
    small = F.adaptive_avg_pool2d(masks[:, None], size)[:, 0].flatten(1) >= 0.5
    origins, directions, _ = pixel_rays(cameras, size)
    middle = (torch.arange(SAMPLES, device=pictures.device) + 0.5) / SAMPLES
    offsets = DEPTH * (2.0 * middle - 1.0)
    found = pictures.new_zeros(count * views, size * size, 3)
    for one in range(count):  # only the rays that see something, which are other ones in each object
        own = torch.arange(one * views, (one + 1) * views, device=pictures.device)
        view, ray = small[own].nonzero(as_tuple=True)
        view = own[view]
        away = origins.norm(dim=1)[view, None] + offsets
        points = origins[view, None] + directions[view, ray][:, None] * away[..., None]
        inside = torch.ones(points.shape[:2], dtype=torch.bool, device=pictures.device)
        for other in own.tolist():
            inside &= _seen_inside(points, cameras[other : other + 1], masks[other])
        first = inside.to(torch.uint8).argmax(1)
        last = SAMPLES - 1 - inside.flip(1).to(torch.uint8).argmax(1)
        ends = torch.stack([2.0 * first / SAMPLES - 1.0, 2.0 * (last + 1) / SAMPLES - 1.0], dim=1)
        hit = inside.any(1, keepdim=True).to(pictures)
        found[view, ray] = torch.cat([ends * hit, hit], dim=1)
    return found.transpose(1, 2).unflatten(2, (size, size)).unflatten(0, (count, views))


def foreground(pictures: Float[Tensor, "N 3 H W"]) -> Bool[Tensor, "N H W"]:
    """What is not background: pixels that are not white, and white ones that such pixels enclose. pictures: in
    [-1, 1] on white."""
    from scipy.ndimage import binary_fill_holes

    colored = (0.5 - 0.5 * pictures).amax(1) > _WHITE
    filled = [torch.from_numpy(binary_fill_holes(one.numpy())) for one in colored.cpu()]
    return torch.stack(filled).to(pictures.device)


def _seen_inside(
    points: Float[Tensor, "R S 3"], camera: Cameras, mask: Float[Tensor, "H W"]
) -> Bool[Tensor, "R S"]:
    """Whether a view shows points on the object, all of which is in the picture."""
    pose, intrinsics = camera.world_from_camera[0], camera.intrinsics[0]
    # No matrix products, which autocast would make in half precision.
    x, y, depth = (((points - pose[:3, 3]) * pose[:3, axis]).sum(2) for axis in range(3))
    before = depth > 1e-3
    depth = depth.clamp_min(1e-3)
    column = ((x / depth * intrinsics[0, 0] + intrinsics[0, 2]) / camera.width * mask.shape[1]).floor()
    row = ((y / depth * intrinsics[1, 1] + intrinsics[1, 2]) / camera.height * mask.shape[0]).floor()
    height, width = mask.shape
    shown = before & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    return (mask.flatten()[place] >= 0.5) & shown
