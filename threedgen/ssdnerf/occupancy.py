"""Where each object of a batch is empty: its occupancy grid, made from the densities that the bank keeps."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.core.random import generator
from threedgen.representations import occupancy
from threedgen.ssdnerf.config import Rendering
from threedgen.ssdnerf.decoder import TriplaneDecoder


class ObjectGrids:
    """Reads and updates the occupancy grids of objects, [G, G, G] each."""

    def __init__(self, rendering: Rendering, device: torch.device | str) -> None:
        self._grid = occupancy.OccupancyGrid(
            occupancy.Config(resolution=rendering.cells, decay=rendering.decay, threshold=rendering.threshold)
        ).to(device)

    def occupied(self, density: Float[Tensor, "G G G"]) -> Bool[Tensor, "G G G"]:
        """The cells that may hold something, by a kept density.

        The threshold is at most the mean density (SSDNeRF, Chen, Gu et al. 2023, its code). So an object that is
        thin everywhere is not taken for empty: no ray would ever visit it again.
        """
        density = density.to(self._grid.density)
        return self._grid.meant(density, min(self._grid.config.threshold, float(density.double().mean())))

    @torch.no_grad()
    def update(
        self,
        decoder: TriplaneDecoder,
        code: Float[Tensor, "3 C R R"],
        density: Float[Tensor, "G G G"],
        seed: int,
        stream: str,
        step: int,
    ) -> Float[Tensor, "G G G"]:
        """The new running maximum of the density of every cell, after one query of the activated code in each.

        density: the running maximum so far, per world unit. seed, stream, step: of the random places in the cells.
        The result is on the CPU in float32.
        """
        field = decoder.field(code)
        self._grid.density.copy_(density)
        self._grid.update(
            lambda points: field.query(points, points)[0], field.bounds, generator(seed, stream, step)
        )
        return self._grid.density.to("cpu", copy=True)  # a copy, because one grid serves all objects
