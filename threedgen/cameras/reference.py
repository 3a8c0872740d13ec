"""The views that given pictures were taken from, rendered beside the usual ones, and how guidances tell them apart.

`Cameras.index` marks them: 0 for the view of the picture, 1, 2, ... for those of further ones, -1 for views of
which no picture is given. Guidances that compare with pictures look at the former, those that ask a prior at the
latter (`free_views`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from threedgen.cameras.orbit import OrbitSampler, joined, orbit
from threedgen.core.errors import UserError
from threedgen.core.schedule import bounds
from threedgen.core.types import Cameras, RenderOutput

_SAME = 1e-6  # one minus the cosine of an angle: a tenth of a degree


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
            raise UserError(f"the azimuth of a picture must be an angle in degrees, got {self.azimuth}")
        if not -90.0 <= self.elevation <= 90.0:
            raise UserError(
                f"the elevation of a picture must lie between -90 and 90 degrees, got {self.elevation}"
            )
        if not (1.0 < self.distance < math.inf and 0.0 < self.fov < 180.0):
            raise UserError(
                "cameras.reference must be outside the unit sphere (distance > 1), with fov between 0 and 180 "
                f"degrees, got distance {self.distance} and fov {self.fov}"
            )


class ReferenceOrbit(OrbitSampler):
    """The views of an orbit, `index` -1, and after them those of the pictures, `index` 0, 1, ..., at their
    resolution."""

    pose_setting = "reference"

    @dataclass(frozen=True)
    class Config(OrbitSampler.Config):
        """See OrbitSampler.Config; `batch` does not count the pictures' views. reference: the picture's pose.
        views: [azimuth, elevation] of each further picture, in degrees; distance and fov are the reference's."""

        reference: ReferencePose = field(default_factory=ReferencePose)
        views: tuple[tuple[float, float], ...] = ()

        def __post_init__(self) -> None:
            poses = _poses(self.reference, self.views)
            towards = torch.nn.functional.normalize(cameras_of(poses, 1).centers, dim=1)
            for later, pose in enumerate(poses):
                if bool((towards[:later] @ towards[later] > 1.0 - _SAME).any()):
                    raise UserError(
                        f"two pictures are said to be of one view, azimuth {pose.azimuth:g} and elevation "
                        f"{pose.elevation:g} degrees: give each its own"
                    )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch + 1 + further views, a function of the arguments alone."""
        free = super().__call__(seed, step, total)
        known = self.reference(free.height)
        return with_known(free, known)

    def reference(self, size: int | None = None) -> Cameras:
        """The pictures' views alone, size x size pixels; None: the largest resolution of a run."""
        size = round(bounds(self.config.resolution)[1]) if size is None else size
        known = cameras_of(_poses(self.config.reference, self.config.views), size)
        return replace(known, index=torch.arange(len(known)))


def with_known(free: Cameras, known: Cameras) -> Cameras:
    """Views without a picture, `index` -1, and after them those of pictures, `index` 0 and so on."""
    index = torch.cat([torch.full((len(free),), -1), torch.arange(len(known))])
    return replace(joined([free, known]), index=index)


def _poses(first: ReferencePose, others: Sequence[tuple[float, float]]) -> list[ReferencePose]:
    return [first, *(ReferencePose(*angles, first.distance, first.fov) for angles in others)]


def cameras_of(poses: Sequence[ReferencePose], size: int) -> Cameras:
    """Their views, size x size pixels."""
    azimuth, elevation, distance, fov = torch.tensor(
        [[pose.azimuth, pose.elevation, pose.distance, pose.fov] for pose in poses]
    ).unbind(1)
    return orbit(azimuth, elevation, distance, fov, size, size)


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
