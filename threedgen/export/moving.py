"""Writes a scene that moves in every format that holds a motion, chosen by the suffix of the file name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.material import Wish
from threedgen.core.types import Frames, TriMesh
from threedgen.export import as_mesh, gltf, sequence, video
from threedgen.export.animation import Animation, Config, Timing, animated, film
from threedgen.export.materials import Look, dressed
from threedgen.export.mesh import MeshConfig
from threedgen.export.names import SEQUENCE, USD
from threedgen.export.packing import Packing
from threedgen.export.splat_settings import SplatConfig
from threedgen.renderers.base import Renderer

_PLAIN = Packing()
_AT_ONCE = 32  # moments in one call of a scene


@runtime_checkable
class OwnSurface(Protocol):
    """A scene that makes its own animated mesh, such as one of several assets that must not be joined."""

    def surface(
        self, config: MeshConfig, moved: Float[Tensor, "T N 3"], timing: Timing
    ) -> tuple[TriMesh, Animation]:
        """The mesh and its animation. moved: the points of the scene at timing.moments()."""
        ...


@dataclasses.dataclass(frozen=True)
class MovingAsset:
    """A scene that moves, and how it is written. Its mesh is made once, when a format first needs it.

    scene: on the CPU, with `means` [N, 3], `moved(times [T]) -> [T, N, 3]` and `at`; it may be an OwnSurface.
    config: the times and the camera of films. mesh: how the surface is made of the scene at rest. renderer: of
    its Frames. size: of a film, in pixels. note: JSON values (prompt, seed and so on) for the metadata of the
    files. splats: how its Gaussians are written. look: what is known of the light in its colours.
    """

    scene: Any
    config: Config
    mesh: MeshConfig
    renderer: Renderer[Frames]
    size: int = 256
    note: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    splats: SplatConfig = dataclasses.field(default_factory=SplatConfig)
    look: Look = dataclasses.field(default_factory=Look)

    @cached_property
    def moved(self) -> Float[Tensor, "T N 3"]:
        """Where the points are at the moments of the files."""
        with torch.no_grad():
            # A few moments at a time, because many points at many moments at once take gigabytes.
            return torch.cat([self.scene.moved(times) for times in self.config.moments().split(_AT_ONCE)])

    @cached_property
    def surface(self) -> tuple[TriMesh, Animation]:
        """The mesh at the first moment, with its material, and its animation. Raises NoSurface if nothing is opaque
        enough."""
        return self._at_begin(self.mesh.material)

    def _at_begin(self, wish: Wish) -> tuple[TriMesh, Animation]:
        mesh, motion = self._at_rest
        mesh = dressed(mesh, wish, self.look)  # in the pose in which it was lit
        return dataclasses.replace(mesh, vertices=motion.vertices[0], normals=motion.normals[0]), motion

    @cached_property
    def _at_rest(self) -> tuple[TriMesh, Animation]:
        with torch.no_grad():
            if isinstance(self.scene, OwnSurface):
                mesh, motion = self.scene.surface(self.mesh, self.moved, self.config)
            else:
                mesh = as_mesh(self.scene.at(None), self.mesh.plain())
                motion = animated(mesh, self.scene.means, self.moved, self.config)
            return mesh, motion

    @property
    def distance(self) -> float:
        """Mean distance of the points from rest, in world units, at the moment when it is largest."""
        away = torch.linalg.vector_norm(self.moved - self.scene.means, dim=2)
        return float(away.mean(1).max())

    def write(self, path: str | Path, packing: Packing = _PLAIN) -> TriMesh | None:
        """Writes .glb, .gltf, .usdz, .usda, .usdc, .html, .mp4, .gif, .webp, DIR/*.ply or PNGs in a folder.

        packing: how a .glb or .gltf is made smaller. Returns the mesh at the first moment if the format holds one.
        Raises UserError for another name, for an asset without a surface if the format holds a mesh, and if the
        place cannot be written.
        """
        path = Path(path)
        packing.check(path)
        suffix = path.suffix.lower()
        if "*" in path.name:
            if path.name != SEQUENCE:
                raise UserError(f"cannot export to {path}: write a sequence of splats as DIR/{SEQUENCE}")
            sequence.write_sequence(path.parent, self.scene, self.config, self.splats, self.note)
            return None
        if suffix in (".glb", ".gltf"):
            mesh, motion = self.surface
            gltf.write_glb(path, mesh, self.note, motion, packing)
        elif suffix in USD:
            from threedgen.export.usd import write_usd

            write_usd(path, *self.surface, fps=self.config.fps, note=self.note)
        elif suffix == ".html":
            from threedgen.export.player import write_page

            title = str(self.note.get("prompt", ""))
            wish = "lit" if self.mesh.material == "lit" else "unlit"  # a page has no lights of its own
            write_page(path, *self._at_begin(wish), azimuth=self.config.azimuth, title=title)
            return dataclasses.replace(self.surface[0], material=None)
        else:
            frames = film(self.renderer, self.scene, self.config, self.size)
            video.write_video(path, frames, self.config.fps, self.config.loop)
            return None
        return self.surface[0]
