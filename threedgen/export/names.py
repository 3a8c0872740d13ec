"""What the name of a file says about its format. Nothing heavy is imported: a wrong name is refused at once."""

from __future__ import annotations

from pathlib import Path

from threedgen.core.errors import UserError
from threedgen.export import exporter_of, suffix_of, suffixes

FILMS = (".mp4", ".gif", ".webp")
USD = (".usdz", ".usda", ".usdc")
SEQUENCE = "*.ply"  # the name of a sequence of splats, a file for each frame
_MOTIONS = ("", ".glb", ".gltf", *USD, ".html", *FILMS)


def holds_motion(path: Path) -> bool:
    """Whether a file of that name can hold a motion: by its suffix, as DIR/*.ply, or as a folder (PNG frames)."""
    return suffix_of(path) in _MOTIONS or "*" in path.name


def needs_motion(path: Path) -> bool:
    """Whether a file of that name can hold nothing else: films, and DIR/*.ply."""
    return suffix_of(path) in FILMS or "*" in path.name


def holds_splats(path: Path) -> bool:
    """Whether a file of that name holds 3D Gaussians, in a format of threedgen itself."""
    if path.name == SEQUENCE:
        return True
    return suffix_of(path) in suffixes() and exporter_of(path).startswith("threedgen.export.splat_formats:")


def level_of(path: Path, number: int) -> Path:
    """Where a level of detail lies beside the file: asset.lod1.glb for number 1 of asset.glb."""
    return path.with_name(f"{path.stem}.lod{number}{path.suffix}")


def check_suffix(path: Path) -> None:
    """Raises UserError for a name whose format is unknown; the message names the known ones."""
    if holds_motion(path):
        return
    try:
        exporter_of(path)
    except UserError as error:
        raise UserError(
            f"{error}; an asset that moves can also be written as {', '.join(FILMS)} or DIR/{SEQUENCE}"
        ) from None
