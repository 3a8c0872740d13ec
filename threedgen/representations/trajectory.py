"""How a whole asset goes, turns and grows: a similarity for each moment, shared by all points.

A motion is a trajectory of the whole and what is left for each point (TC4D, Bahmani et al. 2024, section 3). Score
distillation finds the few numbers of the first in a few hundred steps, where a field of displacements alone bends
an asset long before it turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.representations.transforms import (
    matrix_from_quat,
    quat_from_vector,
    quat_multiply,
    vector_from_quat,
)


@dataclass(frozen=True)
class Config:
    """degree: of the polynomials in time, terms: of the Fourier series added to them, see `series`; 0 and 0: no
    trajectory. learning_rate: of its Adam, in radians, world units and e-folds a step."""

    degree: int = 0
    terms: int = 0
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        for name in ("degree", "terms"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"representation.trajectory.{name} is {getattr(self, name)}; it must not be negative"
                )
        if not 0.0 < self.learning_rate < math.inf:
            raise UserError(
                f"representation.trajectory.learning_rate is {self.learning_rate}; it must be positive"
            )

    @property
    def moves(self) -> bool:
        """Whether there is a trajectory at all."""
        return self.degree + self.terms > 0


def series(times: Float[Tensor, " T"], degree: int, terms: int) -> Float[Tensor, "T D+2L"]:
    """time^k for k from 1 on, then (cos(2 pi l time) - 1) / l and sin(2 pi l time) / l for l from 1 on: all are 0
    at time 0, and fast waves need large coefficients."""
    powers = [times**k for k in range(1, degree + 1)]
    waves = []
    for order in range(1, terms + 1):
        angle = 2.0 * torch.pi * order * times
        waves += [(angle.cos() - 1.0) / order, angle.sin() / order]
    return torch.stack([*powers, *waves], dim=1)


# Unit quaternions, shifts in world units and logarithms of scales, one a moment.
Similarity = tuple[Float[Tensor, "T 4"], Float[Tensor, "T 3"], Float[Tensor, " T"]]


class Trajectory(nn.Module):
    """x -> scale R (x - pivot) + pivot + shift at each moment; nothing at time 0, and at the start of a run."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._degree, self._terms = config.degree, config.terms
        self.coefficients = nn.Parameter(torch.zeros(config.degree + 2 * config.terms, 7))

    def forward(
        self, times: Float[Tensor, " T"]
    ) -> tuple[Float[Tensor, "T 4"], Float[Tensor, "T 3"], Float[Tensor, " T"]]:
        """Unit quaternions of R, shifts in world units, logarithms of the scales."""
        turn, shift, growth = (series(times, self._degree, self._terms) @ self.coefficients).split(
            [3, 3, 1], 1
        )
        return quat_from_vector(turn), shift, growth[:, 0]


class CarriedField(nn.Module):
    """A field of each point's own motion, carried along by a trajectory about the points' mean place.

    Answers what the fields of `deformation` do, [T, N, 9]: displacements, turns (the shortest way round) and
    logarithms of sizes. turns, sizes: whether `own` answers them as well.
    """

    def __init__(self, config: Config, own: nn.Module, turns: bool, sizes: bool) -> None:
        super().__init__()
        self.own, self.trajectory = own, Trajectory(config)
        self._turns, self._sizes = turns, sizes

    def forward(self, points: Float[Tensor, "N 3"], times: Float[Tensor, " T"]) -> Float[Tensor, "T N 9"]:
        return self.carry(points, self.own(points, times), self.trajectory(times))

    def undone(
        self, points: Float[Tensor, "N 3"], moved: Float[Tensor, "T N 3"], times: Float[Tensor, " T"]
    ) -> Float[Tensor, "T N 3"]:
        """Where `own` alone would bring the points that are at `moved`: what the trajectory did is taken back."""
        quats, shift, growth = self.trajectory(times)
        pivot = points.mean(0)
        back = (moved - pivot - shift[:, None]) @ matrix_from_quat(quats)
        return (-growth).exp()[:, None, None] * back + pivot

    def carry(
        self, points: Float[Tensor, "N 3"], own: Float[Tensor, "T N K"], whole: Similarity
    ) -> Float[Tensor, "T N 9"]:
        """What a field says when a similarity a moment, about the points' mean place, carries it along."""
        quats, shift, growth = whole
        matrix = growth.exp()[:, None, None] * matrix_from_quat(quats)
        # As a difference of maps and not of places: exactly 0 where the similarity is the identity.
        change = matrix - torch.eye(3).to(matrix)
        around = (points - points.mean(0)) @ change.transpose(1, 2)
        displacement = around + own[..., :3] @ matrix.transpose(1, 2) + shift[:, None]
        turn = quats[:, None].expand(-1, len(points), -1)
        if self._turns:
            turn = quat_multiply(turn, quat_from_vector(own[..., 3:6]))
        size = growth[:, None, None].expand_as(displacement)
        if self._sizes:
            size = size + own[..., -3:]
        return torch.cat([displacement, vector_from_quat(turn), size], dim=2)
