"""Marching tetrahedra on a cubic lattice: the zero level of a signed distance as a closed, oriented mesh.

Every lattice cube is cut into six tetrahedra along its main diagonal (Kuhn), the same way in all cubes, so
that faces of neighbours match. A vertex lies where an edge's linear interpolation is zero,
v = (v_a s_b - v_b s_a) / (s_b - s_a) (Shen et al. 2021, "Deep Marching Tetrahedra", equation 3), and is
differentiable in distances and positions; which edges are cut is not.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.transfer import constant, sent


@dataclass(frozen=True)
class Crossings:
    """Where a surface cuts a lattice.

    ends: [E, 2], the two lattice points of each cut edge, one inside and one outside, the lower index first. faces:
    [F, 3], triangles of cut edges, counter-clockwise seen from outside.
    """

    ends: Int[Tensor, "E 2"]
    faces: Int[Tensor, "F 3"]


def lattice(resolution: int, extent: float) -> Float[Tensor, "N 3"]:
    """Points of a cubic lattice of `resolution` cells per side over [-extent, extent]^3, z running fastest."""
    side = torch.linspace(-extent, extent, resolution + 1)
    return torch.cartesian_prod(side, side, side)


@torch.no_grad()
def march(inside: Bool[Tensor, "S S S"]) -> Crossings:
    """The lattice edges that the surface of `inside` cuts, and the faces between the cuts."""
    side = inside.shape[0]
    corners = [inside[x : side - 1 + x, y : side - 1 + y, z : side - 1 + z] for x, y, z in _CUBE]
    stacked = torch.stack(corners)
    cubes = torch.nonzero(stacked.any(0) & ~stacked.all(0))
    first = (cubes[:, 0] * side + cubes[:, 1]) * side + cubes[:, 2]
    tetrahedra, table, counts = _tables(inside.device)
    strides = constant([side * side, side, 1], tetrahedra)
    points = (first[:, None, None] + tetrahedra @ strides).flatten(0, 1)  # [6K, 4]
    code = (inside.flatten()[points] * constant([1, 2, 4, 8], tetrahedra)).sum(1)
    used = torch.arange(2, device=inside.device) < counts[code][:, None]
    cut = table[code][used]  # [F, 3, 2] local points
    owner = torch.repeat_interleave(torch.arange(len(points), device=inside.device), counts[code])
    ends = points[owner[:, None, None], cut]
    keys = ends.amin(-1) * inside.numel() + ends.amax(-1)
    unique, faces = torch.unique(keys, return_inverse=True)
    return Crossings(torch.stack([unique // inside.numel(), unique % inside.numel()], dim=1), faces)


def interpolate_crossings(
    crossings: Crossings, distance: Float[Tensor, " N"], values: Float[Tensor, "N C"]
) -> Float[Tensor, "E C"]:
    """The values at the point of each cut edge at which the distance is zero."""
    low, high = crossings.ends.unbind(1)
    at_low, at_high = distance.index_select(0, low), distance.index_select(0, high)
    along = (at_low / (at_low - at_high))[:, None]
    return torch.lerp(values.index_select(0, low), values.index_select(0, high), along)


_CUBE = tuple(itertools.product((0, 1), repeat=3))


def _even(order: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(order, 2)) % 2 == 0


@functools.cache
def _tables(device: torch.device) -> tuple[Int[Tensor, "6 4 3"], Int[Tensor, "16 2 3 2"], Int[Tensor, " 16"]]:
    """Six positively oriented tetrahedra of a cube; for each pattern of inside points the triangles, each corner
    as the two points of an edge; and the number of these triangles. Once for each device."""
    tetrahedra = []
    for axes in itertools.permutations(range(3)):
        path = [[int(axis in axes[:count]) for axis in range(3)] for count in range(4)]
        tetrahedra.append(path if _even(axes) else [path[0], path[1], path[3], path[2]])
    table, counts = torch.zeros(16, 2, 3, 2, dtype=torch.int64), torch.zeros(16, dtype=torch.int64)
    for code in range(1, 15):
        within = [i for i in range(4) if code >> i & 1]
        beyond = [i for i in range(4) if not code >> i & 1]
        order = within + beyond
        if not _even(tuple(order)):  # an even order has the positive orientation of (0, 1, 2, 3)
            swapped = slice(0, 2) if len(within) == 3 else slice(2, 4)
            order[swapped] = order[swapped][::-1]
        a, b, c, d = order
        if len(within) == 1:
            triangles = [[(a, b), (a, c), (a, d)]]
        elif len(within) == 3:
            triangles = [[(a, d), (b, d), (c, d)]]
        else:
            triangles = [[(a, c), (a, d), (b, d)], [(a, c), (b, d), (b, c)]]
        counts[code] = len(triangles)
        table[code, : len(triangles)] = torch.tensor(triangles)
    return sent(torch.tensor(tetrahedra), device), sent(table, device), sent(counts, device)
