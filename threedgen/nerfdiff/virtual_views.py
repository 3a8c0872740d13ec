"""The views that NeRF-guided distillation keeps an image of: always the same ones, taken in turn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.cameras.reference import ReferenceOrbit, ReferencePose, with_known
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras


def in_turn(step: int, batch: int, views: int) -> tuple[int, Int[Tensor, " batch"]]:
    """How often all views have been taken before this step, and which are taken now."""
    first = step * batch
    return first // views, (first + torch.arange(batch)) % views


class VirtualViews(ReferenceOrbit):
    """`views` cameras spread evenly over a band of elevations, `batch` of them a step, and the pictures' own views
    after them (`index` 0 and so on, the others' -1)."""

    @dataclass(frozen=True)
    class Config:
        """count: how many there are; batch: of them a step. resolution: pixels. fov: degrees, vertical. radius:
        world units. elevation: [low, high] degrees of the band. reference, views: as of ReferenceOrbit."""

        count: int = 12
        batch: int = 4
        resolution: int = 64
        fov: float = 40.0
        radius: float = 2.85
        elevation: tuple[float, float] = (0.0, 60.0)
        reference: ReferencePose = field(default_factory=ReferencePose)
        views: tuple[tuple[float, float], ...] = ()

        def __post_init__(self) -> None:
            if not 1 <= self.batch <= self.count or self.count % self.batch:
                raise UserError(
                    f"cameras.count is {self.count}: it must be a multiple of cameras.batch, {self.batch}"
                )
            if self.resolution < 1:
                raise UserError(f"cameras.resolution must be at least 1 pixel, got {self.resolution}")
            if not (0.0 < self.fov < 180.0 and 0.0 < self.radius < math.inf):
                raise UserError("cameras: fov must lie between 0 and 180 degrees, and radius be positive")
            if not -90.0 <= self.elevation[0] <= self.elevation[1] <= 90.0:
                raise UserError(
                    "cameras.elevation must be [low, high] in order between -90 and 90 degrees, "
                    f"got {list(self.elevation)}"
                )

    config: Any

    def __init__(self, config: Config) -> None:
        self.config = config
        size = config.resolution
        poses = spread(config.count, config.elevation, config.radius)
        self._in_turn = ViewsInTurn(orbit(*poses, config.fov, size, size), self.reference(size), config.batch)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch + 1 views; they do not depend on the seed."""
        return self._in_turn(seed, step, total)


class ViewsInTurn:
    """`batch` of the views `virtual` a step, `index` -1, and after them the views `source`, `index` 0 and so on."""

    def __init__(self, virtual: Cameras, source: Cameras, batch: int) -> None:
        self._virtual, self._source, self._batch = virtual, source, batch

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        _, now = in_turn(step, self._batch, len(self._virtual))
        return with_known(self._virtual[now], self._source)


def around(source: Cameras, views: int, elevation: tuple[float, float]) -> Cameras:
    """Virtual views for the one view `source`: with its lens, at its distance from the origin."""
    azimuth, angles, radius = spread(views, elevation, float(source.centers.norm(dim=1)))
    placed = orbit(azimuth, angles, radius, 40.0, source.height, source.width)
    return replace(placed, intrinsics=source.intrinsics.expand(views, -1, -1))


def spread(views: int, elevation: tuple[float, float], radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Azimuths, elevations and radii: golden angles around, even steps of height."""
    low, high = (math.sin(math.radians(angle)) for angle in elevation)
    share = (torch.arange(views) + 0.5) / views
    heights = torch.rad2deg(torch.asin(low + (high - low) * share))
    azimuth = torch.arange(views) * (180.0 * (3.0 - math.sqrt(5.0)))
    return azimuth, heights, torch.full((views,), radius)
