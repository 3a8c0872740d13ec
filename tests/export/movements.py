"""A ball of Gaussians that moves by a formula, for tests of the files of motions."""

from __future__ import annotations

import functools
from typing import Any

import torch
from clouds import ball

from threedgen.core.types import Frames, GaussianCloud, TriMesh
from threedgen.export import as_mesh
from threedgen.export.animation import Animation, Config, Timing, animated
from threedgen.export.mesh import MeshConfig
from threedgen.export.moving import MovingAsset
from threedgen.renderers.splatting import SplattingRenderer


class RisingBall:
    """Rises by 1 and stretches; Gaussian k is the same one at every moment."""

    def __init__(self) -> None:
        self.cloud = ball()
        self.means = self.cloud.means

    def moved(self, times: torch.Tensor) -> torch.Tensor:
        up = times[:, None] * (1.0 + self.means[:, 1] ** 2)
        return self.means + up[..., None] * torch.tensor([0.0, 1.0, 0.0])

    def at(self, time: torch.Tensor | None = None) -> GaussianCloud | Frames:
        if time is None:
            return self.cloud
        others = [getattr(self.cloud, name) for name in ("quats", "scales", "opacities", "sh")]
        clouds = tuple(GaussianCloud(means, *others) for means in self.moved(time))
        return Frames(clouds, torch.arange(len(time)), time)


MESH = MeshConfig(resolution=24, faces=500)


@functools.cache
def ball_mesh() -> TriMesh:
    return as_mesh(ball(), MESH.plain())


class MeshedBall(RisingBall):
    """Has its mesh ready, because extracting it again would take most of the time of each test."""

    def surface(self, mesh: MeshConfig, moved: torch.Tensor, timing: Timing) -> tuple[TriMesh, Animation]:
        return ball_mesh(), animated(ball_mesh(), self.means, moved, timing)


def rising_ball(note: dict[str, Any] | None = None, **settings: Any) -> MovingAsset:
    """settings: of its `animation.Config`; the default is 1 second at 6 frames per second."""
    config = Config(**{"seconds": 1.0, "fps": 6.0, **settings})
    note = {"prompt": "a ball rising"} if note is None else note
    return MovingAsset(MeshedBall(), config, MESH, SplattingRenderer(), size=33, note=note)
