"""How points move: displacements as a function of where a point rests and of time, none at time 0.

Each field answers [T, N, K] for N points and T times and starts as no motion at all (its last layer is zero). K is
3, a displacement in world units; where the config asks for them, 3 for a turn (a rotation vector: its axis times
its angle in radians) and 3 for the logarithms of what sizes are multiplied by come after it.
Networks are multiplied by xi(time) = time^0.35, which makes them vanish at time 0 (Align Your Gaussians, Ling et
al. 2024, section 3; METHODS 7); the terms of a series vanish there by themselves. xi has no finite slope at 0: a
time within SOONEST of it counts as 0.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.errors import UserError

RISE = 0.35
SOONEST = 1e-3


def rise(time: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """xi(time) = time^0.35, exactly 0 below SOONEST."""
    return torch.where(time < SOONEST, 0.0, time.clamp_min(SOONEST) ** RISE)


@dataclass(frozen=True)
class Config:
    """kind: mlp (a network of the place and the time), hexplane (six planes of features, one a pair of the axes x,
    y, z and time, multiplied; Cao and Johnson 2023), or fourier (a polynomial and a Fourier series for each point).

    width, depth: of the network. bands: octaves of its encoding of places and times. resolution: texels a side of
    hexplane's planes, moments: along time, channels: their features, extent: they cover [-extent, extent]^3.
    degree: of fourier's polynomial, terms: of its series. turns, sizes: whether Gaussians turn and grow as they go
    along, each with three more outputs of the field.
    """

    kind: Literal["mlp", "hexplane", "fourier"] = "mlp"
    width: int = 64
    depth: int = 3
    bands: int = 3
    resolution: int = 32
    moments: int = 12
    channels: int = 16
    extent: float = 1.2
    degree: int = 2
    terms: int = 3
    turns: bool = False
    sizes: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "depth", "resolution", "moments", "channels", "extent"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(
                    f"representation.deformation.{name} is {getattr(self, name)}; it must be positive"
                )
        for name in ("bands", "degree", "terms"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"representation.deformation.{name} is {getattr(self, name)}; it must not be negative"
                )
        if self.kind == "fourier" and not self.degree + self.terms:
            raise UserError("representation.deformation: degree and terms are 0 together: nothing could move")

    @property
    def outputs(self) -> int:
        """K: of a field, for each point."""
        return 3 * (1 + self.turns + self.sizes)


class MlpField(nn.Module):
    """A network of the encoded place and time."""

    def __init__(self, config: Config, points: int) -> None:
        super().__init__()
        self._bands = config.bands
        inputs = 4 * (1 + 2 * config.bands)
        widths = [inputs, *[config.width] * config.depth]
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.hidden = nn.Sequential(*layers)
        self.out = _silent(config.width, config.outputs)

    def forward(self, points: Float[Tensor, "N 3"], times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        where = _encoded(points, self._bands)
        when = _encoded(2.0 * times[:, None] - 1.0, self._bands)
        shape = (len(times), len(points))
        both = torch.cat([where.expand(*shape, -1), when[:, None].expand(*shape, when.shape[1])], dim=2)
        return self.out(self.hidden(both)) * rise(times)[:, None, None]


class HexPlaneField(nn.Module):
    """Six planes of features, multiplied, and a small network. The planes with time begin at 1: what is learnt of
    places is felt at all times alike."""

    _PAIRS = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))

    def __init__(self, config: Config, points: int) -> None:
        super().__init__()
        self._extent = config.extent
        space, time = config.resolution, config.moments
        self.planes = nn.ParameterList(
            [
                nn.Parameter(
                    torch.ones(1, config.channels, time, space)
                    if second == 3
                    else torch.empty(1, config.channels, space, space).uniform_(0.1, 0.5)
                )
                for _, second in self._PAIRS
            ]
        )
        self.hidden = nn.Sequential(nn.Linear(config.channels, config.width), nn.SiLU())
        self.out = _silent(config.width, config.outputs)

    def forward(self, points: Float[Tensor, "N 3"], times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        shape = (len(times), len(points))
        where = (points / self._extent).expand(*shape, 3)
        when = (2.0 * times - 1.0)[:, None, None].expand(*shape, 1)
        place = torch.cat([where, when], dim=2).reshape(1, -1, 1, 4)
        features = torch.ones(())
        for plane, pair in zip(self.planes, self._PAIRS, strict=True):
            found = F.grid_sample(plane, place[..., list(pair)], padding_mode="border", align_corners=True)
            features = features * found[0, :, :, 0].T
        moved = self.out(self.hidden(features)).reshape(*shape, -1)
        return moved * rise(times)[:, None, None]


class FourierField(nn.Module):
    """sum_k a_k time^k + sum_l b_l (cos(2 pi l time) - 1) + c_l sin(2 pi l time) for each point by itself."""

    def __init__(self, config: Config, points: int) -> None:
        super().__init__()
        self._degree, self._terms = config.degree, config.terms
        self.coefficients = nn.Parameter(
            torch.zeros(config.degree + 2 * config.terms, points, config.outputs)
        )

    def forward(self, points: Float[Tensor, "N 3"], times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        if len(points) != self.coefficients.shape[1]:
            raise ValueError(f"{len(points)} points, coefficients of {self.coefficients.shape[1]}")
        powers = [times**k for k in range(1, self._degree + 1)]
        angles = [2.0 * torch.pi * order * times for order in range(1, self._terms + 1)]
        waves = [wave for angle in angles for wave in (angle.cos() - 1.0, angle.sin())]
        basis = torch.stack([*powers, *waves], dim=1)
        return torch.einsum("tb,bnk->tnk", basis, self.coefficients)


_KINDS = {"mlp": MlpField, "hexplane": HexPlaneField, "fourier": FourierField}


def make_field(config: Config, points: int) -> nn.Module:
    """The field of a config for so many points; its weights come from torch's own stream."""
    return _KINDS[config.kind](config, points)


def _encoded(values: Float[Tensor, "N D"], bands: int) -> Float[Tensor, "N E"]:
    """The values, and sin and cos of pi 2^k times them (NeRF, Mildenhall et al. 2020)."""
    angles = [torch.pi * 2.0**k * values for k in range(bands)]
    return torch.cat([values, *(part for angle in angles for part in (angle.sin(), angle.cos()))], dim=1)


def _silent(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
