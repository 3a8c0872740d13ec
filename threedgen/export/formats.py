"""The built-in exporters of meshes: each turns a primitive into what its format holds, and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from threedgen.core.types import Primitive, TriMesh
from threedgen.export import as_mesh
from threedgen.export.gltf import write_glb
from threedgen.export.mesh import MeshConfig
from threedgen.export.obj import write_obj
from threedgen.export.packing import Packing
from threedgen.export.stl import write_stl


@dataclass(frozen=True)
class Glb:
    """A mesh with a texture or vertex colours, for Blender, Unity and three.js, as .glb, or as .gltf with all
    of it in one file of text. The note is in `asset.extras`."""

    packing: Packing = field(default_factory=Packing)

    holds_mesh = True

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh:
        assert isinstance(primitive, TriMesh)
        write_glb(path, primitive, note, packing=self.packing)
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


class Stl:
    """The bare triangles, for 3D printers. There is no place for the note."""

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh:
        surface = as_mesh(primitive, mesh.plain())  # it has no colours
        write_stl(path, surface)
        return surface


class Usd:
    """A mesh with a texture or vertex colours, for Apple's programs and film tools. The note is in
    customLayerData."""

    holds_mesh = True

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh:
        from threedgen.export.usd import write_usd

        assert isinstance(primitive, TriMesh)
        write_usd(path, primitive, note=note)
        return primitive


class Page:
    """A web page that shows a mesh with its texture or vertex colours. Its title is the prompt of the note."""

    holds_mesh = True

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh:
        from threedgen.export.player import write_page

        assert isinstance(primitive, TriMesh)
        write_page(path, primitive, title=str(note.get("prompt", "")))
        return replace(
            primitive, material=None
        )  # no program lights a page, so nothing is to be said about that


def lines_of(note: Mapping[str, Any]) -> str:
    """A note as comments, one line `key: value` for each entry."""
    return "\n".join(f"{key}: {' '.join(str(value).split())}" for key, value in note.items())
