"""Cameras on a sphere around the object, the sampler of training views, the features that priors get of a view, and
conversions between conventions of poses.

Angles are in degrees. At azimuth 0 the camera is on +Z and sees the front, at azimuth 90 it is on +X;
elevations are positive above the horizon. The world has +Y up; cameras have OpenCV's axes (x right, y down, z
forward).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.roles import CameraRoles
from threedgen.core.schedule import Schedule, value_at
from threedgen.core.settings import above, at_least, between, check_ordered, finite, settings
from threedgen.core.transfer import constant, sent_as
from threedgen.core.types import Cameras

# The camera axes of each convention as multiples of OpenCV's (docs/methods.md, "World, cameras and pictures").
_CAMERA_AXES = {
    "opencv": (1.0, 1.0, 1.0),
    "srn": (1.0, 1.0, 1.0),
    "opengl": (1.0, -1.0, -1.0),
    "blender": (1.0, -1.0, -1.0),
}
# Blender's world has z up: (x, y, z) -> (x, z, -y) turns it to y up.
_Y_UP_FROM_Z_UP = ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, -1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))

DISTANCE, FOV = 2.85, 40.0  # world units and degrees, of usual views: the unit sphere fills the picture
VIEW_FEATURES = 16
RELATIVE_VIEW_FEATURES = VIEW_FEATURES + 4


def look_at(
    positions: Float[Tensor, "B 3"], target: Float[Tensor, " 3"] | None = None
) -> Float[Tensor, "B 4 4"]:
    """Camera-to-world matrices at `positions` that look at `target` (default: the origin), with +Y up.

    For a camera straight above or below the target, +Z is up.
    """
    aim = positions.new_zeros(3) if target is None else target
    forward = torch.nn.functional.normalize(aim - positions, dim=1)
    up = forward.new_tensor([0.0, 1.0, 0.0]).expand_as(forward)
    vertical = (forward[:, 1].abs() > 1.0 - 1e-6).unsqueeze(1)
    up = torch.where(vertical, forward.new_tensor([0.0, 0.0, 1.0]), up)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    down = torch.linalg.cross(forward, right)
    matrix = torch.eye(4, dtype=positions.dtype, device=positions.device).repeat(len(positions), 1, 1)
    matrix[:, :3, :] = torch.stack([right, down, forward, positions], dim=2)
    return matrix


def orbit(
    azimuth: Float[Tensor, " B"],
    elevation: Float[Tensor, " B"],
    radius: Float[Tensor, " B"],
    fov_y: Float[Tensor, " B"] | float,
    height: int,
    width: int,
) -> Cameras:
    """Cameras on a sphere around the origin that look at it.

    azimuth, elevation, fov_y (vertical field of view): degrees. radius: world units. height, width: pixels.
    """
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    direction = torch.stack([e.cos() * a.sin(), e.sin(), e.cos() * a.cos()], dim=1)
    positions = radius.unsqueeze(1) * direction
    count = len(azimuth)
    fov = torch.as_tensor(fov_y, dtype=positions.dtype, device=positions.device).expand(count)
    focal = 0.5 * height / torch.tan(0.5 * torch.deg2rad(fov))
    intrinsics = torch.zeros(count, 3, 3, dtype=positions.dtype, device=positions.device)
    intrinsics[:, 0, 0] = focal
    intrinsics[:, 1, 1] = focal
    intrinsics[:, 0, 2] = 0.5 * width
    intrinsics[:, 1, 2] = 0.5 * height
    intrinsics[:, 2, 2] = 1.0
    return Cameras(look_at(positions), intrinsics, height, width, positions.new_zeros(count))


def joined(batches: Sequence[Cameras]) -> Cameras:
    """The views of several batches of one picture size in one batch, without `index`; the clipping distances
    are those of the first."""
    poses, intrinsics, times = (
        torch.cat([getattr(batch, name) for batch in batches])
        for name in ("world_from_camera", "intrinsics", "time")
    )
    return replace(batches[0], world_from_camera=poses, intrinsics=intrinsics, time=times, index=None)


def single_pixels(cameras: Cameras, pixels: Int[Tensor, " n"]) -> Cameras:
    """Views of one pixel each, with the centre of a pixel of `cameras`.

    pixels: flat indices into [B, height, width].
    """
    view = pixels // (cameras.height * cameras.width)
    corner = torch.stack([pixels % cameras.width, pixels // cameras.width % cameras.height], dim=1)
    chosen = cameras[view]
    intrinsics = chosen.intrinsics.clone()
    intrinsics[:, :2, 2] -= corner.to(intrinsics)  # the pixel's corner becomes the picture's
    return replace(chosen, intrinsics=intrinsics, height=1, width=1)


def spherical(cameras: Cameras) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Azimuth and elevation in degrees and distance of each camera from the origin."""
    x, y, z = cameras.centers.unbind(1)
    radius = cameras.centers.norm(dim=1)
    azimuth = torch.rad2deg(torch.atan2(x, z))
    elevation = torch.rad2deg(torch.asin((y / radius.clamp_min(1e-12)).clamp(-1.0, 1.0)))
    return azimuth, elevation, radius


def turned(cameras: Cameras, azimuth: Tensor | float) -> Cameras:
    """The cameras turned about +Y, which adds to their azimuths. azimuth: degrees, of all or of each of them."""
    turn = sent_as(torch.deg2rad(torch.as_tensor(azimuth)), cameras.centers).expand(len(cameras))[:, None]
    pose = cameras.world_from_camera.clone()
    x, z = cameras.world_from_camera[:, 0], cameras.world_from_camera[:, 2]
    pose[:, 0] = turn.cos() * x + turn.sin() * z
    pose[:, 2] = turn.cos() * z - turn.sin() * x
    return replace(cameras, world_from_camera=pose)


def view_features(cameras: Cameras) -> Float[Tensor, "B 16"]:
    """The features of each view for a camera-conditioned prior; all zeros mean "any camera".

    They are cos and sin of 1, 2, 4 and 8 times the azimuth, and of 1, 2 and 4 times the elevation; the apparent
    size of the unit sphere (its tangent over that of half the field of view, centred); and a constant 1.
    """
    azimuth, elevation, radius = spherical(cameras)
    a, e = torch.deg2rad(azimuth).unsqueeze(1), torch.deg2rad(elevation).unsqueeze(1)
    harmonics_a = a * constant([1.0, 2.0, 4.0, 8.0], a)
    harmonics_e = e * constant([1.0, 2.0, 4.0], e)
    half_fov_tangent = 0.5 * cameras.height / cameras.intrinsics[:, 1, 1]
    sphere_tangent = 1.0 / (radius.square() - 1.0).clamp_min(1e-2).sqrt()
    size = (4.0 * (sphere_tangent / half_fov_tangent - 1.05)).unsqueeze(1)
    return torch.cat(
        [
            harmonics_a.cos(),
            harmonics_a.sin(),
            harmonics_e.cos(),
            harmonics_e.sin(),
            size,
            torch.ones_like(size),
        ],
        dim=1,
    )


def relative_view_features(
    cameras: Cameras, azimuth: Tensor | float, elevation: Tensor | float, distance: Tensor | float
) -> Float[Tensor, "B 20"]:
    """The features of each view for a prior that turns a given picture.

    They are the view's features relative to the picture's azimuth, then cos and sin of the picture's elevation,
    sin of twice that, and the apparent size of the unit sphere in the picture.

    azimuth, elevation (degrees), distance (world units): the picture's camera, which has the views' field of view.
    """
    up, away = (
        sent_as(torch.as_tensor(value), cameras.centers).expand(len(cameras))
        for value in (elevation, distance)
    )
    features = view_features(turned(cameras, -torch.as_tensor(azimuth)))
    known = picture_features(up, away, cameras.intrinsics[:, 1, 1], cameras.height)
    return torch.cat([features, known], dim=1)


def picture_features(
    elevation: Float[Tensor, " B"], distance: Float[Tensor, " B"], focal: Tensor | float, height: int
) -> Float[Tensor, "B 4"]:
    """How a picture was taken: cos and sin of its elevation (degrees), sin of twice that, and the apparent size of
    the unit sphere in it. distance: world units. focal, height: pixels."""
    up, sphere = torch.deg2rad(elevation), distance.square() - 1.0
    size = 4.0 * (sphere.clamp_min(1e-2).rsqrt() * 2.0 * focal / height - 1.05)
    return torch.stack([up.cos(), up.sin(), (2.0 * up).sin(), size], dim=1)


def convert(world_from_camera: Float[Tensor, "B 4 4"], source: str, target: str) -> Float[Tensor, "B 4 4"]:
    """Camera-to-world matrices from one named convention to another.

    opencv: x right, y down, z forward, in a world with +Y up (threedgen's own). srn: the same camera axes.
    opengl: x right, y up, looking along -z, in a world with +Y up. blender: OpenGL's camera in a world with +Z
    up. See docs/methods.md, "World, cameras and pictures". Raises UserError for an unknown name.
    """
    for name in (source, target):
        if name not in _CAMERA_AXES:
            raise UserError(f"unknown camera convention '{name}': use one of {', '.join(_CAMERA_AXES)}")
    y_up_from_z_up = constant(_Y_UP_FROM_Z_UP, world_from_camera)
    if source == "blender":
        world_from_camera = y_up_from_z_up @ world_from_camera
    axes = [a * b for a, b in zip(_CAMERA_AXES[source], _CAMERA_AXES[target], strict=True)]
    world_from_camera = world_from_camera * constant([*axes, 1.0], world_from_camera)
    if target == "blender":
        world_from_camera = y_up_from_z_up.T @ world_from_camera
    return world_from_camera


class OrbitSampler(CameraRoles):
    """Training views in groups of four, a quarter turn apart, from a random start."""

    together = 4
    """Number of views in a group, which share a draw."""

    @settings
    class Config:
        """The training views of each step.

        Attributes:
            batch: Number of views in each step, or of clips if the sampler makes clips.
            resolution (pixels): Width and height of each view.
            fov (degrees): Vertical field of view.
            radius (world units): Range of the distance from the origin, drawn uniformly for each group of views.
            elevation (degrees): Range of the angle above the horizon, drawn uniformly for each group of views.
            azimuth (degrees): Range of the azimuth of the first view of each group, drawn uniformly. At 0 the
            camera
                sees the front, and the other views of a group follow at quarter turns.
        """

        batch: Annotated[int, at_least(1)] = 4
        resolution: Annotated[Schedule, at_least(1.0)] = 64
        fov: Annotated[float, between(0.0, 180.0, open_low=True, open_high=True)] = 40.0
        radius: Annotated[tuple[float, float], above(0.0)] = (2.6, 3.1)
        elevation: Annotated[tuple[float, float], between(-90.0, 90.0)] = (-10.0, 45.0)
        azimuth: Annotated[tuple[float, float], finite] = (0.0, 360.0)

        def __post_init__(self) -> None:
            check_ordered(self.radius, "radius")
            check_ordered(self.elevation, "elevation")

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """The views of one step of a run of `total` steps: a function of the arguments alone."""
        config = self.config
        rng = generator(seed, "cameras", step)

        def uniform(bounds: tuple[float, float], count: int) -> Tensor:
            return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(count, generator=rng)

        groups = math.ceil(config.batch / self.together)
        group = torch.arange(config.batch) // self.together
        quarter = 90.0 * (torch.arange(config.batch) % self.together)
        azimuth = uniform(config.azimuth, groups)[group] + quarter
        elevation = uniform(config.elevation, groups)[group]
        radius = uniform(config.radius, groups)[group]
        size = round(value_at(config.resolution, step, total))
        return orbit(azimuth, elevation, radius, config.fov, size, size)
