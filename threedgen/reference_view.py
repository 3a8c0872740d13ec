"""The view that a picture was taken from, rendered beside the usual ones, and how guidances tell them apart.

`Cameras.index` marks it: 0 for the view of the picture, -1 for views of which no picture is given. Guidances that
compare with the picture look at the former, those that ask a prior at the latter (`free_views`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from threedgen.cameras import OrbitSampler, orbit
from threedgen.errors import UserError
from threedgen.schedule import bounds
from threedgen.types import Cameras, RenderOutput


@dataclass(frozen=True)
class ReferencePose:
    """Where the picture was seen from. azimuth, elevation: degrees; 0, 0 is from the front, +Z, and positive
    elevations look down. distance: world units. fov: degrees. Cut-outs are framed for the defaults of these
    two, see `datasets.cut_outs`."""

    azimuth: float = 0.0
    elevation: float = 0.0
    distance: float = 2.85
    fov: float = 40.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.azimuth):
            raise UserError(f"cameras.reference.azimuth must be an angle in degrees, got {self.azimuth}")
        if not -90.0 <= self.elevation <= 90.0:
            raise UserError(
                f"cameras.reference.elevation must lie between -90 and 90 degrees, got {self.elevation}"
            )
        if not (1.0 < self.distance < math.inf and 0.0 < self.fov < 180.0):
            raise UserError(
                "cameras.reference must be outside the unit sphere (distance > 1), with fov between 0 and 180 "
                f"degrees, got distance {self.distance} and fov {self.fov}"
            )


class ReferenceOrbit(OrbitSampler):
    """The views of an orbit, `index` -1, and after them that of the picture, `index` 0, at their resolution."""

    @dataclass(frozen=True)
    class Config(OrbitSampler.Config):
        """See OrbitSampler.Config; `batch` does not count the picture's view. reference: that view's pose."""

        reference: ReferencePose = field(default_factory=ReferencePose)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch + 1 views, a function of the arguments alone."""
        free = super().__call__(seed, step, total)
        known = self.reference(free.height)
        return replace(
            free,
            world_from_camera=torch.cat([free.world_from_camera, known.world_from_camera]),
            intrinsics=torch.cat([free.intrinsics, known.intrinsics]),
            time=torch.cat([free.time, known.time]),
            index=torch.tensor([-1] * len(free) + [0]),
        )

    def reference(self, size: int | None = None) -> Cameras:
        """The picture's view alone, size x size pixels; None: the largest resolution of a run."""
        pose = self.config.reference
        size = round(bounds(self.config.resolution)[1]) if size is None else size
        azimuth, elevation, distance = torch.tensor([[pose.azimuth], [pose.elevation], [pose.distance]])
        view = orbit(azimuth, elevation, distance, pose.fov, size, size)
        return replace(view, index=torch.zeros(1, dtype=torch.long))


def views_at(output: RenderOutput, cameras: Cameras, chosen: torch.Tensor) -> tuple[RenderOutput, Cameras]:
    """Some views of a render, without its statistics for density control. chosen: their places, [n] integers."""
    pictures = {
        name: None if value is None else value[chosen.to(value.device)]
        for name in ("rgb", "alpha", "depth", "normal", "distortion")
        for value in [getattr(output, name)]
    }
    return replace(output, **pictures, screen=None), cameras[chosen]


def free_views(output: RenderOutput, cameras: Cameras) -> tuple[RenderOutput, Cameras]:
    """What a prior is asked about: the views without a picture, where there are some beside the picture's own; the
    same views where all are of one kind."""
    if cameras.index is None or bool((cameras.index >= 0).all()):
        return output, cameras
    output, cameras = views_at(output, cameras, (cameras.index < 0).nonzero().squeeze(1))
    return output, replace(cameras, index=None)
