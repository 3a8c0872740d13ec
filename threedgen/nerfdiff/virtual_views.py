"""The views whose images NeRF-guided distillation keeps. They are always the same, and come in turn."""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import Annotated, Any

import torch
from jaxtyping import Int
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.cameras.reference import ReferenceOrbit, ReferencePose, with_known
from threedgen.core.settings import SettingError, above, at_least, between, settings
from threedgen.core.types import Cameras


def in_turn(step: int, batch: int, views: int) -> tuple[int, Int[Tensor, " batch"]]:
    """The number of passes over all views that are over before this step, and the numbers of its views."""
    first = step * batch
    return first // views, (first + torch.arange(batch)) % views


class VirtualViews(ReferenceOrbit):
    """Cameras that are spread evenly over a band of elevations and come in turn, followed by those of the given
    pictures. In `index` the given pictures have 0 and so on, and the others -1."""

    @settings
    class Config:
        """Virtual views for NeRF-guided distillation.

        Attributes:
            count: Number of virtual views, a multiple of batch.
            batch: Number of virtual views in a step.
            resolution (pixels): Width and height of each view.
            fov (degrees): Vertical field of view.
            radius (world units): Distance of the cameras from the origin.
            elevation (degrees): Lowest and highest elevation of the band, [low, high].
            reference: Pose of the given picture.
            views (degrees): Azimuth and elevation of each further given picture.
        """

        count: Annotated[int, at_least(1)] = 12
        batch: Annotated[int, at_least(1)] = 4
        resolution: Annotated[int, at_least(1)] = 64
        fov: Annotated[float, between(0.0, 180.0, open_low=True, open_high=True)] = 40.0
        radius: Annotated[float, above(0.0)] = 2.85
        elevation: Annotated[tuple[float, float], between(-90.0, 90.0)] = (0.0, 60.0)
        reference: ReferencePose = field(default_factory=ReferencePose)
        views: tuple[tuple[float, float], ...] = ()

        def __post_init__(self) -> None:
            if self.count % self.batch:
                raise SettingError("count", f"is {self.count}; it must be a multiple of batch, {self.batch}")
            if self.elevation[0] > self.elevation[1]:
                raise SettingError(
                    "elevation", f"is {list(self.elevation)}; it must be [low, high] with low at most high"
                )

    config: Any

    def __init__(self, config: Config) -> None:
        self.config = config
        size = config.resolution
        poses = spread(config.count, config.elevation, config.radius)
        self._in_turn = ViewsInTurn(orbit(*poses, config.fov, size, size), self.reference(size), config.batch)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """The `batch` virtual views of a step and those of the given pictures. They do not depend on the seed."""
        return self._in_turn(seed, step, total)


class ViewsInTurn:
    """In each step `batch` of the views `virtual`, with `index` -1, followed by the views `source`, with `index` 0
    and so on."""

    def __init__(self, virtual: Cameras, source: Cameras, batch: int) -> None:
        self._virtual, self._source, self._batch = virtual, source, batch

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        _, now = in_turn(step, self._batch, len(self._virtual))
        return with_known(self._virtual[now], self._source)


def around(source: Cameras, views: int, elevation: tuple[float, float]) -> Cameras:
    """Virtual views with the intrinsics of the one view `source`, at its distance from the origin.

    elevation: [low, high] of the band, in degrees.
    """
    azimuth, angles, radius = spread(views, elevation, float(source.centers.norm(dim=1)))
    placed = orbit(azimuth, angles, radius, 40.0, source.height, source.width)
    return replace(placed, intrinsics=source.intrinsics.expand(views, -1, -1))


def spread(views: int, elevation: tuple[float, float], radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Azimuths and elevations in degrees, and radii, with golden angles around and even steps of height."""
    low, high = (math.sin(math.radians(angle)) for angle in elevation)
    share = (torch.arange(views) + 0.5) / views
    heights = torch.rad2deg(torch.asin(low + (high - low) * share))
    azimuth = torch.arange(views) * (180.0 * (3.0 - math.sqrt(5.0)))
    return azimuth, heights, torch.full((views,), radius)
