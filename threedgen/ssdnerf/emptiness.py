"""Where each scene of a batch is empty: one occupancy grid, followed over the densities that the bank keeps."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.core.random import generator
from threedgen.representations import occupancy
from threedgen.ssdnerf.config import Rendering
from threedgen.ssdnerf.decoder import TriplaneDecoder


class Emptiness:
    """Reads and follows the grids of scenes, [G, G, G] each."""

    def __init__(self, rendering: Rendering, device: torch.device | str) -> None:
        self._grid = occupancy.OccupancyGrid(
            occupancy.Config(resolution=rendering.cells, decay=rendering.decay, threshold=rendering.threshold)
        ).to(device)

    def occupied(self, density: Float[Tensor, "G G G"]) -> Bool[Tensor, "G G G"]:
        """What a kept density says. No more than the mean density is asked of a cell (METHODS 4.2): a scene that
        is thin everywhere is not taken for an empty one, which no ray would ever look at again."""
        density = density.to(self._grid.density)
        return self._grid.meant(density, min(self._grid.config.threshold, float(density.double().mean())))

    @torch.no_grad()
    def look(
        self,
        decoder: TriplaneDecoder,
        code: Float[Tensor, "3 C R R"],
        density: Float[Tensor, "G G G"],
        seed: int,
        stream: str,
        step: int,
    ) -> Float[Tensor, "G G G"]:
        """A look at every cell of the scene of an activated code; its new running maximum, on the CPU in float32.

        seed, stream, step: of the places in the cells.
        """
        field = decoder.field(code)
        self._grid.density.copy_(density)
        self._grid.update(
            lambda points: field.query(points, points)[0], field.bounds, generator(seed, stream, step)
        )
        return self._grid.density.to("cpu", copy=True)  # the grid is one for all scenes
