"""Trajectories: how a whole asset moves, turns and grows, as a similarity for each moment, shared by all points.

A motion is a trajectory of the whole and a displacement of each point beside it (TC4D, Bahmani et al. 2024, section
3). Score distillation finds the few numbers of the trajectory in a few hundred steps, while a field of
displacements alone bends an asset long before it turns.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core.settings import above, at_least, settings
from threedgen.core.transforms import (
    matrix_from_quat,
    quat_from_vector,
    quat_multiply,
    vector_from_quat,
)


@settings
class Config:
    """The trajectory of the whole asset; there is none if degree and terms are both 0.

    Attributes:
        degree: Degree of the polynomials in time.
        terms: Number of frequencies of the Fourier series that are added to the polynomials.
        learning_rate (per step): Learning rate of Adam, in radians for the rotation, world units for the shift and
            units of the natural logarithm for the size.
    """

    degree: Annotated[int, at_least(0)] = 0
    terms: Annotated[int, at_least(0)] = 0
    learning_rate: Annotated[float, above(0.0)] = 0.02

    @property
    def moves(self) -> bool:
        """Whether there is a trajectory at all."""
        return self.degree + self.terms > 0


def series(times: Float[Tensor, " T"], degree: int, terms: int) -> Float[Tensor, "T D+2L"]:
    """time^k for k = 1 to D = degree, then (cos(2 pi l time) - 1) / l and sin(2 pi l time) / l for l = 1 to
    L = terms. All are 0 at time 0, and high frequencies need large coefficients."""
    powers = [times**k for k in range(1, degree + 1)]
    waves = []
    for order in range(1, terms + 1):
        angle = 2.0 * torch.pi * order * times
        waves += [(angle.cos() - 1.0) / order, angle.sin() / order]
    return torch.stack([*powers, *waves], dim=1)


# Unit quaternions, shifts in world units and natural logarithms of scales, one of each per moment.
Similarity = tuple[Float[Tensor, "T 4"], Float[Tensor, "T 3"], Float[Tensor, " T"]]


class Trajectory(nn.Module):
    """x -> scale R (x - pivot) + pivot + shift at each moment: the identity at time 0 and when a run starts."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._degree, self._terms = config.degree, config.terms
        self.coefficients = nn.Parameter(torch.zeros(config.degree + 2 * config.terms, 7))

    def forward(self, times: Float[Tensor, " T"]) -> Similarity:
        """Unit quaternions of R, shifts in world units, natural logarithms of the scales."""
        turn, shift, growth = (series(times, self._degree, self._terms) @ self.coefficients).split(
            [3, 3, 1], 1
        )
        return quat_from_vector(turn), shift, growth[:, 0]


class CarriedField(nn.Module):
    """A deformation field that is carried along by a trajectory about the mean position of the points.

    Returns what the fields of `deformation` do, [T, N, 9]: displacements, rotations (the shortest way round) and
    logarithms of sizes. turns, sizes: whether `own` returns rotations and sizes as well.
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
        """Where `own` alone would move the points that are at `moved`: the trajectory is undone."""
        quats, shift, growth = self.trajectory(times)
        pivot = points.mean(0)
        back = (moved - pivot - shift[:, None]) @ matrix_from_quat(quats)
        return (-growth).exp()[:, None, None] * back + pivot

    def carry(
        self, points: Float[Tensor, "N 3"], own: Float[Tensor, "T N K"], whole: Similarity
    ) -> Float[Tensor, "T N 9"]:
        """The outputs `own` of a field, carried along by one similarity per moment about the mean of the points."""
        quats, shift, growth = whole
        matrix = growth.exp()[:, None, None] * matrix_from_quat(quats)
        # As a difference of maps and not of positions: it is exactly 0 if the similarity is the identity.
        change = matrix - torch.eye(3, dtype=matrix.dtype, device=matrix.device)
        around = (points - points.mean(0)) @ change.transpose(1, 2)
        displacement = around + own[..., :3] @ matrix.transpose(1, 2) + shift[:, None]
        turn = quats[:, None]  # one for all points, unless they turn by themselves as well
        if self._turns:
            turn = quat_multiply(turn, quat_from_vector(own[..., 3:6]))
        turned = vector_from_quat(turn).expand_as(displacement)
        size = growth[:, None, None].expand_as(displacement)
        if self._sizes:
            size = size + own[..., -3:]
        return torch.cat([displacement, turned, size], dim=2)
