"""The built-in exporters: a primitive, turned into what the format holds, and written."""

from __future__ import annotations

from pathlib import Path

from threedgen.errors import UserError
from threedgen.export.gltf import write_glb
from threedgen.export.mesh import MeshConfig, extract_mesh
from threedgen.export.obj import write_obj
from threedgen.export.splat import SplatParameters, write_splats
from threedgen.types import GaussianCloud, Primitive, TriMesh


class Glb:
    """A mesh with vertex colours, for Blender, Unity, three.js. The prompt is in `asset.extras.prompt`."""

    def write(self, primitive: Primitive, path: Path, *, prompt: str, mesh: MeshConfig) -> None:
        write_glb(path, _as_mesh(primitive, path, mesh), {"prompt": prompt} if prompt else None)


class Obj:
    """A mesh with colours behind the vertices. The prompt is in a comment."""

    def write(self, primitive: Primitive, path: Path, *, prompt: str, mesh: MeshConfig) -> None:
        write_obj(path, _as_mesh(primitive, path, mesh), prompt)


class SplatPly:
    """3D Gaussians for splat viewers. The prompt is in a comment."""

    def write(self, primitive: Primitive, path: Path, *, prompt: str, mesh: MeshConfig) -> None:
        if not isinstance(primitive, GaussianCloud):
            raise UserError(
                f"cannot write {path}: .ply holds 3D Gaussians, this asset has none; use .glb or .obj"
            )
        write_splats(path, SplatParameters.from_cloud(primitive), prompt)


def _as_mesh(primitive: Primitive, path: Path, config: MeshConfig) -> TriMesh:
    if isinstance(primitive, TriMesh):
        return primitive
    if isinstance(primitive, GaussianCloud):
        return extract_mesh(primitive, config)
    raise UserError(f"cannot write {path}: no mesh can be made of a {type(primitive).__name__} yet")
