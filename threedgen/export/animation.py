"""An asset in motion as files: a mesh of fixed topology that the motion carries, and pictures of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.types import Frames, TriMesh
from threedgen.export.mesh import vertex_normals
from threedgen.export.video import Frame, to_uint8
from threedgen.renderers.base import Renderer

_NEIGHBOURS = 4  # Gaussians that a vertex goes along with
_MOST = 5000  # frames: minutes, and files of gigabytes
ELEVATION, FOV_Y = 15.0, 40.0  # degrees, of the camera of films


@dataclass(frozen=True)
class Animation:
    """What a motion does to a mesh: vertices [T, V, 3] and normals [T, V, 3] at `times` [T], seconds from 0 on.

    loop: players begin again at the end; otherwise they stop there.
    """

    times: Float[Tensor, " T"]
    vertices: Float[Tensor, "T V 3"]
    normals: Float[Tensor, "T V 3"]
    loop: bool = True

    def __post_init__(self) -> None:
        count = len(self.times)
        if count < 2 or self.vertices.shape[0] != count or self.normals.shape != self.vertices.shape:
            raise ValueError(f"{count} times for vertices of {tuple(self.vertices.shape)}")


@dataclass(frozen=True)
class Timing:
    """seconds: of the whole motion. fps: frames a second that are written. loop: it begins again at its end."""

    seconds: float = 2.0
    fps: float = 24.0
    loop: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.seconds < float("inf"):
            raise UserError(f"the motion lasts {self.seconds:g} seconds: give --seconds a positive number")
        if not 0.0 < self.fps <= 240.0:
            raise UserError(f"{self.fps:g} frames a second: give --fps a number above 0, at most 240")
        if self.seconds * self.fps > _MOST:
            raise UserError(
                f"{self.seconds:g} seconds at {self.fps:g} frames a second are more than {_MOST} frames: lower one"
            )
        if self.frames < 2:
            raise UserError(
                f"{self.seconds:g} seconds at {self.fps:g} frames a second are one frame: nothing would move"
            )

    @property
    def frames(self) -> int:
        """Intervals of 1 / fps seconds, the first and the last moment included."""
        return round(self.seconds * self.fps) + 1

    def moments(self) -> Float[Tensor, " T"]:
        """The times of the frames as shares of the motion, 0 to 1."""
        return torch.linspace(0.0, 1.0, self.frames)

    def shown(self) -> Float[Tensor, " T"]:
        """The moments that a film shows: in a loop the last one is left out, for it is the first one again."""
        return self.moments()[: -1 if self.loop else None]


@dataclass(frozen=True)
class Config(Timing):
    """azimuth: degrees from the front where the camera of a film is at first. turn: degrees that it goes round
    during the motion; 0: it stands still, 360: once around, without a jump where a loop closes. radius: world units
    from the camera to the origin, at which it looks; at 4.9, what moves by its own radius stays in the picture."""

    azimuth: float = 25.0
    turn: float = 0.0
    radius: float = 4.9

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("azimuth", "turn"):
            if not abs(getattr(self, name)) < float("inf"):
                raise UserError(f"export.animation.{name} is {getattr(self, name)}: give a number of degrees")
        if not 0.0 < self.radius < float("inf"):
            raise UserError(f"export.animation.radius is {self.radius}: give a positive distance")


def carried(
    vertices: Float[Tensor, "V 3"], rest: Float[Tensor, "N 3"], moved: Float[Tensor, "T N 3"]
) -> Float[Tensor, "T V 3"]:
    """Where the vertices of a surface are when what it was taken from has moved: each goes along with the points
    that rest nearest to it, weighted by their inverse squared distance."""
    count = min(_NEIGHBOURS, len(rest))
    result = []
    for block in vertices.split(4096):
        distance, nearest = torch.cdist(block, rest).topk(count, largest=False)
        weight = 1.0 / (distance.square() + 1e-8)
        weight = weight / weight.sum(1, keepdim=True)
        shift = (moved - rest)[:, nearest]  # [T, v, K, 3]
        result.append(block + (weight[None, :, :, None] * shift).sum(2))
    return torch.cat(result, dim=1)


def animated(
    mesh: TriMesh, rest: Float[Tensor, "N 3"], moved: Float[Tensor, "T N 3"], timing: Timing
) -> Animation:
    """The animation of a mesh that was taken from the points `rest`, which are at `moved` at timing's moments."""
    vertices = carried(mesh.vertices.cpu(), rest.cpu(), moved.cpu())
    faces = mesh.faces.cpu().numpy()
    normals = np.stack([vertex_normals(frame.double().numpy(), faces) for frame in vertices])
    return Animation(
        timing.seconds * timing.moments(), vertices, torch.from_numpy(normals).float(), timing.loop
    )


def film(renderer: Renderer[Frames], scene: object, config: Config, size: int) -> Iterator[Frame]:
    """Square pictures on white of a scene whose `at` answers times, from the camera of `config`. size: pixels."""
    moments = config.shown()
    azimuths = config.azimuth + config.turn * moments
    for moment, azimuth in zip(moments.split(1), azimuths.split(1), strict=True):
        one = torch.ones(1)
        camera = orbit(azimuth, ELEVATION * one, config.radius * one, FOV_Y, size, size)
        with torch.no_grad():
            moving = scene.at(moment)  # pyright: ignore[reportAttributeAccessIssue]
            picture = renderer(moving, camera, torch.ones(3)).rgb[0]
        yield to_uint8(picture)
