"""Where a radiance field is empty: a grid of densities that follows the field while it is trained.

The running maximum of instant-ngp (Müller et al. 2022, appendix C): each update asks the field at one random place
in every cell, and a cell's value is the larger of that density and its own decayed value. Cells that are dense,
and their neighbours within `margin`, are occupied: a surface may move into them, and the next update follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.random import generator


@dataclass(frozen=True)
class Config:
    """How the grid follows the field.

    resolution: cells a side. interval: steps between updates. decay: of a cell's value at each update.
    threshold: density per world unit from which a cell is dense. margin: occupied cells around dense ones.
    """

    resolution: int = 48
    interval: int = 8
    decay: float = 0.4
    threshold: float = 0.05
    margin: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.resolution <= 512:
            raise UserError(
                f"representation.occupancy.resolution is {self.resolution}; it must be between 1 and 512"
            )
        if self.interval < 1 or self.margin < 0:
            raise UserError("representation.occupancy: interval must be at least 1 and margin not negative")
        if not (0.0 <= self.decay < 1.0 and 0.0 < self.threshold < float("inf")):
            raise UserError("representation.occupancy: decay must be in [0, 1) and threshold positive")


class OccupancyGrid(nn.Module):
    """density: [G, G, G], the running maximum, indexed [x, y, z]. occupied: [G, G, G], what it means."""

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
        """One look at every cell. density: of world points; rng: a CPU generator for the places."""
        cells = self.config.resolution
        places = torch.rand(cells**3, 3, generator=rng).to(bounds)
        index = torch.arange(cells, device=bounds.device)
        corners = torch.stack(torch.meshgrid(index, index, index, indexing="ij"), dim=-1).reshape(-1, 3)
        points = bounds[0] + (corners + places) / cells * (bounds[1] - bounds[0])
        now = torch.cat([density(block) for block in points.split(1 << 16)]).reshape_as(self.density)
        self.density.copy_(torch.maximum(self.density * self.config.decay, now))
        self.occupied.copy_(self.meant(self.density))

    def meant(self, density: Float[Tensor, "G G G"], threshold: float | None = None) -> Bool[Tensor, "G G G"]:
        """Which cells a running maximum says are occupied. threshold: None for the configured one."""
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
    ) -> dict[str, float]:
        """What a representation's `adapt` does: an update every `interval` steps. The share that is occupied."""
        if (step + 1) % self.config.interval == 0:
            self.update(density, bounds, generator(seed, "occupancy", step))
        return {"occupied": float(self.occupied.float().mean())}
