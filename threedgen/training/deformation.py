"""Things in other shapes than their own: proportions, a lean, and profiles that swell and shrink along their height
and depth.

The objects of the catalogue are few, and a model learns them by heart: on others it then errs twice as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from threedgen.core.types import TriMesh

_AS_IT_IS = 0.2  # share of the things that keep their shape
_STRAIGHT = 0.25  # of the others, the share whose profiles are straight
_STRETCH = 0.25  # standard deviation of the logarithm of the factor along each axis
_LEAN = 0.15  # and of the tangent of the angle by which they lean to the front or the back
_SWELL = 0.25  # and of the first wave of a profile; those of further waves fall with their number
_WAVES = 3
_CLIMB = 0.2  # most by which a wave of the heights changes their order of size

Points = Float[Tensor, "N 3"]


@dataclass(frozen=True)
class Warp:
    """x, y and z in units of `radius`, with factors of x and z that depend on the height y, factors of x and y that
    depend on the depth z, a bend to the front or the back, and heights that are pressed together or drawn apart.

    Each of the waves [5, _WAVES] is one such profile. What is level stays level, and the left stays the mirror
    image of the right.
    """

    waves: Float[Tensor, "5 K"]
    radius: float

    def __call__(self, points: Points) -> Points:
        x, y, z = (points / self.radius).unbind(-1)
        wide, deep, bend, climb, along = (self._profile(wave) for wave in self.waves)
        widths, depths = torch.exp(wide(y) + along(z)), torch.exp(deep(y))
        moved = torch.stack([x * widths, y + climb(y), z * depths + bend(y)], dim=-1)
        return self.radius * moved

    @staticmethod
    def _profile(wave: Float[Tensor, " K"]) -> Callable[[Tensor], Tensor]:
        """at [-1, 1] -> sum_k wave_k cos(k pi (at + 1) / 2 ) without its mean."""

        def value(at: Tensor) -> Tensor:
            phase = 0.5 * torch.pi * (at + 1.0)
            return sum((w * torch.cos((k + 1) * phase) for k, w in enumerate(wave)), torch.zeros_like(at))

        return value


def drawn_warp(radius: float, rng: np.random.Generator) -> Warp:
    """A random warp of things of a radius."""
    falling = 1.0 / np.arange(1, _WAVES + 1) ** 1.5
    waves = rng.normal(0.0, _SWELL, (5, _WAVES)) * falling
    # y + climb(y) must rise: the slopes of its waves are k pi / 2 times their heights.
    waves[3] = rng.uniform(-_CLIMB, _CLIMB, _WAVES) * falling / np.arange(1, _WAVES + 1) ** 0.5
    waves[[2, 4]] *= 0.5  # few things bend
    return Warp(torch.from_numpy(waves).float(), radius)


def deformed(mesh: TriMesh, rng: np.random.Generator) -> TriMesh:
    """A mesh in another shape, of the same radius about the origin: factors along the axes, a lean to the front or
    the back, and mostly a random `Warp`. The left stays the mirror image of the right."""
    keeps, straight = rng.random() < _AS_IT_IS, rng.random() < _STRAIGHT
    factors, lean = rng.normal(0.0, _STRETCH, 3), rng.normal(0.0, _LEAN)
    radius = float(mesh.vertices.norm(dim=1).max())
    warp = drawn_warp(radius, rng)
    if keeps:
        return mesh
    shape = torch.diag(torch.from_numpy(np.exp(factors))).float()
    shape[2, 1] = float(lean) * shape[1, 1]

    def moved(points: Points) -> Points:
        return (points if straight else warp(points)) @ shape.T

    vertices = moved(mesh.vertices)
    vertices = vertices * (radius / float(vertices.norm(dim=1).max()))
    normals = None if mesh.normals is None else _turned(moved, mesh.vertices, mesh.normals)
    return replace(mesh, vertices=vertices, normals=normals)


def _turned(moved: Callable[[Points], Points], points: Points, normals: Points) -> Points:
    """The normals of a surface after its points moved: by the inverse transpose of the derivative."""
    axes = torch.eye(3).expand(len(points), 3, 3)
    columns = [torch.func.jvp(moved, (points,), (axes[:, i].contiguous(),))[1] for i in range(3)]
    derivative = torch.stack(columns, dim=-1)
    # Its cofactors are the inverse transpose times the determinant, which is positive and may be small.
    rows = derivative.unbind(-2)
    cofactors = torch.stack(
        [torch.linalg.cross(rows[(i + 1) % 3], rows[(i + 2) % 3]) for i in range(3)], dim=-2
    )
    return normalize((cofactors @ normals[..., None])[..., 0], dim=-1)
