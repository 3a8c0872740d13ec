"""The colour that a surface point shows to a viewer in front of it.

For each vertex, the Gaussians around it are composited front to back along a ray, as a splatting renderer does
(3D Gaussian Splatting, Kerbl et al. 2023, eq. 3), and the result is divided by its opacity. The mean is taken
over three rays around the normal of the vertex, because a single ray shows the grain of single Gaussians.
Spherical harmonics are evaluated for a viewer on the normal, so that the colour does not depend on the view any
more.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from threedgen.core.spherical_harmonics import basis as sh_basis
from threedgen.export.density import MIN_ALPHA, Ellipsoids
from threedgen.export.silhouettes import MAX_ALPHA
from threedgen.kernels import load_native

_TILT = 40.0  # degrees


def surface_colors(
    shapes: Ellipsoids,
    vertices: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    reach: float,
) -> Float[np.ndarray, "V 3"]:
    """Display-referred RGB in [0, 1] for each vertex, as the colours of the Gaussians are.

    normals: unit, outward. reach: how far below a vertex Gaussians still count, in world units. What lies in
    front of the vertex, such as another limb of the asset, does not count. A vertex that no Gaussian reaches
    takes the colour of the nearest one.
    """
    basis = sh_basis(torch.from_numpy(-normals), math.isqrt(shapes.sh.shape[1]) - 1).numpy()
    light = light_numpy if load_native() is None else light_native
    colors, opacity = light(shapes, vertices, _tilted(normals), basis, reach)
    colors /= np.maximum(opacity, 1e-12)[:, None]
    lost = np.flatnonzero(opacity < MIN_ALPHA)
    if len(lost):
        from scipy.spatial import KDTree  # takes a while to import, and hardly any asset needs it

        _, nearest = KDTree(shapes.means).query(vertices[lost])
        shade = 0.5 + np.einsum("pk,pkc->pc", basis[lost], shapes.sh[nearest])
        colors[lost] = np.maximum(shade, 0.0)
    return np.clip(colors, 0.0, 1.0)


def light_native(
    shapes: Ellipsoids,
    vertices: Float[np.ndarray, "V 3"],
    directions: Float[np.ndarray, "R V 3"],
    basis: Float[np.ndarray, "V K"],
    reach: float,
) -> tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, " V"]]:
    """Colour and opacity of each vertex, summed over its rays, by the compiled kernel.

    directions: towards the eye. basis: spherical harmonics as each vertex is seen.
    """
    native: Any = load_native()
    colors, opacity = np.empty_like(vertices), np.empty(len(vertices))
    order, starts = _blocks(vertices, reach)
    cloud = (shapes.means, shapes.precisions, shapes.radii, shapes.extents(), shapes.opacities, shapes.sh)
    arrays = (np.ascontiguousarray(a) for a in (*cloud, vertices, directions, basis, order, starts))
    native.surface_light(*arrays, reach, MAX_ALPHA, torch.get_num_threads(), colors, opacity)
    return colors, opacity


def light_numpy(
    shapes: Ellipsoids,
    vertices: Float[np.ndarray, "V 3"],
    directions: Float[np.ndarray, "R V 3"],
    basis: Float[np.ndarray, "V K"],
    reach: float,
) -> tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, " V"]]:
    """The same without the compiled kernel."""
    colors, opacity = np.zeros_like(vertices), np.zeros(len(vertices))
    extents = shapes.extents()
    lower, upper = shapes.means - extents, shapes.means + extents
    order, starts = _blocks(vertices, reach)
    for rows in np.split(order, starts[1:]):
        low, high = vertices[rows].min(axis=0) - reach, vertices[rows].max(axis=0) + reach
        near = ((lower <= high) & (upper >= low)).all(axis=1)
        chosen = shapes.chosen(near)
        for towards_eye in directions:
            vertex, column, alpha = _met(chosen, vertices[rows], towards_eye[rows], reach)
            weight = alpha * _transmittance(vertex, alpha)
            shade = 0.5 + np.einsum("pk,pkc->pc", basis[rows[vertex]], chosen.sh[column])
            shade = np.maximum(shade, 0.0) * weight[:, None]
            for channel in range(3):
                colors[rows, channel] += np.bincount(vertex, shade[:, channel], minlength=len(rows))
            opacity[rows] += np.bincount(vertex, weight, minlength=len(rows))
    return colors, opacity


def _tilted(normals: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "3 V 3"]:
    """Three unit directions around each normal, _TILT degrees away from it and a third of a turn apart."""
    helper = np.where(np.abs(normals[:, :1]) < 0.7, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(normals, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(normals, first)
    along, across = math.cos(math.radians(_TILT)), math.sin(math.radians(_TILT))
    turns = (0.0, 2.0 * math.pi / 3.0, 4.0 * math.pi / 3.0)
    around = [math.cos(a) * first + math.sin(a) * second for a in turns]
    return np.stack([along * normals + across * sideways for sideways in around])


def _met(
    shapes: Ellipsoids, points: Float[np.ndarray, "V 3"], towards_eye: Float[np.ndarray, "V 3"], reach: float
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Pairs (point, Gaussian) met between each point and `reach` below it, front to back, and their alpha.

    With the precision P, d = p - mu and n towards the eye, the squared Mahalanobis distance along the ray p + t
    n is d'Pd + 2 t n'Pd + t^2 n'Pn: three products of small matrices for all pairs at once.
    """
    centre = points.mean(axis=0)  # the origin of what follows, to avoid differences of large numbers
    p, m, precisions = points - centre, shapes.means - centre, shapes.precisions
    six = precisions[:, (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)].T
    pull = np.einsum("gij,gj->gi", precisions, m)
    start = _symmetric(p, p) @ six - 2.0 * p @ pull.T + np.einsum("gi,gi->g", pull, m)
    slope = _symmetric(towards_eye, p) @ six - towards_eye @ pull.T
    bend = _symmetric(towards_eye, towards_eye) @ six
    peak = -slope / bend
    inside = np.clip(peak, -reach, 0.0)
    vertex, column = np.nonzero(start + inside * (2.0 * slope + inside * bend) <= shapes.radii**2)
    # How far the centre of each Gaussian lies towards the eye.
    height = towards_eye @ m.T - np.einsum("vi,vi->v", towards_eye, p)[:, None]
    order = np.lexsort((-height[vertex, column], vertex))
    vertex, column = vertex[order], column[order]
    least = np.maximum(start[vertex, column] + slope[vertex, column] * peak[vertex, column], 0.0)
    return vertex, column, np.minimum(shapes.opacities[column] * np.exp(-0.5 * least), MAX_ALPHA)


def _symmetric(a: Float[np.ndarray, "V 3"], b: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 6"]:
    """Rows whose product with the six entries xx, yy, zz, xy, xz, yz of a symmetric P is a'Pb."""
    cross = [a[:, i] * b[:, j] + a[:, j] * b[:, i] for i, j in ((0, 1), (0, 2), (1, 2))]
    return np.stack([*(a * b).T, *cross], axis=1)


def _transmittance(vertex: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The share of light that is left before each pair; pairs of one vertex are consecutive, front to back."""
    depth = -np.log1p(-alpha)
    if len(depth) == 0:
        return depth
    before = np.cumsum(depth) - depth
    first = np.flatnonzero(np.r_[True, vertex[1:] != vertex[:-1]])
    counts = np.diff(np.r_[first, len(vertex)])
    return np.exp(np.repeat(before[first], counts) - before)


def _blocks(
    vertices: Float[np.ndarray, "V 3"], cell: float
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, " B"]]:
    """Numbers of the vertices, ordered by the cube of side `cell` that they lie in, and where each cube starts."""
    cubes = np.floor((vertices - vertices.min(axis=0)) / cell).astype(np.int64)
    size = cubes.max(axis=0) + 1
    key = (cubes[:, 0] * size[1] + cubes[:, 1]) * size[2] + cubes[:, 2]
    order = np.argsort(key, kind="stable")
    return order, np.flatnonzero(np.diff(key[order], prepend=-1))
