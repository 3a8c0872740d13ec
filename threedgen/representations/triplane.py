"""A radiance field of three feature planes and a small decoder (EG3D, Chan et al. 2022, section 3.2)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.schedule import Schedule
from threedgen.core.settings import at_least, between, settings
from threedgen.core.transfer import Number, constant
from threedgen.core.types import RadianceField, RenderOutput
from threedgen.kernels.plane_sampling import sample_planes
from threedgen.loop.regularizers import weigh
from threedgen.representations import occupancy
from threedgen.representations.base import Representation, RowOptimizer

_LARGEST = 1e6  # of lengths and densities: far below what float32 cannot hold
_MOST_GIGABYTES = 64  # of memory that a triplane in training may take, that of a large GPU


@settings
class LearningRates:
    """Initial learning rates of Adam for each group of parameters, tuned for runs of a few hundred steps.

    Attributes:
        planes: Rate of the features of the planes.
        decoder: Rate of the weights and biases of the decoder.
    """

    planes: float = 0.2
    decoder: float = 0.02


@settings
class Terms:
    """The weight of each term of the loss on the planes, a number or a schedule; 0 leaves the term out.

    Attributes:
        smoothness: Weight of the mean squared difference of neighbouring texels.
    """

    smoothness: Schedule = 0.0


@settings
class Config:
    """A triplane radiance field; the object is meant to fill the unit sphere.

    Attributes:
        resolution (texels): Width and height of each plane.
        channels: Number of features of each texel.
        hidden: Number of units of each hidden layer of the decoder.
        layers: Number of hidden layers of the decoder.
        extent (world units): The field fills the cube [-extent, extent]^3 and is empty outside.
        noise: Standard deviation of the features of the planes at the start.
        gain (per world unit): Density for one unit of the output of the decoder; the larger it is, the sooner
            surfaces become sharp.
        ball: The number ball * (1 - |p| / radius) is added inside the activation of the decoder, so that training
            starts from a ball (Magic3D, Lin et al. 2023, section 4.1); 0 for no ball.
        radius (world units): Approximate radius of that ball.
        occupancy: The grid of cells that are not empty.
        learning_rates: Initial learning rate of each group of parameters.
        regularizers: Weights of the terms of the loss on the planes.
    """

    resolution: Annotated[int, at_least(2)] = 64
    channels: Annotated[int, at_least(1)] = 16
    hidden: Annotated[int, at_least(1)] = 32
    layers: Annotated[int, at_least(1)] = 2
    extent: Annotated[float, between(0.0, _LARGEST, open_low=True)] = 1.0
    noise: Annotated[float, between(0.0, _LARGEST)] = 0.1
    gain: Annotated[float, between(0.0, _LARGEST, open_low=True)] = 25.0
    ball: Annotated[float, between(0.0, _LARGEST)] = 10.0
    radius: Annotated[float, between(0.0, _LARGEST, open_low=True)] = 0.5
    occupancy: occupancy.Config = field(default_factory=occupancy.Config)
    learning_rates: LearningRates = field(default_factory=LearningRates)
    regularizers: Terms = field(default_factory=Terms)

    def __post_init__(self) -> None:
        if (gigabytes := self._gigabytes()) > _MOST_GIGABYTES:
            raise UserError(
                f"a triplane of {self.resolution} x {self.resolution} x {self.channels} and a decoder of "
                f"{self.layers} x {self.hidden} would take {gigabytes:,.0f} GB with their gradients and the "
                f"moments of the optimizer, more than the {_MOST_GIGABYTES} GB that are allowed: lower resolution"
            )

    def _gigabytes(self) -> float:
        """Size of the parameters, their gradients and two moments in float32."""
        planes = 3 * self.channels * self.resolution**2
        decoder = self.hidden * (3 * self.channels + (self.layers - 1) * self.hidden + 4)
        return 4 * 4 * (planes + decoder) / 1e9


class Triplane(Representation):
    """A radiance field whose density is gain softplus(d + ball (1 - |p| / radius)) per world unit and whose colour
    is sigmoid(c), the same from all sides; d and c are the outputs of the decoder at the point p.

    planes: [3, R, R, C], xy, xz and yz, the first coordinate along the last spatial axis. weights, biases: the
    layers of the decoder, from the concatenated features to d and c. occupancy: the cells not known to be empty.
    """

    Config = Config
    renderer = "volume"

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self._rates = config.learning_rates
        self._terms = config.regularizers
        draw = generator(seed, "initialise", 0)
        shape = (3, config.resolution, config.resolution, config.channels)
        self.planes = nn.Parameter(config.noise * torch.randn(shape, generator=draw))
        widths = [3 * config.channels, *[config.hidden] * config.layers, 4]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            scale = math.sqrt(2.0 / inputs) if layer < config.layers else 0.1 / math.sqrt(inputs)
            self.weights.append(nn.Parameter(scale * torch.randn(outputs, inputs, generator=draw)))
            self.biases.append(nn.Parameter(torch.zeros(outputs)))
        self.occupancy = occupancy.OccupancyGrid(config.occupancy)
        self._look_for_matter(generator(seed, "occupancy", -1))

    @property
    def bounds(self) -> Float[Tensor, "2 3"]:
        extent = self.config.extent
        return constant([[-extent] * 3, [extent] * 3], self.planes)

    def at(self, time: Float[Tensor, " B"] | None = None) -> RadianceField:
        """The field, differentiable in all parameters; `time` is ignored because nothing moves."""
        return RadianceField(self._query, self.bounds, self.occupancy.occupied)

    def _query(
        self, points: Float[Tensor, "M 3"], directions: Float[Tensor, "M 3"]
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, "M 3"]]:
        values = decode(sample_planes(self.planes, points / self.config.extent), self.weights, self.biases)
        ball = 1 - torch.linalg.vector_norm(points, dim=-1) / self.config.radius
        density = self.config.gain * F.softplus(values[:, 0] + self.config.ball * ball)
        return density, torch.sigmoid(values[:, 1:])

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The group of the planes and that of the decoder."""
        return {"planes": [self.planes], "decoder": [*self.weights, *self.biases]}

    def learning_rates(self) -> Mapping[str, float]:
        """The initial learning rate of each group."""
        return dataclasses.asdict(self._rates)

    def penalty(
        self, primitive: RadianceField, step: int, total: int
    ) -> tuple[Float[Tensor, ""] | float, Mapping[str, Number]]:
        """The weighted terms of `Terms`."""
        return weigh({"smoothness": smoothness}, self._terms, self.planes, step, total)

    @torch.no_grad()
    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: RowOptimizer, seed: int
    ) -> dict[str, Number]:
        """Updates the occupancy every `occupancy.interval` steps. Logs the share of the cells that is occupied."""
        return self.occupancy.follow(step, lambda points: self._query(points, points)[0], self.bounds, seed)

    @torch.no_grad()
    def _look_for_matter(self, rng: torch.Generator) -> None:
        self.occupancy.update(lambda points: self._query(points, points)[0], self.bounds, rng)


def decode(
    features: Float[Tensor, "M 3 C"], weights: Iterable[Tensor], biases: Iterable[Tensor]
) -> Float[Tensor, "M 4"]:
    """The decoder: linear layers with ReLU between them, on the concatenated features of the three planes."""
    values = features.flatten(1)
    layers = list(zip(weights, biases, strict=True))
    for weight, bias in layers[:-1]:
        values = F.relu(F.linear(values, weight, bias), inplace=True)
    return F.linear(values, *layers[-1])


def smoothness(planes: Float[Tensor, "3 H W C"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring texels, along both axes."""
    return planes.diff(dim=1).square().mean() + planes.diff(dim=2).square().mean()
