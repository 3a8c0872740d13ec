"""Exporters: the files that users open in Blender, Unity or a browser, chosen by the suffix of the file name.

Every file is written beside its final place and then moved there, so that a failure leaves an earlier file as
it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from threedgen.core.types import Primitive, TriMesh
    from threedgen.export.materials import Look
    from threedgen.export.mesh import MeshConfig
    from threedgen.export.packing import Packing
    from threedgen.export.splat_settings import SplatConfig
    from threedgen.export.views import View
    from threedgen.representations.base import Representation

_EXPORTERS = {
    ".glb": "threedgen.export.formats:Glb",
    ".obj": "threedgen.export.formats:Obj",
    ".gltf": "threedgen.export.formats:Glb",
    ".stl": "threedgen.export.formats:Stl",
    ".usdz": "threedgen.export.formats:Usd",
    ".usda": "threedgen.export.formats:Usd",
    ".usdc": "threedgen.export.formats:Usd",
    ".html": "threedgen.export.formats:Page",
    ".ply": "threedgen.export.splat_formats:SplatPly",
    ".compressed.ply": "threedgen.export.splat_formats:CompressedPly",
    ".splat": "threedgen.export.splat_formats:SplatRecords",
    ".spz": "threedgen.export.splat_formats:Spz",
    ".sog": "threedgen.export.splat_formats:Sog",
    ".splats.glb": "threedgen.export.splat_formats:SplatGlb",
    ".splats.usda": "threedgen.export.splat_formats:SplatUsda",
    ".splats.usdz": "threedgen.export.splat_formats:SplatUsdz",
}

_OF_MESHES = "threedgen.export.formats:"

_VIEWS, _PIXELS = 24, 192  # of the renders that a mesh must look like


class Exporter(Protocol):
    """A class, made without arguments, whose objects write a primitive in one file format.

    It may have an attribute `holds_mesh`, which is true if it is to be given the surface of every asset.
    """

    def write(
        self, primitive: Primitive, path: Path, *, note: Mapping[str, Any], mesh: MeshConfig
    ) -> TriMesh | None:
        """Writes `path` as a whole or not at all; returns the mesh if the format holds one.

        note: plain JSON values for the metadata of the file. mesh: how a surface is made of a primitive that
        has none. Raises UserError if the primitive does not fit the format or the place cannot be written.
        """
        ...


def suffixes() -> list[str]:
    """The suffixes of the built-in formats."""
    return list(_EXPORTERS)


def suffix_of(path: str | Path) -> str:
    """The end of a file name that says its format, in lower case: .compressed.ply of a.compressed.ply, .ply of
    a.b.ply; empty if there is none.

    Of a.splats.gltf it is .splats.gltf, which no exporter has: who asks for Gaussians is not given a mesh.
    """
    ends = [part.lower() for part in Path(path).suffixes]
    both, last = "".join(ends[-2:]), "".join(ends[-1:])
    asks_for_splats = both == f".splats{last}" and _EXPORTERS.get(last, "").startswith(_OF_MESHES)
    return both if both in _EXPORTERS or asks_for_splats else last


def write(
    asset: Representation | Primitive,
    path: str | Path,
    *,
    note: Mapping[str, Any] | None = None,
    mesh: MeshConfig | None = None,
    splats: SplatConfig | None = None,
    packing: Packing | None = None,
    given: Sequence[View] = (),
    look: Look | None = None,
) -> TriMesh | None:
    """Writes an asset in the format of its suffix; returns the mesh if the format holds one.

    asset: a representation (as it is at time 0) or a primitive. docs/formats.md says which suffix holds a mesh and
    which 3D Gaussians. note: plain JSON values (prompt, seed and so on) for the metadata of the file, in formats
    that have a place for it. mesh: how Gaussians and fields become a mesh. splats: how Gaussians are written in
    formats that hold them. packing: how a .glb or .gltf is made smaller; other formats cannot be. given: pictures
    that the asset was made from, for its texture. look: what is known of the light in its colours, for the
    material; a mesh that has one keeps it. Raises UserError for an unknown suffix, an asset that does not fit the
    format and a place that cannot be written.
    """
    path = Path(path)
    name = exporter_of(path)
    from threedgen.core.plugins import load
    from threedgen.core.types import Primitive
    from threedgen.export.materials import Look, dressed
    from threedgen.export.mesh import MeshConfig
    from threedgen.export.packing import Packing
    from threedgen.export.splat_exporter import SplatExporter
    from threedgen.export.splat_settings import SplatConfig

    kind = load(name)
    if packing is not None:
        packing.check(path)
    exporter: Exporter | SplatExporter = kind() if packing is None or packing == Packing() else kind(packing)
    primitive: Any = asset if isinstance(asset, Primitive) else asset.at()
    if isinstance(exporter, SplatExporter):
        return exporter.write(primitive, path, note=note or {}, splats=splats or SplatConfig())
    config = mesh or MeshConfig()
    if getattr(exporter, "holds_mesh", False):
        primitive = as_mesh(primitive, config, given)
        if primitive.material is None:
            primitive = dressed(primitive, config.material, look or Look())
    return exporter.write(primitive, path, note=note or {}, mesh=config)


def as_mesh(primitive: Primitive, config: MeshConfig, given: Sequence[View] = ()) -> TriMesh:
    """The surface of any primitive, in world coordinates, with normals, and with a texture unless the config wants
    none. A mesh stays as it is.

    given: pictures that the asset was made from, which count more than its own renders. Raises NoSurface if none is
    visible, and UserError for a mesh that no file can hold (`check_mesh`).
    """
    from threedgen.core.types import GaussianCloud, TriMesh

    if isinstance(primitive, TriMesh):
        return _with_normals(primitive)
    if isinstance(primitive, GaussianCloud):
        from threedgen.export.mesh import extract_mesh

        mesh = extract_mesh(primitive, config)
    else:
        from threedgen.export.field_mesh import extract_field_mesh

        mesh = extract_field_mesh(primitive, config)
    moves = config.outline > 0 and bool(given)
    if not moves and config.texture_size == 0:
        return mesh
    from threedgen.export.fewer import simplified
    from threedgen.export.outline import fit_outline
    from threedgen.export.painting import paint
    from threedgen.export.views import around, renders

    views = list(given)
    if isinstance(primitive, GaussianCloud):  # of a field, renders take long, and its surface has its colours
        views += renders(primitive, around(mesh, _VIEWS, _PIXELS))
    # The level set has the outlines of the asset already; those of pictures are known better than any asset shows.
    mesh = fit_outline(mesh, views, config.outline) if moves else mesh
    if config.texture_size == 0:  # its colours need the vertices
        return mesh
    return paint(simplified(mesh, config.deviation), views, config.texture_size)


def _with_normals(mesh: TriMesh) -> TriMesh:
    """The mesh, with normals if it has none: without them viewers would shade each face flat."""
    from dataclasses import replace

    import torch

    from threedgen.export.mesh import NoSurface
    from threedgen.export.seams import smooth_normals, welds
    from threedgen.representations.mesh_checks import check_mesh

    if len(mesh.faces) == 0:
        raise NoSurface("no mesh: the asset has no triangles; run more steps")
    check_mesh(mesh, "cannot take the mesh of this asset")
    if mesh.normals is not None:
        return mesh

    vertices, faces = mesh.vertices.detach().cpu().double().numpy(), mesh.faces.cpu().numpy()
    normals = smooth_normals(vertices, faces, welds(mesh))
    return replace(mesh, normals=torch.from_numpy(normals).to(mesh.vertices))


def exporter_of(path: str | Path) -> str:
    """`package.module:Class` of the exporter for the suffix of `path`, which is not imported yet.

    A built-in format wins over a plug-in. Plug-ins are entry points in the group `threedgen.exporter`, named by the
    suffix without its dot. Raises UserError for an unknown suffix; the message names the known ones.
    """
    suffix = suffix_of(path)
    if suffix in _EXPORTERS:
        return _EXPORTERS[suffix]
    from importlib.metadata import entry_points

    declared = {f".{point.name}": point.value for point in entry_points(group="threedgen.exporter")}
    if suffix in declared:
        return declared[suffix]
    known = ", ".join([*_EXPORTERS, *sorted(declared)])
    what = f"the suffix '{suffix}' is unknown" if suffix else "the file name has no suffix"
    raise UserError(f"cannot export to {path}: {what}; use one of {known}")
