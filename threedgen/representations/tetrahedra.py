"""A signed distance on a deformable tetrahedral lattice, whose zero level is a mesh (DMTet, Shen et al. 2021)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.schedule import Schedule
from threedgen.core.settings import above, between, settings
from threedgen.core.transfer import Number
from threedgen.core.types import Primitive, RadianceField, RenderOutput, TriMesh
from threedgen.loop.regularizers import weigh
from threedgen.representations.base import Representation, RowOptimizer
from threedgen.representations.marching_tetrahedra import interpolate_crossings, lattice, march
from threedgen.representations.signed_distance import distance_and_color, inside_mesh

EXTENT = 1.0  # half the side of the lattice in world units: the object lies in the unit sphere
_BISECTIONS = 6  # they find a crossing to a 64th of a cell
_BLOCK = 65536  # points at which a field is evaluated at once


@settings
class LearningRates:
    """Initial learning rates of Adam for each group of parameters, tuned for runs of a few hundred steps.

    Attributes:
        distance (world units per step): Rate of the signed distances.
        deformation: Rate of the arguments of the tanh that moves the lattice points.
        colors (per step): Rate of the colours, which are display-referred in [0, 1].
    """

    distance: float = 0.04
    deformation: float = 0.01
    colors: float = 0.04


@settings
class Terms:
    """The weight of each term of the loss on the lattice, a number or a schedule; 0 leaves the term out.

    Attributes:
        sign_entropy: Weight of the term that keeps the number of changes of sign low, and with it floating pieces
            and inner walls (Munkberg et al. 2022).
    """

    sign_entropy: Schedule = 0.0


@settings
class Config:
    """A signed distance on a lattice; the object is meant to fill the unit sphere.

    Attributes:
        resolution (cells): Number of cells along each side of the lattice, which covers the cube [-1, 1]^3.
        radius (world units): Radius of the sphere at the start, if no earlier stage makes the start.
        smoothing: Share of the way to the mean of its six neighbours by which each step moves every distance.
        level (per world unit): Density at the surface of a field that an earlier stage made; null is the density of
            which one cell stops half of the light, or less if the field has no surface there.
        learning_rates: Initial learning rate of each group of parameters.
        regularizers: Weights of the terms of the loss on the lattice itself.
    """

    resolution: Annotated[int, between(8, 256)] = 48
    radius: Annotated[float, between(0.0, EXTENT, open_low=True, open_high=True)] = 0.6
    smoothing: Annotated[float, between(0.0, 1.0, open_high=True)] = 0.02
    level: Annotated[float | None, above(0.0)] = None
    learning_rates: LearningRates = field(default_factory=LearningRates)
    regularizers: Terms = field(default_factory=Terms)


class Tetrahedra(Representation):
    """A lattice of N = (resolution + 1)^3 points, z running fastest.

    Parameters: distance [N], in world units, negative inside; deformation [N, 3], whose tanh times a quarter of a
    cell moves each point; colors [N, 3]. Points on the border of the lattice count as outside, so the mesh is
    always closed.
    """

    Config = Config
    renderer = "mesh"
    starts_from = (RadianceField, TriMesh)

    points: Float[Tensor, "N 3"]
    border: Bool[Tensor, " N"]

    def __init__(self, config: Config, seed: int = 0) -> None:
        """A mid-grey sphere. Nothing is drawn from `seed`."""
        super().__init__()
        self.config = config
        self._side = config.resolution + 1
        self._cell = 2.0 * EXTENT / config.resolution
        points = lattice(config.resolution, EXTENT)
        border = torch.ones((self._side,) * 3, dtype=torch.bool)
        border[1:-1, 1:-1, 1:-1] = False
        # Both follow from the configuration, so they are not saved.
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("border", border.flatten(), persistent=False)
        self.distance = nn.Parameter(torch.linalg.vector_norm(points, dim=1) - config.radius)
        self.deformation = nn.Parameter(torch.zeros_like(points))
        self.colors = nn.Parameter(torch.full_like(points, 0.5))

    @classmethod
    def from_asset(cls, config: Config, seed: int, asset: Primitive) -> Self:
        """Starts from the level set of the field of an earlier stage, or from its closed mesh, with its colours.

        config.radius is not used; what lies outside [-1, 1]^3 is lost. Raises UserError for another kind of asset,
        or for one that encloses nothing.
        """
        scene = cls(config)
        rng = generator(seed, "tetrahedra", 0)
        if isinstance(asset, RadianceField):
            inside, mesh = scene._level_set(asset)
        elif isinstance(asset, TriMesh):
            mesh = asset
            inside = inside_mesh(asset, torch.linspace(-EXTENT, EXTENT, scene._side))
        else:
            raise UserError(f"tetrahedra cannot start from a {type(asset).__name__}: use a field or a mesh")
        if not inside[1:-1, 1:-1, 1:-1].any():
            raise UserError(
                "the asset to start from encloses nothing: its mesh must be closed and lie in the unit sphere"
            )
        distance, colors = distance_and_color(mesh, scene.points, rng)
        with torch.no_grad():
            scene.distance.copy_(torch.where(inside.flatten(), -distance, distance))
            scene.colors.copy_(colors.clamp(0.0, 1.0))
        return scene

    def at(self, time: Float[Tensor, " B"] | None = None) -> TriMesh:
        """The zero level as a closed mesh with vertex colours, differentiable; it has no faces if all of the
        lattice is outside. `time` is ignored because nothing moves.
        """
        distance = self._closed()
        crossings = march((distance.detach() < 0).view((self._side,) * 3))
        places = self.points + 0.25 * self._cell * torch.tanh(self.deformation)
        values = interpolate_crossings(crossings, distance, torch.cat([places, self.colors], dim=1))
        return TriMesh(values[:, :3], crossings.faces, vertex_colors=values[:, 3:])

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group per parameter, under its name."""
        return {name: [parameter] for name, parameter in self.named_parameters()}

    def learning_rates(self) -> Mapping[str, float]:
        """The initial learning rate of each group."""
        return dataclasses.asdict(self.config.learning_rates)

    def penalty(
        self, primitive: TriMesh, step: int, total: int
    ) -> tuple[Float[Tensor, ""] | float, Mapping[str, Number]]:
        """The weighted terms of `Terms`."""
        grid = self._closed().view((self._side,) * 3) / self._cell
        return weigh({"sign_entropy": sign_entropy}, self.config.regularizers, grid, step, total)

    @torch.no_grad()
    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: RowOptimizer, seed: int
    ) -> dict[str, float]:
        """Smooths the distance, keeps colours in [0, 1], and restores a surface that has vanished.

        The new surface is a ball of one and a half cells around the point whose distance is least: without any
        surface there would be no gradient. Logs 1 as `reseeded` if that happened.
        """
        self.colors.clamp_(0.0, 1.0)
        if self.config.smoothing > 0.0:
            grid = self.distance.view((1, 1) + (self._side,) * 3)
            padded = torch.nn.functional.pad(grid, (1,) * 6, mode="replicate")
            neighbours = [
                padded.narrow(axis, start, self._side)[inner]
                for axis, inner in _ACROSS.items()
                for start in (0, 2)
            ]
            mean = torch.stack(neighbours).mean(0)
            self.distance.lerp_(mean.flatten(), self.config.smoothing)
        interior = torch.where(self.border, torch.inf, self.distance)
        if bool((interior < 0).any()):
            return {}
        centre = self.points[interior.argmin()]
        ball = torch.linalg.vector_norm(self.points - centre, dim=1) - 1.5 * self._cell
        self.distance.copy_(torch.minimum(self.distance, ball))
        optimizer.zero_moments(self.distance)
        return {"reseeded": 1.0}

    def _closed(self) -> Float[Tensor, " N"]:
        return torch.where(self.border, self.distance.clamp(min=1e-3 * self._cell), self.distance)

    @torch.no_grad()
    def _level_set(self, asset: RadianceField) -> tuple[Bool[Tensor, "S S S"], TriMesh]:
        """The lattice points at which a field is dense, and the surface around them in the colours of the field."""
        within = (self.points >= asset.bounds[0]).all(1) & (self.points <= asset.bounds[1]).all(1)
        density = torch.zeros(len(self.points))
        for rows in torch.nonzero(within & ~self.border).squeeze(1).split(_BLOCK):
            points = self.points[rows]
            density[rows] = asset.query(points, _inwards(points))[0].reshape(-1).float()
        level = self.config.level or math.log(2.0) / self._cell
        while self.config.level is None and not (density > level).any() and level > 1e-3:
            level *= 0.5
        inside = (density > level).view((self._side,) * 3)
        if not inside.any():
            raise UserError(
                "the field to start from is too thin to have a surface: lower the level of the representation"
            )
        crossings = march(inside)
        solid, empty = (self.points[ends] for ends in _ordered(crossings.ends, inside.flatten()))
        for _ in range(_BISECTIONS):  # they find a crossing even if the density is not linear along the edge
            middle = 0.5 * (solid + empty)
            found = [asset.query(p, _inwards(p))[0].reshape(-1) for p in middle.split(_BLOCK)]
            dense = (torch.cat(found) > level)[:, None]
            solid, empty = torch.where(dense, middle, solid), torch.where(dense, empty, middle)
        vertices = 0.5 * (solid + empty)
        colors = [asset.query(p, _inwards(p))[1].reshape(-1, 3).float() for p in vertices.split(_BLOCK)]
        return inside, TriMesh(vertices, crossings.faces, vertex_colors=torch.cat(colors))


def sign_entropy(grid: Float[Tensor, "S S S"]) -> Float[Tensor, ""]:
    """Mean over lattice edges that change sign of BCE(sigma(s_a), s_b > 0) + BCE(sigma(s_b), s_a > 0).

    grid: signed distances in cells. The regulariser of Munkberg et al. 2022 (equation 2) keeps the number of
    changes of sign low, and with it floating pieces and inner walls. Zero if no edge changes sign.
    """
    last = grid.shape[0] - 1
    pairs = [
        torch.stack([grid.narrow(axis, 0, last), grid.narrow(axis, 1, last)]).flatten(1) for axis in range(3)
    ]
    ends = torch.cat(pairs, dim=1)
    ends = ends[:, (ends[0] < 0) != (ends[1] < 0)]
    if ends.shape[1] == 0:
        return ends.sum()
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return 2.0 * loss(ends, (ends.flip(0) > 0).to(ends))


_ALL, _MIDDLE = slice(None), slice(1, -1)
# For each axis of [1, 1, S, S, S] padded by one: slices that cut the other two axes back to their size.
_ACROSS = {
    2: (_ALL, _ALL, _ALL, _MIDDLE, _MIDDLE),
    3: (_ALL, _ALL, _MIDDLE, _ALL, _MIDDLE),
    4: (_ALL, _ALL, _MIDDLE, _MIDDLE, _ALL),
}


def _ordered(ends: Int[Tensor, "E 2"], inside: Bool[Tensor, " N"]) -> tuple[Tensor, Tensor]:
    """The inner and the outer end of each cut edge."""
    low, high = ends.unbind(1)
    return torch.where(inside[low], low, high), torch.where(inside[low], high, low)


def _inwards(points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """The directions of rays from outside towards the origin through each point."""
    return -torch.nn.functional.normalize(points, dim=1)
