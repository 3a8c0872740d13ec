"""The exporters: what users open in Blender, Unity or a browser, chosen by the suffix of the file.

Every file is written beside its place and moved over it, so that a failure leaves what was there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from threedgen.errors import UserError

if TYPE_CHECKING:
    from threedgen.export.mesh import MeshConfig
    from threedgen.representations.base import Representation
    from threedgen.types import Primitive

_EXPORTERS = {
    ".glb": "threedgen.export.formats:Glb",
    ".obj": "threedgen.export.formats:Obj",
    ".ply": "threedgen.export.formats:SplatPly",
}


class Exporter(Protocol):
    """Writes one primitive into one file format. A class of that shape, made without arguments."""

    def write(self, primitive: Primitive, path: Path, *, prompt: str, mesh: MeshConfig) -> None:
        """Writes `path`, whole or not at all. Raises UserError when the primitive does not fit the format."""
        ...


def suffixes() -> list[str]:
    """The file suffixes `write` knows."""
    return list(_EXPORTERS)


def write(
    asset: Representation | Primitive, path: str | Path, *, prompt: str = "", mesh: MeshConfig | None = None
) -> Path:
    """Writes an asset in the format its suffix names, and returns the path.

    asset: a representation (taken at time 0) or a primitive. .glb and .obj hold a mesh with vertex colours
    (Gaussians are meshed as `mesh` says), .ply holds 3D Gaussians. prompt goes into the file's own metadata.
    Raises UserError: unknown suffix, an asset that does not fit the format, a place that cannot be written.
    """
    from threedgen.export.mesh import MeshConfig
    from threedgen.plugins import load

    path = Path(path)
    target = exporter_of(path)
    at: Any = getattr(asset, "at", lambda: asset)  # a primitive is what it is at any time
    exporter: Exporter = load(target)()
    exporter.write(at(), path, prompt=prompt, mesh=mesh or MeshConfig())
    return path


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
