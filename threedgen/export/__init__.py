"""The exporters: what users open in Blender, Unity or a browser, chosen by the suffix of the file.

Every file is written beside its place and moved over it, so that a failure leaves what was there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from threedgen.core.types import Primitive, TriMesh
    from threedgen.export.mesh import MeshConfig
    from threedgen.representations.base import Representation

_EXPORTERS = {
    ".glb": "threedgen.export.formats:Glb",
    ".obj": "threedgen.export.formats:Obj",
    ".ply": "threedgen.export.formats:SplatPly",
}


class Exporter(Protocol):
    """Writes one primitive into one file format. A class of that shape, made without arguments."""

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh | None:
        """Writes `path`, whole or not at all; returns the mesh if the format holds one.

        Raises UserError when the primitive does not fit the format.
        """
        ...


def suffixes() -> list[str]:
    """The file suffixes `write` knows."""
    return list(_EXPORTERS)


def write(
    asset: Representation | Primitive,
    path: str | Path,
    *,
    note: Mapping[str, Any] | None = None,
    mesh: MeshConfig | None = None,
) -> TriMesh | None:
    """Writes an asset in the format its suffix names; returns the mesh for formats that hold one.

    asset: a representation (taken at time 0) or a primitive. .glb and .obj hold a mesh with its texture or vertex
    colours (Gaussians and fields are meshed as `mesh` says), .ply holds 3D Gaussians. note: plain
    JSON values (prompt, seed, ...) for the file's own metadata: asset.extras of a GLB, comments elsewhere.
    Raises UserError: unknown suffix, an asset that does not fit the format, a place that cannot be written.
    """
    from threedgen.core.plugins import load
    from threedgen.export.mesh import MeshConfig

    path = Path(path)
    target = exporter_of(path)
    at: Any = getattr(asset, "at", lambda: asset)  # a primitive is what it is at any time
    exporter: Exporter = load(target)()
    return exporter.write(at(), path, note=note or {}, mesh=mesh or MeshConfig())


def as_mesh(primitive: Primitive, config: MeshConfig) -> TriMesh:
    """The surface of any primitive, in its own place, with normals.

    Raises NoSurface where there is none to see, and UserError for a mesh that no file can hold (`check_mesh`).
    """
    from threedgen.core.types import GaussianCloud, TriMesh

    if isinstance(primitive, TriMesh):
        return _with_normals(primitive)
    if isinstance(primitive, GaussianCloud):
        from threedgen.export.mesh import extract_mesh

        return extract_mesh(primitive, config)
    from threedgen.export.field_mesh import extract_field_mesh

    return extract_field_mesh(primitive, config)


def _with_normals(mesh: TriMesh) -> TriMesh:
    """Viewers shade a mesh without normals face by face."""
    from dataclasses import replace

    import torch

    from threedgen.export.mesh import NoSurface, vertex_normals
    from threedgen.representations.mesh_checks import check_mesh

    if len(mesh.faces) == 0:
        raise NoSurface("no mesh: the asset has no triangles; run more steps")
    check_mesh(mesh, "cannot take the mesh of this asset")
    if mesh.normals is not None:
        return mesh

    normals = vertex_normals(mesh.vertices.detach().cpu().double().numpy(), mesh.faces.cpu().numpy())
    return replace(mesh, normals=torch.from_numpy(normals).to(mesh.vertices))


def exporter_of(path: str | Path) -> str:
    """`package.module:Class` of the exporter for this suffix; nothing is imported but a plug-in's metadata.

    Built-in formats come first; others are entry points in the group `threedgen.exporter`, named by suffix
    without the dot. Raises UserError for an unknown suffix, naming the known ones.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _EXPORTERS:
        return _EXPORTERS[suffix]
    from importlib.metadata import entry_points

    declared = {f".{point.name}": point.value for point in entry_points(group="threedgen.exporter")}
    if suffix in declared:
        return declared[suffix]
    known = ", ".join([*_EXPORTERS, *sorted(declared)])
    what = f"the suffix '{suffix}' is unknown" if suffix else "the file name has no suffix"
    raise UserError(f"cannot export to {path}: {what}; use one of {known}")
