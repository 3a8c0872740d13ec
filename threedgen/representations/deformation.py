"""Deformation fields: displacements as a function of the position of a point at rest and of time, zero at time 0.

Each field returns [T, N, K] for N points and T times, and is zero at the start of a run because its last layer is.
K is 3, a displacement in world units. If the config asks for them, it is followed by 3 numbers for a rotation (a
rotation vector: axis times angle in radians) and 3 for the logarithms of the factors of the sizes.
Networks are multiplied by xi(time) = time^0.35, so that they vanish at time 0 (Align Your Gaussians, Ling et al.
2024, section 3); the terms of a series vanish there anyway. The slope of xi at 0 is not finite, so a time below
SOONEST counts as 0.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.settings import above, at_least, settings

RISE = 0.35
SOONEST = 1e-3


def rise(time: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """xi(time) = time^0.35, exactly 0 below SOONEST."""
    return torch.where(time < SOONEST, 0.0, time.clamp_min(SOONEST) ** RISE)


@settings
class Config:
    """The field of displacements.

    Attributes:
        kind: mlp is a network of position and time; hexplane is a network of six planes of features, one for each
            pair of the axes x, y, z and time, multiplied (Cao and Johnson 2023); fourier is a polynomial and a
            Fourier series for each point.
        width: Number of units of each hidden layer of the network of mlp or hexplane.
        depth: Number of hidden layers of the network of mlp.
        bands: Number of octaves with which mlp encodes positions and times.
        resolution (texels): Length of the sides of the planes of hexplane along x, y and z.
        moments (texels): Length of the sides of the planes of hexplane along time.
        channels: Number of features of each plane of hexplane.
        extent (world units): The planes of hexplane cover the cube [-extent, extent]^3.
        degree: Degree of the polynomial of fourier.
        terms: Number of frequencies of the series of fourier.
        turns: Whether Gaussians also rotate, which takes three more outputs of the field.
        sizes: Whether Gaussians also change their size, which takes three more outputs of the field.
    """

    kind: Literal["mlp", "hexplane", "fourier"] = "mlp"
    width: Annotated[int, at_least(1)] = 64
    depth: Annotated[int, at_least(1)] = 3
    bands: Annotated[int, at_least(0)] = 3
    resolution: Annotated[int, at_least(1)] = 32
    moments: Annotated[int, at_least(1)] = 12
    channels: Annotated[int, at_least(1)] = 16
    extent: Annotated[float, above(0.0)] = 1.2
    degree: Annotated[int, at_least(0)] = 2
    terms: Annotated[int, at_least(0)] = 3
    turns: bool = False
    sizes: bool = False

    def __post_init__(self) -> None:
        if self.kind == "fourier" and not self.degree + self.terms:
            raise UserError(
                "degree and terms are both 0, so that nothing could move: set one of them to 1 or more"
            )

    @property
    def outputs(self) -> int:
        """The number K of outputs of a field for each point."""
        return 3 * (1 + self.turns + self.sizes)


class MlpField(nn.Module):
    """A network of the encoded position and time."""

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
        # The first layer of place and time is the sum of one of places and one of times.
        first: Any = self.hidden[0]
        of_place, of_time = first.weight.split((where.shape[1], when.shape[1]), dim=1)
        both = F.linear(where, of_place, first.bias) + F.linear(when, of_time)[:, None]
        return self.out(self.hidden[1:](both)) * rise(times)[:, None, None]


class HexPlaneField(nn.Module):
    """Six planes of features, multiplied, and a small network. The planes along time begin at 1, so that what the
    planes of positions learn applies to all times alike."""

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
    """sum_k a_k time^k + sum_l b_l (cos(2 pi l time) - 1) + c_l sin(2 pi l time), a series for each point."""

    def __init__(self, config: Config, points: int) -> None:
        super().__init__()
        self._degree, self._terms = config.degree, config.terms
        self.coefficients = nn.Parameter(
            torch.zeros(config.degree + 2 * config.terms, points, config.outputs)
        )

    def forward(self, points: Float[Tensor, "N 3"], times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        if len(points) != self.coefficients.shape[1]:
            raise ValueError(
                f"the series are of {self.coefficients.shape[1]} points, {len(points)} were given"
            )
        powers = [times**k for k in range(1, self._degree + 1)]
        angles = [2.0 * torch.pi * order * times for order in range(1, self._terms + 1)]
        waves = [wave for angle in angles for wave in (angle.cos() - 1.0, angle.sin())]
        basis = torch.stack([*powers, *waves], dim=1)
        return torch.einsum("tb,bnk->tnk", basis, self.coefficients)


_KINDS = {"mlp": MlpField, "hexplane": HexPlaneField, "fourier": FourierField}


def make_field(config: Config, points: int) -> nn.Module:
    """The field of a config for a number of points; its weights are drawn from torch's global generator."""
    return _KINDS[config.kind](config, points)


def _encoded(values: Float[Tensor, "N D"], bands: int) -> Float[Tensor, "N E"]:
    """The values, and sin and cos of pi 2^k times them (NeRF, Mildenhall et al. 2020)."""
    angles = [torch.pi * 2.0**k * values for k in range(bands)]
    return torch.cat([values, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))], dim=1)


def _silent(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
