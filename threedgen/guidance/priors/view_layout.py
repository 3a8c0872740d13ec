"""Several views of an object as the tiles of one picture: the sample of some priors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core.types import Cameras


@dataclass(frozen=True)
class ViewLayout:
    """Where a prior puts the views of an object in one picture, and the cameras that saw them.

    rows, columns: of the picture, whose tiles are read row by row. azimuths: of each view, degrees to the right of
    the camera of the given picture. elevations: of each view, degrees above the horizon, whatever that of the given
    picture is. fov: degrees. background: the grey, in [0, 1], behind the object in the given picture and in the
    views. Raises ValueError unless there are as many azimuths and elevations as tiles.
    """

    rows: int
    columns: int
    azimuths: tuple[float, ...]
    elevations: tuple[float, ...]
    fov: float = FOV
    background: float = 1.0

    def __post_init__(self) -> None:
        if not len(self.azimuths) == len(self.elevations) == self.rows * self.columns:
            raise ValueError(f"{self.rows} x {self.columns} tiles need as many azimuths and elevations")

    @property
    def distance(self) -> float:
        """World units from which the ball that fills a usual view (FOV at DISTANCE) fills one of `fov` as well."""
        return DISTANCE * math.sin(math.radians(FOV / 2.0)) / math.sin(math.radians(self.fov / 2.0))

    def cameras(self, azimuth: float, size: int) -> Cameras:
        """The cameras of the views. azimuth: degrees, of the given picture. size: pixels per side of a view."""
        around, above = torch.tensor(self.azimuths), torch.tensor(self.elevations)
        return orbit(around + azimuth, above, torch.full_like(around, self.distance), self.fov, size, size)

    def cut(self, pictures: Float[Tensor, "B RH CW 3"]) -> Float[Tensor, "B*R*C H W 3"]:
        """The views of pictures, one picture after another."""
        high, wide = pictures.shape[1] // self.rows, pictures.shape[2] // self.columns
        tiles = pictures.unflatten(2, (self.columns, wide)).unflatten(1, (self.rows, high))
        return tiles.transpose(2, 3).flatten(0, 2)

    def spread(self, values: Float[Tensor, " V"], height: int, width: int) -> Float[Tensor, "1 1 h w"]:
        """A map over samples of `height` x `width` that has the value of each view on its tile."""
        tiles = values.reshape(1, 1, self.rows, self.columns)
        return tiles.repeat_interleave(height // self.rows, 2).repeat_interleave(width // self.columns, 3)

    def behind(self, picture: Float[Tensor, "H W 3"], alpha: Float[Tensor, "H W 1"]) -> Tensor:
        """A picture of an object on white, on the background of this prior instead; exact, because `alpha` in
        [0, 1] says how much of the white is seen."""
        return picture - (1.0 - alpha) * (1.0 - self.background)
