"""The views from which given pictures were taken, rendered together with the usual views.

`Cameras.index` marks them: it is 0 for the view of the picture, 1, 2, ... for those of further pictures, and -1 for
views that no picture shows. Guidances that compare renders with pictures take the former, those that ask a
prior take the latter (`free_views`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Annotated

import torch

from threedgen.cameras.orbit import OrbitSampler, joined, orbit
from threedgen.core.errors import UserError
from threedgen.core.schedule import bounds
from threedgen.core.settings import SettingError, above, between, finite, settings
from threedgen.core.transfer import on_cpu, rows
from threedgen.core.types import Cameras, RenderOutput

_SAME = 1e-6  # one minus the cosine of the angle between two views: a tenth of a degree


@settings
class ReferencePose:
    """The pose of the camera that took the given picture.

    Attributes:
        azimuth (degrees): Azimuth of the camera. At 0 it sees the front.
        elevation (degrees): Angle of the camera above the horizon. A camera with a positive elevation looks down.
        distance (world units): Distance of the camera from the origin, outside the unit sphere. Cut-outs are
            framed for the default.
        fov (degrees): Vertical field of view. Cut-outs are framed for the default.
    """

    azimuth: Annotated[float, finite] = 0.0
    elevation: Annotated[float, between(-90.0, 90.0)] = 0.0
    distance: Annotated[float, above(1.0)] = 2.85
    fov: Annotated[float, between(0.0, 180.0, open_low=True, open_high=True)] = 40.0


class ReferenceOrbit(OrbitSampler):
    """The views of an orbit with the index -1, and after them those of the given pictures with the indices 0,
    1, ... and the same resolution."""

    @settings
    class Config(OrbitSampler.Config):
        """The training views of each step, and the views of the given pictures.

        Attributes:
            batch: Number of views in each step, without those of the given pictures.
            reference: The pose of the given picture's camera.
            views (degrees): [azimuth, elevation] of the camera of each further picture. Its distance and field of
                view are those of the reference.
        """

        reference: ReferencePose = field(default_factory=ReferencePose)
        views: tuple[tuple[float, float], ...] = ()

        def __post_init__(self) -> None:
            super().__post_init__()
            poses = _poses(self.reference, self.views)
            towards = torch.nn.functional.normalize(cameras_of(poses, 1).centers, dim=1)
            for later, pose in enumerate(poses):
                if bool((towards[:later] @ towards[later] > 1.0 - _SAME).any()):
                    raise UserError(
                        f"two pictures show one view, azimuth {pose.azimuth:g} and elevation "
                        f"{pose.elevation:g} degrees: give each its own"
                    )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch + 1 + further views: a function of the arguments alone."""
        free = super().__call__(seed, step, total)
        known = self.reference(free.height)
        return with_known(free, known)

    def reference(self, size: int | None = None) -> Cameras:
        """The views of the given pictures alone. size: width and height in pixels; None: the largest of the run."""
        size = round(bounds(self.config.resolution)[1]) if size is None else size
        known = cameras_of(_poses(self.config.reference, self.config.views), size)
        return replace(known, index=torch.arange(len(known)))


def with_known(free: Cameras, known: Cameras) -> Cameras:
    """Views that no picture shows, with the index -1, and after them those of pictures, with the indices 0, 1,
    ..."""
    index = torch.cat([torch.full((len(free),), -1), torch.arange(len(known))])
    return replace(joined([free, known]), index=index)


def _poses(first: ReferencePose, others: Sequence[tuple[float, float]]) -> list[ReferencePose]:
    """The poses of all pictures. Raises SettingError, which names the entry of `views`."""
    poses = [first]
    for index, (azimuth, elevation) in enumerate(others):
        try:
            poses.append(ReferencePose(azimuth, elevation, first.distance, first.fov))
        except SettingError as error:
            raise SettingError(f"views.{index}", f"has an {error.name} that {error.problem}") from error
    return poses


def cameras_of(poses: Sequence[ReferencePose], size: int) -> Cameras:
    """The views of some poses. size: width and height in pixels."""
    azimuth, elevation, distance, fov = torch.tensor(
        [[pose.azimuth, pose.elevation, pose.distance, pose.fov] for pose in poses]
    ).unbind(1)
    return orbit(azimuth, elevation, distance, fov, size, size)


def views_at(output: RenderOutput, cameras: Cameras, chosen: torch.Tensor) -> tuple[RenderOutput, Cameras]:
    """Some views of a render, without its statistics for density control. chosen: [n] their indices."""
    pictures = {
        name: None if value is None else rows(value, chosen)
        for name in ("rgb", "alpha", "depth", "normal", "distortion", "background")
        for value in [getattr(output, name)]
    }
    return replace(output, **pictures, screen=None), cameras[chosen]


def free_views(output: RenderOutput, cameras: Cameras) -> tuple[RenderOutput, Cameras]:
    """The views that a prior judges: those that no picture shows; all views if every view or none is shown by a
    picture."""
    if cameras.index is None:
        return output, cameras
    free = on_cpu(cameras.index) < 0
    if not bool(free.any()):
        return output, cameras
    output, cameras = views_at(output, cameras, free.nonzero().squeeze(1))
    return output, replace(cameras, index=None)
