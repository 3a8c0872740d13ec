"""The built-in exporters of meshes: each turns a primitive into what its format holds, and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from threedgen.core.types import Primitive, TriMesh
from threedgen.export import as_mesh
from threedgen.export.gltf import write_glb
from threedgen.export.mesh import MeshConfig
from threedgen.export.obj import write_obj


class Glb:
    """A mesh with a texture or vertex colours, for Blender, Unity and three.js. The note is in `asset.extras`."""

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh:
        surface = as_mesh(primitive, mesh)
        write_glb(path, surface, note)
        return surface


class Obj:
    """A mesh with a texture (in a .mtl and a .png beside it) or vertex colours. The note is in comments."""

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh:
        surface = as_mesh(primitive, mesh)
        write_obj(path, surface, lines_of(note))
        return surface


def lines_of(note: Mapping[str, Any]) -> str:
    """A note as comments, one line `key: value` for each entry."""
    return "\n".join(f"{key}: {' '.join(str(value).split())}" for key, value in note.items())
