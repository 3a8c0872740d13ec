"""Occupancy grids: which cells of a radiance field are empty, updated while the field is trained.

The running maximum of instant-ngp (Müller et al. 2022, appendix C): each update evaluates the field at one random
point of every cell, and the value of a cell becomes the larger of that density and its own decayed value. Dense
cells and their neighbours within `margin` count as occupied, so that a surface may move into them before the next
update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.random import generator
from threedgen.core.settings import above, at_least, between, settings
from threedgen.core.transfer import Number, sent_as


@settings
class Config:
    """The grid of occupied cells.

    Attributes:
        resolution (cells): Length of each side of the grid.
        interval (steps): Number of steps between two updates.
        decay: Factor by which the value of a cell is multiplied at each update.
        threshold (per world unit): Density from which a cell counts as dense.
        margin (cells): Distance up to which the neighbours of dense cells count as occupied.
    """

    resolution: Annotated[int, between(1, 512)] = 48
    interval: Annotated[int, at_least(1)] = 8
    decay: Annotated[float, between(0.0, 1.0, open_high=True)] = 0.4
    threshold: Annotated[float, above(0.0)] = 0.05
    margin: Annotated[int, at_least(0)] = 1


class OccupancyGrid(nn.Module):
    """density: [G, G, G], the running maximum per world unit, indexed [x, y, z]. occupied: [G, G, G], which cells
    count as occupied because of it."""

    density: Float[Tensor, "G G G"]
    occupied: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        shape = (config.resolution,) * 3
        self.register_buffer("density", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))

    @torch.no_grad()
    def update(
        self,
        density: Callable[[Float[Tensor, "M 3"]], Float[Tensor, " M"]],
        bounds: Float[Tensor, "2 3"],
        rng: torch.Generator,
    ) -> None:
        """One update of every cell. density: a function of points in world units. bounds: the corners of the grid.
        rng: a generator on the CPU for the points."""
        cells = self.config.resolution
        places = sent_as(torch.rand(cells**3, 3, generator=rng), bounds)
        index = torch.arange(cells, device=bounds.device)
        corners = torch.stack(torch.meshgrid(index, index, index, indexing="ij"), dim=-1).reshape(-1, 3)
        points = bounds[0] + (corners + places) / cells * (bounds[1] - bounds[0])
        now = torch.cat([density(block) for block in points.split(1 << 16)]).reshape_as(self.density)
        self.density.copy_(torch.maximum(self.density * self.config.decay, now))
        self.occupied.copy_(self.meant(self.density))

    def meant(self, density: Float[Tensor, "G G G"], threshold: float | None = None) -> Bool[Tensor, "G G G"]:
        """Which cells count as occupied for a running maximum. threshold: None is the one of the config."""
        dense = (density >= (self.config.threshold if threshold is None else threshold)).float()[None, None]
        width = 2 * self.config.margin + 1
        return F.max_pool3d(dense, width, stride=1, padding=self.config.margin)[0, 0] > 0

    @torch.no_grad()
    def follow(
        self,
        step: int,
        density: Callable[[Float[Tensor, "M 3"]], Float[Tensor, " M"]],
        bounds: Float[Tensor, "2 3"],
        seed: int,
    ) -> dict[str, Number]:
        """An update every `interval` steps, for the `adapt` of a representation. Returns the share of the cells
        that is occupied, to log."""
        if (step + 1) % self.config.interval == 0:
            self.update(density, bounds, generator(seed, "occupancy", step))
        return {"occupied": self.occupied.float().mean()}
