"""What the files of a moving asset hold: a mesh of fixed topology whose vertices move, and a film."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.png import to_uint8
from threedgen.core.settings import above, between, finite, settings
from threedgen.core.types import Frames, TriMesh
from threedgen.export.carrying import carried
from threedgen.export.seams import smooth_normals, welds
from threedgen.export.video import Frame
from threedgen.renderers.base import Renderer

_MOST_FRAMES = 5000  # more would take many minutes and gigabytes
ELEVATION, FOV_Y = 15.0, 40.0  # degrees, of the camera of films


@dataclass(frozen=True)
class Animation:
    """The motion of a mesh: its vertices [T, V, 3] and unit normals [T, V, 3] at `times` [T], in seconds from 0.

    loop: whether players begin again at the end; if not, they stop there.
    """

    times: Float[Tensor, " T"]
    vertices: Float[Tensor, "T V 3"]
    normals: Float[Tensor, "T V 3"]
    loop: bool = True

    def __post_init__(self) -> None:
        count = len(self.times)
        if count < 2 or self.vertices.shape[0] != count or self.normals.shape != self.vertices.shape:
            raise ValueError(f"{count} times for vertices of {tuple(self.vertices.shape)}")


@settings
class Timing:
    """The times of the frames of a motion.

    Attributes:
        seconds (seconds): Duration of the whole motion.
        fps (frames per second): Rate of the frames that are written.
        loop: Whether the motion begins again at its end.
    """

    seconds: Annotated[float, above(0.0)] = 2.0
    fps: Annotated[float, between(0.0, 240.0, open_low=True)] = 24.0
    loop: bool = True

    def __post_init__(self) -> None:
        if self.seconds * self.fps > _MOST_FRAMES:
            raise UserError(
                f"{self.seconds:g} seconds at {self.fps:g} frames per second are more than {_MOST_FRAMES} frames: "
                "lower one of the two"
            )
        if self.frames < 2:
            raise UserError(
                f"{self.seconds:g} seconds at {self.fps:g} frames per second are a single frame, in which nothing "
                "moves: raise one of the two"
            )

    @property
    def frames(self) -> int:
        """Number of frames, 1 / fps seconds apart, including the first and the last moment."""
        return round(self.seconds * self.fps) + 1

    def moments(self) -> Float[Tensor, " T"]:
        """The times of the frames as shares of the motion, from 0 to 1."""
        return torch.linspace(0.0, 1.0, self.frames)

    def shown(self) -> Float[Tensor, " T"]:
        """The moments that a film shows. A loop leaves out the last one, which is the same as the first one."""
        return self.moments()[: -1 if self.loop else None]


@settings
class Config(Timing):
    """The times of a motion, and the camera of its film, which looks at the origin.

    Attributes:
        azimuth (degrees): Where the camera is at first, counted from the front.
        turn (degrees): How far the camera goes around during the motion. With 0 it stands still; with 360 it goes
            around once, and a loop closes without a jump.
        radius (world units): Distance of the camera from the origin. At 4.9 an asset that moves by its own radius
            stays in the picture.
    """

    azimuth: Annotated[float, finite] = 25.0
    turn: Annotated[float, finite] = 0.0
    radius: Annotated[float, above(0.0)] = 4.9


def animated(
    mesh: TriMesh, rest: Float[Tensor, "N 3"], moved: Float[Tensor, "T N 3"], timing: Timing
) -> Animation:
    """The animation of a mesh that was extracted from the points `rest`. moved: the points at timing.moments()."""
    vertices = carried(mesh.vertices, rest, moved)
    faces, same = mesh.faces.cpu().numpy(), welds(mesh)
    normals = np.stack([smooth_normals(frame.double().numpy(), faces, same) for frame in vertices])
    return Animation(
        timing.seconds * timing.moments(), vertices, torch.from_numpy(normals).float(), timing.loop
    )


def film(renderer: Renderer[Frames], scene: Any, config: Config, size: int) -> Iterator[Frame]:
    """Square pictures of a scene on white, seen by the camera of `config`.

    scene: its `at` takes times and gives Frames. size: pixels.
    """
    moments = config.shown()
    azimuths = config.azimuth + config.turn * moments
    for moment, azimuth in zip(moments.split(1), azimuths.split(1), strict=True):
        one = torch.ones(1)
        camera = orbit(azimuth, ELEVATION * one, config.radius * one, FOV_Y, size, size)
        with torch.no_grad():
            moving = scene.at(moment)
            picture = renderer(moving, camera, torch.ones(3)).rgb[0]
        yield to_uint8(picture)
