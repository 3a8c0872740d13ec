"""A scene that moves, in every format that holds a motion: chosen by the suffix of the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import Frames, TriMesh
from threedgen.export import as_mesh, gltf, sequence, video
from threedgen.export.animation import Animation, Config, animated, film
from threedgen.export.mesh import MeshConfig
from threedgen.renderers.base import Renderer

_USD = (".usdz", ".usda", ".usdc")
MOTION_SUFFIXES = (*_USD, ".html", *video.SUFFIXES)  # of files that are of what moves only
_PATTERN = "*.ply"
_AT_ONCE = 32  # moments


def holds_motion(path: Path) -> bool:
    """Whether a file of that name is written with the motion of what moves: by its suffix, DIR/*.ply, or a folder
    name (of PNG frames)."""
    return path.suffix.lower() in ("", ".glb", *MOTION_SUFFIXES) or "*" in path.name


@dataclasses.dataclass(frozen=True)
class MovingAsset:
    """A scene that moves and how it is written; its mesh is made once, when a format first wants it.

    scene: has `means` [N, 3], `moved(times [T]) -> [T, N, 3]` and `at`, on the CPU; a scene of several assets
    also `surface(mesh config, moved, timing) -> (mesh, animation)`, for a mesh of its own. config: its times and
    the camera of films. mesh: how the surface is taken from it at rest. renderer: of its Frames. size: pixels of
    a film. note: JSON values (prompt, seed, ...) for the files.
    """

    scene: Any
    config: Config
    mesh: MeshConfig
    renderer: Renderer[Frames]
    size: int = 256
    note: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def moved(self) -> Float[Tensor, "T N 3"]:
        """Where the points are at the moments that files hold."""
        with torch.no_grad():
            # In parts: a field of many points at many moments at once takes gigabytes.
            return torch.cat([self.scene.moved(part) for part in self.config.moments().split(_AT_ONCE)])

    @cached_property
    def surface(self) -> tuple[TriMesh, Animation]:
        """The mesh as it is at the first moment, and its animation. Raises NoSurface where there is none."""
        with torch.no_grad():
            if hasattr(self.scene, "surface"):
                mesh, motion = self.scene.surface(self.mesh, self.moved, self.config)
            else:
                mesh = as_mesh(self.scene.at(None), self.mesh)
                motion = animated(mesh, self.scene.means, self.moved, self.config)
        return dataclasses.replace(mesh, vertices=motion.vertices[0], normals=motion.normals[0]), motion

    @property
    def distance(self) -> float:
        """How far it is from where it rests at the farthest moment: the mean over its points, in world units."""
        away = torch.linalg.vector_norm(self.moved - self.scene.means, dim=2)
        return float(away.mean(1).max())

    def write(self, path: str | Path) -> None:
        """.glb, .usdz, .usda, .usdc, .html (a player), .mp4, .gif, .webp, DIR/*.ply or a folder of PNG frames.

        Raises UserError for another name, for what has no surface where a mesh is wanted, and when the place cannot
        be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if "*" in path.name:
            if path.name != _PATTERN:
                raise UserError(f"cannot export to {path}: name a sequence of splats as DIR/{_PATTERN}")
            sequence.write_sequence(path.parent, self.scene, self.config, self.note)
        elif suffix == ".glb":
            mesh, motion = self.surface
            gltf.write_glb(path, mesh, self.note, motion)
        elif suffix in _USD:
            from threedgen.export.usd import write_usd

            write_usd(path, *self.surface, fps=self.config.fps, note=self.note)
        elif suffix == ".html":
            from threedgen.export.player import write_player

            write_player(path, *self.surface, self.config, title=str(self.note.get("prompt", "")))
        else:
            frames = film(self.renderer, self.scene, self.config, self.size)
            video.write_video(path, frames, self.config.fps, self.config.loop)
