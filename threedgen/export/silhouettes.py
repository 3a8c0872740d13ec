"""Parallel projections of a cloud, which show where its visible surface is.

A render shows something where 1 - prod_i (1 - a_i) reaches one half along a ray. How many Gaussians a ray meets
differs between a rod and a plate, seen flat or edge on, so no level of the density is right for all assets, or
for all places of one asset. Two steps therefore use the pictures:

- the level is chosen so that the silhouettes of {d > level} agree with those of the pictures;
- what lies outside the silhouette of a picture is carved away (the visual hull: Laurentini 1994).

The opacity of a parallel projection is 1 - exp(-tau) with tau = sum_i -log(1 - a_i), whatever the order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from threedgen.export.density import Ellipsoids, Grid
from threedgen.kernels import load_native

MAX_ALPHA = 0.999  # as in the renderers: keeps log(1 - a) finite
_HALF_OPAQUE = float(np.log(2.0))
_FAINT = 0.02  # share of _HALF_OPAQUE below which log tau is cut off

# A projection looks along the axis `hidden`, sheared: the coordinates of a pixel are the two other coordinates
# plus `shear` times the hidden one. On a cubic lattice, whole shears bring voxels exactly onto pixels. The
# lines of sight are the six face diagonals, the four body diagonals and the three axes.
_DIAGONAL = (
    *((1, shear) for shear in ((1, 0), (-1, 0))),
    *((2, shear) for shear in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))),
)
_ALONG_AXES = tuple((hidden, (0, 0)) for hidden in range(3))


@dataclass(frozen=True)
class Picture:
    """tau of one parallel projection, on the pixels that the voxels of its grid are projected to."""

    hidden: int
    shear: tuple[int, int]
    tau: Float[np.ndarray, "U V"]


def pictures(shapes: Ellipsoids, grid: Grid) -> list[Picture]:
    """Thirteen parallel projections of the Gaussians, with the spacing of `grid`."""
    optical_depth = optical_depth_numpy if load_native() is None else optical_depth_native
    return [
        Picture(hidden, shear, optical_depth(shapes, hidden, shear, grid))
        for hidden, shear in (*_DIAGONAL, *_ALONG_AXES)
    ]


def visible_level(views: list[Picture], grid: Grid) -> float | None:
    """The level of d whose silhouettes agree best with those of the pictures (mean intersection over union).

    A pixel belongs to the silhouette of a picture if its opacity exceeds one half. Views along the axes do not
    count, because objects are often aligned with the axes and a face seen edge on is the least typical view.
    None if no picture is opaque anywhere.
    """
    levels = np.geomspace(0.02, 4.0, 54)
    scores, votes = np.zeros(len(levels)), 0
    for view in views:
        seen = view.tau > _HALF_OPAQUE
        if view.shear == (0, 0) or not seen.any():
            continue
        votes += 1
        peaks = _peaks(grid.values, view)
        inside, outside = np.sort(peaks[seen]), np.sort(peaks[~seen])
        both = len(inside) - np.searchsorted(inside, levels, side="right")
        extra = len(outside) - np.searchsorted(outside, levels, side="right")
        scores += both / (len(inside) + extra)
    if votes == 0:
        return None
    # The score is flat near its maximum, so the centre of the plateau is steadier than the single best level.
    plateau = levels[scores >= scores.max() - 0.002 * votes]
    return float(np.exp(np.log(plateau).mean()))


def carve(field: Float[np.ndarray, "X Y Z"], views: list[Picture]) -> None:
    """Lowers `field` in place to log(tau / log 2) of every picture, taken at twice the spacing of the field.

    Afterwards the field is positive only where every picture is more than half opaque. It must be float32, and its
    sides odd.
    """
    carve_along = carve_numpy if load_native() is None else carve_native
    for axis in range(3):
        turned = np.ascontiguousarray(np.moveaxis(field, axis, 0))
        for view in views:
            if view.hidden == axis:
                limit = np.log(np.maximum(view.tau / _HALF_OPAQUE, _FAINT)).astype(np.float32)
                carve_along(turned, _doubled(_doubled(limit, 0), 1), view.shear)
        field[:] = np.moveaxis(turned, 0, axis)


def carve_native(
    field: Float[np.ndarray, "K U V"], limit: Float[np.ndarray, "P Q"], shear: tuple[int, int]
) -> None:
    """Lowers a float32 field, whose first axis is hidden, to the limit of the pixel that each voxel is seen in."""
    native: Any = load_native()
    native.carve(field, np.ascontiguousarray(limit), *shear, torch.get_num_threads())


def carve_numpy(
    field: Float[np.ndarray, "K U V"], limit: Float[np.ndarray, "P Q"], shear: tuple[int, int]
) -> None:
    """The same without the compiled kernel."""
    for slab, pixels in zip(field, _windows(field.shape, shear), strict=True):
        np.minimum(slab, limit[pixels], out=slab)


def enclosed(solid: Bool[np.ndarray, "X Y Z"], views: list[Picture]) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels that are invisible: from either end of every line of sight, something solid lies before them."""
    hide = hide_numpy if load_native() is None else hide_native
    hidden = np.ones_like(solid)
    for axis in range(3):
        turned = np.ascontiguousarray(np.moveaxis(solid, axis, 0))
        unseen = np.ones_like(turned)
        for view in views:
            if view.hidden == axis:
                hide(turned, unseen, view.shear)
        hidden &= np.moveaxis(unseen, 0, axis)
    return hidden


def hide_native(
    solid: Bool[np.ndarray, "K U V"], hidden: Bool[np.ndarray, "K U V"], shear: tuple[int, int]
) -> None:
    """Clears `hidden` in place where a voxel is visible from either end of its line of sight.

    The first axis of both is the hidden one.
    """
    native: Any = load_native()
    native.hide(solid.view(np.uint8), *shear, torch.get_num_threads(), hidden.view(np.uint8))


def hide_numpy(
    solid: Bool[np.ndarray, "K U V"], hidden: Bool[np.ndarray, "K U V"], shear: tuple[int, int]
) -> None:
    """The same without the compiled kernel."""
    windows = list(_windows(solid.shape, shear))
    size = tuple(max(pixels[axis].stop for pixels in windows) for axis in (0, 1))
    for sweep in (range(len(solid)), reversed(range(len(solid)))):
        blocked = np.zeros(size, dtype=bool)
        for k in sweep:
            blocked[windows[k]] |= solid[k]
            hidden[k] &= blocked[windows[k]]


def _peaks(values: Float[np.ndarray, "X Y Z"], view: Picture) -> Float[np.ndarray, "U V"]:
    """The largest value along the ray of each pixel."""
    image = np.zeros(view.tau.shape, dtype=values.dtype)
    turned = np.moveaxis(values, view.hidden, 0)
    for slab, pixels in zip(turned, _windows(turned.shape, view.shear), strict=True):
        np.maximum(image[pixels], slab, out=image[pixels])
    return image


def _windows(shape: tuple[int, ...], shear: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """The windows of the picture that the slabs of a volume [K, U, V], hidden axis first, are projected to."""
    for k in range(shape[0]):
        u, v = (t * k if t > 0 else t * (k - shape[0] + 1) for t in shear)
        yield slice(u, u + shape[1]), slice(v, v + shape[2])


def _doubled(image: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation to half the spacing: n samples become 2 n - 1."""
    image = np.moveaxis(image, axis, 0)
    fine = np.empty((2 * len(image) - 1, *image.shape[1:]), dtype=image.dtype)
    fine[::2] = image
    fine[1::2] = 0.5 * (image[:-1] + image[1:])
    return np.moveaxis(fine, 0, axis)


def optical_depth_native(
    shapes: Ellipsoids, hidden: int, shear: tuple[int, int], grid: Grid
) -> Float[np.ndarray, "U V"]:
    """tau of one projection, by the compiled kernel."""
    native: Any = load_native()
    shape = grid.values.shape
    sizes = (shape[axis] for axis in range(3) if axis != hidden)
    image = np.empty([n + abs(t) * (shape[hidden] - 1) for n, t in zip(sizes, shear, strict=True)])
    native.optical_depth(
        *(
            np.ascontiguousarray(a)
            for a in (shapes.means, shapes.covariances, shapes.radii, shapes.opacities)
        ),
        grid.origin,
        grid.spacing,
        np.array(shape),
        hidden,
        *shear,
        MAX_ALPHA,
        torch.get_num_threads(),
        image,
    )
    return image


def optical_depth_numpy(
    shapes: Ellipsoids, hidden: int, shear: tuple[int, int], grid: Grid
) -> Float[np.ndarray, "U V"]:
    """tau of one projection, without the compiled kernel."""
    plane = np.insert(np.eye(2), hidden, shear, axis=1)  # [2, 3], picture coordinates from world coordinates
    steps = np.asarray(grid.values.shape) - 1
    offset = -np.minimum(plane, 0.0) @ steps
    size = (np.abs(plane) @ steps).astype(np.int64) + 1
    covariances = plane @ shapes.covariances @ plane.T / grid.spacing**2
    centres = (shapes.means - grid.origin) @ plane.T / grid.spacing + offset
    extents = shapes.radii[:, None] * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    low = np.maximum(np.ceil(centres - extents).astype(np.int64), 0)
    high = np.minimum(np.floor(centres + extents).astype(np.int64) + 1, size)
    widths = np.maximum(high - low, 0)
    counts = widths[:, 0] * widths[:, 1]
    p = np.linalg.inv(covariances)
    # One column for each Gaussian with all that its pixels need, so that it is gathered once.
    rows = np.stack([*centres.T, -0.5 * p[:, 0, 0], -p[:, 0, 1], -0.5 * p[:, 1, 1], np.log(shapes.opacities)])
    image = np.zeros(size[0] * size[1])
    # Pairs (Gaussian, pixel) are made chunk by chunk, so that memory stays bounded for large Gaussians.
    chunk = np.cumsum(counts) // 300_000
    for group in np.split(np.arange(len(shapes)), np.flatnonzero(np.diff(chunk)) + 1):
        total = int(counts[group].sum())
        owner = np.repeat(group, counts[group])
        rank = np.arange(total) - np.repeat(np.cumsum(counts[group]) - counts[group], counts[group])
        down, right = np.divmod(rank, widths[owner, 1])
        u, v = low[owner, 0] + down, low[owner, 1] + right
        cu, cv, uu, uv, vv, log_opacity = rows[:, owner]
        du, dv = u - cu, v - cv
        alpha = np.exp(uu * du * du + uv * du * dv + vv * dv * dv + log_opacity)
        depth = -np.log1p(-np.minimum(alpha, MAX_ALPHA))
        image += np.bincount(u * size[1] + v, weights=depth, minlength=len(image))
    return image.reshape(size)
