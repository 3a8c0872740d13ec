"""The built-in exporters: each turns a primitive into what its format holds, and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud, Primitive, TriMesh
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.gltf import write_glb
from threedgen.export.mesh import MeshConfig
from threedgen.export.obj import write_obj
from threedgen.export.splat import write_splats


class Glb:
    """A mesh with a texture or vertex colours, for Blender, Unity and three.js. The note is in `asset.extras`."""

    holds_mesh = True

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh:
        assert isinstance(primitive, TriMesh)
        write_glb(path, primitive, note)
        return primitive


class Obj:
    """A mesh with a texture (in a .mtl and a .png beside it) or vertex colours. The note is in comments."""

    holds_mesh = True

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh:
        assert isinstance(primitive, TriMesh)
        write_obj(path, primitive, lines_of(note))
        return primitive


class SplatPly:
    """3D Gaussians for splat viewers. The note is in comments."""

    def write(self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig) -> None:
        if not isinstance(primitive, GaussianCloud):
            raise UserError(
                f"cannot write {path}: .ply holds 3D Gaussians, this asset has none; use .glb or .obj"
            )
        write_splats(path, SplatParameters.from_cloud(primitive), lines_of(note))


def lines_of(note: Mapping[str, Any]) -> str:
    """A note as comments, one line `key: value` for each entry."""
    return "\n".join(f"{key}: {' '.join(str(value).split())}" for key, value in note.items())
