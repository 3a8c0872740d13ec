"""A representation that threedgen does not have: a grid of densities and colours, interpolated between its points.

    pip install ./examples/voxel_plugin
    threedgen text-to-3d "a red cube" representation=voxels

Nothing in threedgen is changed for it. The entry point in pyproject.toml makes its name known, the `Config`
makes its settings known to recipes and the command line, and `threedgen.testing` checks that it keeps the promises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threedgen import UserError
from threedgen.core.random import generator
from threedgen.core.types import RadianceField
from threedgen.representations.base import Representation


class Voxels(Representation):
    """values: [1, 4, R, R, R], raw density and colours at the points of a grid over [-1, 1]^3, indexed [z, y, x].

    density = 20 softplus(d), colour = sigmoid(c), d and c trilinear. It starts as a soft ball of mid grey.
    """

    @dataclass(frozen=True)
    class Config:
        """resolution: points a side. rate: initial learning rate. noise: standard deviation at the start."""

        resolution: int = 32
        rate: float = 0.1
        noise: float = 0.1

        def __post_init__(self) -> None:
            if self.resolution < 2:
                raise UserError(f"representation.resolution is {self.resolution}; it must be at least 2")

    renderer = "volume"

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        size = config.resolution
        noise = torch.randn(1, 4, size, size, size, generator=generator(seed, "voxels", 0))
        axis = torch.linspace(-1.0, 1.0, size)
        distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
        ball = torch.zeros_like(noise)
        ball[0, 0] = 6.0 * (0.5 - distance) - 1.0
        self.values = nn.Parameter(ball + config.noise * noise)

    def at(self, time: Tensor | None = None) -> RadianceField:
        corner = self.values.new_ones(3)
        return RadianceField(self._query, torch.stack([-corner, corner]))

    def _query(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        grid = points.reshape(1, -1, 1, 1, 3)  # grid_sample's last coordinate order is x, y, z
        found = F.grid_sample(self.values, grid, align_corners=True).reshape(4, -1)
        return 20.0 * F.softplus(found[0]), torch.sigmoid(found[1:]).T

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"voxels": [self.values]}

    def learning_rates(self) -> Mapping[str, float]:
        return {"voxels": self.config.rate}
