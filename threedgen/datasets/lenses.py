"""Lenses that bend straight lines: pictures are resampled to what a pinhole camera would have seen.

A lens is a function from where a pinhole would show a point to where the lens shows it, both in units of the focal
length from the principal point. The models of OpenCV come from kornia; `threedgen.datasets.colmap` has the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError

Lens = Callable[[Float[Tensor, "N 2"]], Float[Tensor, "N 2"]]

_ZOOMS = 1.01 ** torch.arange(200.0, -140.0, -1.0)  # from 7.3 times the focal length to a quarter of it
_ON_AN_EDGE = 64  # points of the edge of a picture that are followed through the lens


def opencv(coefficients: Sequence[float]) -> Lens:
    """OpenCV's lens with k1, k2, p1, p2, k3, k4, k5, k6."""
    return partial(_opencv, torch.tensor(coefficients, dtype=torch.float64))


def fisheye(coefficients: Sequence[float]) -> Lens:
    """OpenCV's fisheye with k1, k2, k3, k4 (Kannala and Brandt 2006)."""
    return partial(_fisheye, torch.tensor([1.0, 1.0, 0.0, 0.0, *coefficients], dtype=torch.float64))


def _opencv(coefficients: Tensor, points: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"]:
    from kornia.geometry import distort_points

    return distort_points(points, torch.eye(3, dtype=points.dtype), coefficients.to(points))


def _fisheye(coefficients: Tensor, points: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"]:
    from kornia.geometry.camera import distort_points_kannala_brandt

    # At the principal point itself the formula divides by zero.
    safe = torch.where(points.norm(dim=1, keepdim=True) < 1e-9, points + 1e-9, points)
    return distort_points_kannala_brandt(safe, coefficients.to(points))


def straightened(
    picture: Float[Tensor, "H W C"],
    intrinsics: Float[Tensor, "3 3"],
    lens: Lens,
    depths: Float[Tensor, "H W"] | None = None,
) -> tuple[Float[Tensor, "H W C"], Float[Tensor, "3 3"], Float[Tensor, "H W"] | None]:
    """A picture of the same size as a pinhole would have taken it, the intrinsics of that pinhole in pixels, and
    the depths of its pixels, if those of the picture are given.

    Colours are interpolated, depths are those of the nearest pixel: they are distances along the optical axis,
    which stays. The focal length of the pinhole is the shortest with which every pixel was seen by the lens; the
    principal point stays. Raises UserError if there is none, because the coefficients describe no lens.
    """
    height, width = picture.shape[:2]
    size = torch.tensor([width, height], dtype=torch.float64)
    straight = _pinhole(intrinsics.double(), size, lens)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    pixels = torch.stack([columns, rows], dim=-1).reshape(-1, 2) + 0.5
    seen = _through(pixels, straight, intrinsics.double(), lens)
    grid = (2.0 * seen / size - 1.0).to(picture).reshape(1, height, width, 2)
    found = _sampled(picture, grid, "bilinear")
    if depths is not None:
        depths = _sampled(depths[..., None], grid, "nearest")[..., 0]
    return found, straight.to(intrinsics), depths


def _sampled(
    picture: Float[Tensor, "H W C"], grid: Float[Tensor, "1 H W 2"], mode: str
) -> Float[Tensor, "H W C"]:
    planes = picture.permute(2, 0, 1)[None]
    found = F.grid_sample(planes, grid, mode, padding_mode="border", align_corners=False)
    return found[0].permute(1, 2, 0)


def _pinhole(intrinsics: Float[Tensor, "3 3"], size: Float[Tensor, " 2"], lens: Lens) -> Float[Tensor, "3 3"]:
    """The intrinsics with the shortest focal length whose picture lies within that of the lens."""
    share = torch.linspace(0.0, 1.0, _ON_AN_EDGE, dtype=torch.float64)
    across = [torch.stack([share, torch.full_like(share, end)], dim=1) for end in (0.0, 1.0)]
    edge = torch.cat([*across, *(points.flip(1) for points in across)]) * size
    center = intrinsics[:2, 2]
    best, reach = None, torch.zeros(len(edge), dtype=torch.float64)
    for zoom in _ZOOMS:
        straight = intrinsics.clone()
        straight[:2, :2] *= zoom
        seen = _through(edge, straight, intrinsics, lens)
        further = (seen - center).norm(dim=1)
        # Beyond its range a polynomial of a lens turns back, and shows what lies outside as if it were inside.
        if not bool(((seen >= 0.0) & (seen <= size)).all() and (further >= reach).all()):
            break
        best, reach = straight, further
    if best is None:
        raise UserError("the distortion coefficients of its lens do not describe one: leave the picture out")
    return best


def _through(
    pixels: Float[Tensor, "N 2"], straight: Float[Tensor, "3 3"], intrinsics: Float[Tensor, "3 3"], lens: Lens
) -> Float[Tensor, "N 2"]:
    """Where the lens shows what a pinhole shows at these pixels."""
    focal = torch.stack([intrinsics[0, 0], intrinsics[1, 1]])
    pinhole = torch.stack([straight[0, 0], straight[1, 1]])
    center = intrinsics[:2, 2]
    return lens((pixels - center) / pinhole) * focal + center
