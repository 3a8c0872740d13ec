"""A radiance field made of three feature planes and a small decoder (EG3D, Chan et al. 2022, section 3.2)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.schedule import Schedule
from threedgen.core.types import RadianceField, RenderOutput
from threedgen.kernels.plane_sampling import sample_planes
from threedgen.loop.regularizers import weigh
from threedgen.representations import occupancy
from threedgen.representations.base import Representation, RowOptimizer

_LARGEST = 1e6  # of lengths, densities and the like: far from what float32 cannot hold
_MOST_GIGABYTES = 64  # of a triplane in training, a large GPU's


@dataclass(frozen=True)
class LearningRates:
    """Initial Adam learning rates by group, tuned for runs of a few hundred steps."""

    planes: float = 0.2
    decoder: float = 0.02


@dataclass(frozen=True)
class Terms:
    """Weights of the terms on the planes, a number or a schedule; 0 leaves a term out.

    smoothness: mean squared difference of neighbouring texels.
    """

    smoothness: Schedule = 0.0


@dataclass(frozen=True)
class Config:
    """A triplane radiance field. Lengths are world units (the object fills the unit sphere).

    resolution: texels a side of each plane. channels: features a texel. hidden: width and layers: number of the
    decoder's hidden layers. extent: the field lives in the box [-extent, extent]^3. noise: standard deviation
    of the planes at the start.
    gain: density per world unit for a unit of the decoder's output; the larger, the sooner surfaces are sharp.
    ball: number added inside the decoder's activation, ball * (1 - |p| / radius), so that training starts
    from a ball of about that radius (Magic3D, Lin et al. 2023, section 4.1); 0 for none.
    """

    resolution: int = 64
    channels: int = 16
    hidden: int = 32
    layers: int = 2
    extent: float = 1.0
    noise: float = 0.1
    gain: float = 25.0
    ball: float = 10.0
    radius: float = 0.5
    occupancy: occupancy.Config = field(default_factory=occupancy.Config)
    learning_rates: LearningRates = field(default_factory=LearningRates)
    regularizers: Terms = field(default_factory=Terms)

    def __post_init__(self) -> None:
        for name, least in (("resolution", 2), ("channels", 1), ("hidden", 1), ("layers", 1)):
            if getattr(self, name) < least:
                raise UserError(
                    f"representation.{name} is {getattr(self, name)}; it must be at least {least}"
                )
        for name in ("extent", "radius", "gain"):
            if not 0.0 < getattr(self, name) <= _LARGEST:
                raise UserError(
                    f"representation.{name} is {getattr(self, name)}; it must be positive and at most {_LARGEST:g}"
                )
        for name in ("noise", "ball"):
            if not 0.0 <= getattr(self, name) <= _LARGEST:
                raise UserError(
                    f"representation.{name} is {getattr(self, name)}; it must lie between 0 and {_LARGEST:g}"
                )
        if (gigabytes := self._gigabytes()) > _MOST_GIGABYTES:
            raise UserError(
                f"representation: a triplane of {self.resolution} x {self.resolution} x {self.channels} and a "
                f"decoder of {self.layers} x {self.hidden} would take {gigabytes:,.0f} GB with their gradients and "
                f"the optimizer's moments, more than the {_MOST_GIGABYTES} GB that are allowed: lower "
                "representation.resolution"
            )

    def _gigabytes(self) -> float:
        """Of the parameters, their gradients and two moments."""
        planes = 3 * self.channels * self.resolution**2
        decoder = self.hidden * (3 * self.channels + (self.layers - 1) * self.hidden + 4)
        return 4 * 4 * (planes + decoder) / 1e9


class Triplane(Representation):
    """planes: [3, R, R, C], xy, xz and yz (first coordinate along the last spatial axis). weights and biases: the
    decoder's layers, from the concatenated features to (density before activation, colour logits). occupancy: what
    is known to be empty.

    density = gain softplus(d + ball (1 - |p| / radius)) per world unit; colour = sigmoid(c), the same from all
    sides.
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
        corner = self.planes.new_full((3,), self.config.extent)
        return torch.stack([-corner, corner])

    def at(self, time: Float[Tensor, " B"] | None = None) -> RadianceField:
        """The field, differentiable in all parameters; `time` is ignored (nothing moves)."""
        return RadianceField(self._query, self.bounds, self.occupancy.occupied)

    def _query(
        self, points: Float[Tensor, "M 3"], directions: Float[Tensor, "M 3"]
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, "M 3"]]:
        values = decode(sample_planes(self.planes, points / self.config.extent), self.weights, self.biases)
        ball = 1 - torch.linalg.vector_norm(points, dim=-1) / self.config.radius
        density = self.config.gain * F.softplus(values[:, 0] + self.config.ball * ball)
        return density, torch.sigmoid(values[:, 1:])

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The planes, and the decoder."""
        return {"planes": [self.planes], "decoder": [*self.weights, *self.biases]}

    def learning_rates(self) -> Mapping[str, float]:
        """Initial learning rates by group."""
        return dataclasses.asdict(self._rates)

    def penalty(
        self, primitive: RadianceField, step: int, total: int
    ) -> tuple[Float[Tensor, ""] | float, Mapping[str, float]]:
        """The weighted terms of `Terms`."""
        return weigh({"smoothness": smoothness}, self._terms, self.planes, step, total)

    @torch.no_grad()
    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: RowOptimizer, seed: int
    ) -> dict[str, float]:
        """Every `occupancy.interval` steps a look at what is empty. Logs the share of the box that is not."""
        return self.occupancy.follow(step, lambda points: self._query(points, points)[0], self.bounds, seed)

    @torch.no_grad()
    def _look_for_matter(self, rng: torch.Generator) -> None:
        self.occupancy.update(lambda points: self._query(points, points)[0], self.bounds, rng)


def decode(
    features: Float[Tensor, "M 3 C"], weights: Iterable[Tensor], biases: Iterable[Tensor]
) -> Float[Tensor, "M 4"]:
    """The decoder: linear layers with ReLU between them, over the three features side by side."""
    values = features.flatten(1)
    layers = list(zip(weights, biases, strict=True))
    for weight, bias in layers[:-1]:
        values = F.relu(F.linear(values, weight, bias), inplace=True)
    return F.linear(values, *layers[-1])


def smoothness(planes: Float[Tensor, "3 H W C"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring texels, along both axes."""
    return planes.diff(dim=1).square().mean() + planes.diff(dim=2).square().mean()
