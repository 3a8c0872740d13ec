"""Cameras: orbits, samplers, what a prior is told about a view, and the named pose conventions.

Angles are degrees. Azimuth 0 looks at the front (camera on +Z), azimuth 90 is on +X; elevation is
positive above the horizon. The world has +Y up; cameras are OpenCV (x right, y down, z forward).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.roles import CameraRoles
from threedgen.core.schedule import Schedule, bounds, value_at
from threedgen.core.types import Cameras

# Columns are a convention's camera axes written in OpenCV axes (METHODS 12.1).
_CAMERA_AXES = {
    "opencv": (1.0, 1.0, 1.0),
    "srn": (1.0, 1.0, 1.0),
    "opengl": (1.0, -1.0, -1.0),
    "blender": (1.0, -1.0, -1.0),
}
# Blender's world has z up: (x, y, z) -> (x, z, -y) brings it to y up.
_Y_UP_FROM_Z_UP = ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, -1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))

VIEW_FEATURES = 16
RELATIVE_VIEW_FEATURES = VIEW_FEATURES + 4


def look_at(
    positions: Float[Tensor, "B 3"], target: Float[Tensor, " 3"] | None = None
) -> Float[Tensor, "B 4 4"]:
    """Camera-to-world matrices at `positions` looking at `target` (default: the origin), +Y up.

    A camera straight above or below the target has no defined up; +Z is taken instead.
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
    """Cameras on a sphere around the origin, looking at it. Angles in degrees, radius in world units."""
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


def joined(parts: Sequence[Cameras]) -> Cameras:
    """The views of all parts in one batch, of one size; clipping distances are the first's, `index` is None."""
    poses, intrinsics, times = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("world_from_camera", "intrinsics", "time")
    )
    return replace(parts[0], world_from_camera=poses, intrinsics=intrinsics, time=times, index=None)


def single_pixels(cameras: Cameras, pixels: Int[Tensor, " n"]) -> Cameras:
    """Views of one pixel each, whose centre is that of a pixel of `cameras`.

    pixels: places in the order of the views, their rows and their columns, below B x height x width.
    """
    view = pixels // (cameras.height * cameras.width)
    corner = torch.stack([pixels % cameras.width, pixels // cameras.width % cameras.height], dim=1)
    chosen = cameras[view]
    intrinsics = chosen.intrinsics.clone()
    intrinsics[:, :2, 2] -= corner.to(intrinsics)  # what was at the pixel's corner is at the picture's
    return replace(chosen, intrinsics=intrinsics, height=1, width=1)


def spherical(cameras: Cameras) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Azimuth and elevation in degrees and distance of each camera from the origin."""
    x, y, z = cameras.centers.unbind(1)
    radius = cameras.centers.norm(dim=1)
    azimuth = torch.rad2deg(torch.atan2(x, z))
    elevation = torch.rad2deg(torch.asin((y / radius.clamp_min(1e-12)).clamp(-1.0, 1.0)))
    return azimuth, elevation, radius


def view_features(cameras: Cameras) -> Float[Tensor, "B 16"]:
    """What a camera-conditioned prior is told about each view; zeros stand for "any camera".

    cos and sin of 1, 2, 4, 8 times the azimuth; of 1, 2, 4 times the elevation; the apparent size of the
    unit sphere (its tangent over that of half the field of view, centred), and a constant 1.
    """
    azimuth, elevation, radius = spherical(cameras)
    a, e = torch.deg2rad(azimuth).unsqueeze(1), torch.deg2rad(elevation).unsqueeze(1)
    harmonics_a = a * a.new_tensor([1.0, 2.0, 4.0, 8.0])
    harmonics_e = e * e.new_tensor([1.0, 2.0, 4.0])
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
    """What a prior that turns a picture is told about each view: its features as seen from the picture's side, then
    cos and sin of the picture's elevation, sin of twice that, and the apparent size of the unit sphere in it.

    azimuth, elevation, distance: where the picture was seen from, degrees and world units, with the views' lens.
    """
    turn, up = torch.deg2rad(torch.as_tensor(azimuth)), torch.deg2rad(torch.as_tensor(elevation))
    turn, up = turn.to(cameras.centers).expand(len(cameras)), up.to(cameras.centers).expand(len(cameras))
    back = cameras.world_from_camera.clone()
    x, z = cameras.world_from_camera[:, 0, 3], cameras.world_from_camera[:, 2, 3]
    back[:, 0, 3] = turn.cos() * x - turn.sin() * z
    back[:, 2, 3] = turn.sin() * x + turn.cos() * z
    features = view_features(replace(cameras, world_from_camera=back))
    sphere = torch.as_tensor(distance).to(cameras.centers).expand(len(cameras)).square() - 1.0
    size = 4.0 * (sphere.clamp_min(1e-2).rsqrt() * 2.0 * cameras.intrinsics[:, 1, 1] / cameras.height - 1.05)
    known = torch.stack([up.cos(), up.sin(), (2.0 * up).sin(), size], dim=1)
    return torch.cat([features, known], dim=1)


def convert(world_from_camera: Float[Tensor, "B 4 4"], source: str, target: str) -> Float[Tensor, "B 4 4"]:
    """Camera-to-world matrices from one named convention to another.

    opencv: x right, y down, z forward, +Y-up world (threedgen's own). srn: the same camera axes.
    opengl: x right, y up, looks along -z, +Y-up world. blender: opengl's camera in a z-up world.
    Raises UserError for an unknown name. Source: METHODS 12.1.
    """
    for name in (source, target):
        if name not in _CAMERA_AXES:
            raise UserError(f"unknown camera convention '{name}': use one of {', '.join(_CAMERA_AXES)}")
    y_up_from_z_up = world_from_camera.new_tensor(_Y_UP_FROM_Z_UP)
    if source == "blender":
        world_from_camera = y_up_from_z_up @ world_from_camera
    axes = [a * b for a, b in zip(_CAMERA_AXES[source], _CAMERA_AXES[target], strict=True)]
    world_from_camera = world_from_camera * world_from_camera.new_tensor([*axes, 1.0])
    if target == "blender":
        world_from_camera = y_up_from_z_up.T @ world_from_camera
    return world_from_camera


class OrbitSampler(CameraRoles):
    """Training views: groups of four, a quarter turn apart, from a random start."""

    together = 4
    """Views that share a draw."""

    @dataclass(frozen=True)
    class Config:
        """batch: views a step. resolution: pixels, a number or a schedule. fov: degrees, vertical.

        radius, elevation: [low, high], uniform, one draw a group of four views.
        azimuth: [low, high] degrees of the group's start.
        """

        batch: int = 4
        resolution: Schedule = 64
        fov: float = 40.0
        radius: tuple[float, float] = (2.6, 3.1)
        elevation: tuple[float, float] = (-10.0, 45.0)
        azimuth: tuple[float, float] = (0.0, 360.0)

    def __init__(self, config: Config) -> None:
        """Raises UserError for values that no camera can have."""
        if config.batch < 1:
            raise UserError(f"cameras.batch must be at least 1, got {config.batch}")
        if not 0.0 < config.fov < 180.0:
            raise UserError(f"cameras.fov must lie between 0 and 180 degrees, got {config.fov}")
        sizes, near_far, heights = bounds(config.resolution), config.radius, config.elevation
        # Every comparison with NaN is false, so each check says what must hold.
        if not (sizes[0] >= 1.0 and sizes[1] < math.inf):
            raise UserError(f"cameras.resolution must be at least 1 pixel all the time, got {sizes[0]:g}")
        if not 0.0 < near_far[0] <= near_far[1] < math.inf:
            raise UserError(f"cameras.radius must be [low, high] with 0 < low <= high, got {list(near_far)}")
        if not -90.0 <= heights[0] <= heights[1] <= 90.0:
            raise UserError(
                "cameras.elevation must be [low, high] in order between -90 and 90 degrees, "
                f"got {list(heights)}"
            )
        if not all(map(math.isfinite, config.azimuth)):
            raise UserError(f"cameras.azimuth must be two angles in degrees, got {list(config.azimuth)}")
        self.config = config

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """The views of one step of a run of `total` steps; a function of its arguments alone."""
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
