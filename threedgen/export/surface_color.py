"""The colour a surface point shows to somebody straight in front of it.

For each vertex, the Gaussians around it are composited front to back along the vertex normal, exactly as a
splatting renderer would along that ray (3D Gaussian splatting, Kerbl et al. 2023, eq. 3), and the result is
divided by its opacity. Spherical harmonics are evaluated for that direction of sight, so the colour is one
per vertex and no longer depends on the view.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float

from threedgen.export.density import MIN_ALPHA, Ellipsoids
from threedgen.export.silhouettes import MAX_ALPHA
from threedgen.representations.spherical_harmonics import basis as sh_basis


def surface_colors(
    shapes: Ellipsoids,
    vertices: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    cell: float,
) -> Float[np.ndarray, "V 3"]:
    """RGB in [0, 1] (display-referred, like the Gaussians' own colours) for each vertex.

    normals: unit, outward. cell: edge of the cubes in which vertices are handled together; any size gives
    the same colours. A vertex that no Gaussian reaches takes the colour of the nearest one.
    """
    from scipy.spatial import KDTree

    colors = np.zeros_like(vertices)
    basis = sh_basis(torch.from_numpy(-normals), math.isqrt(shapes.sh.shape[1]) - 1).numpy()
    extents, precisions, radii = shapes.extents(), shapes.precisions, shapes.radii
    lower, upper = shapes.means - extents, shapes.means + extents
    unreached = []
    for rows in _blocks(vertices, cell):
        points, outward = vertices[rows], normals[rows]
        near = np.flatnonzero(((lower <= points.max(axis=0)) & (upper >= points.min(axis=0))).all(axis=1))
        offsets = points[:, None, :] - shapes.means[None, near]
        weighted = np.einsum("vgi,gij->vgj", offsets, precisions[near])
        distance = np.einsum("vgi,vgi->vg", weighted, offsets)
        vertex, column = np.nonzero(distance <= radii[near] ** 2)
        if len(vertex):
            gaussian, sight = near[column], outward[vertex]
            # The peak of the Gaussian along the ray p + t n: minimise its Mahalanobis distance over t.
            slope = np.einsum("pi,pi->p", weighted[vertex, column], sight)
            bend = np.einsum("pi,pij,pj->p", sight, precisions[gaussian], sight)
            nearest = np.maximum(distance[vertex, column] - slope**2 / bend, 0.0)
            alpha = np.minimum(shapes.opacities[gaussian] * np.exp(-0.5 * nearest), MAX_ALPHA)
            height = -np.einsum("pi,pi->p", offsets[vertex, column], sight)  # of the centre, towards the eye
            order = np.lexsort((-height, vertex))
            vertex, gaussian, alpha = vertex[order], gaussian[order], alpha[order]
            weight = alpha * _transmittance(vertex, alpha)
            shade = 0.5 + np.einsum("pk,pkc->pc", basis[rows[vertex]], shapes.sh[gaussian])
            shade = np.maximum(shade, 0.0) * weight[:, None]
            total = np.bincount(vertex, weights=weight, minlength=len(rows))
            for channel in range(3):
                colors[rows, channel] = np.bincount(vertex, weights=shade[:, channel], minlength=len(rows))
            colors[rows] /= np.maximum(total, 1e-12)[:, None]
            unreached.append(rows[total < MIN_ALPHA])
        else:
            unreached.append(rows)
    lost = np.concatenate(unreached)
    if len(lost):
        _, nearest = KDTree(shapes.means).query(vertices[lost])
        shade = 0.5 + np.einsum("pk,pkc->pc", basis[lost], shapes.sh[nearest])
        colors[lost] = np.maximum(shade, 0.0)
    return np.clip(colors, 0.0, 1.0)


def _transmittance(vertex: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Light left before each pair; pairs of one vertex are consecutive, front to back."""
    depth = -np.log1p(-alpha)
    before = np.cumsum(depth) - depth
    first = np.flatnonzero(np.r_[True, vertex[1:] != vertex[:-1]])
    counts = np.diff(np.r_[first, len(vertex)])
    return np.exp(np.repeat(before[first], counts) - before)


def _blocks(vertices: Float[np.ndarray, "V 3"], cell: float) -> list[np.ndarray]:
    """Vertex rows grouped by the cube they lie in."""
    cubes = np.floor((vertices - vertices.min(axis=0)) / cell).astype(np.int64)
    size = cubes.max(axis=0) + 1
    key = (cubes[:, 0] * size[1] + cubes[:, 1]) * size[2] + cubes[:, 2]
    order = np.argsort(key, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(key[order])) + 1)
