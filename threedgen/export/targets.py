"""What a file name asks for. Nothing heavy is imported, so that a wrong name is reported at once."""

from __future__ import annotations

from pathlib import Path

from threedgen.core.errors import UserError
from threedgen.export import exporter_of, suffix_of, suffixes

FILMS = (".mp4", ".gif", ".webp")
USD = (".usdz", ".usda", ".usdc")
MOTION_SUFFIXES = (*USD, ".html", *FILMS)  # of formats for moving assets only
SEQUENCE = "*.ply"  # the last part of the name of a sequence of splats


def holds_motion(path: Path) -> bool:
    """Whether a file of that name holds a motion: by its suffix, as DIR/*.ply, or as a folder name (PNG frames)."""
    return suffix_of(path) in ("", ".glb", *MOTION_SUFFIXES) or "*" in path.name


def holds_splats(path: Path) -> bool:
    """Whether a file of that name holds 3D Gaussians, in a format of threedgen itself."""
    if path.name == SEQUENCE:
        return True
    return suffix_of(path) in suffixes() and exporter_of(path).startswith("threedgen.export.splat_formats:")


def check_target(path: Path) -> None:
    """Raises UserError unless some asset can be written to a file of that name."""
    if holds_motion(path):
        return
    try:
        exporter_of(path)
    except UserError as error:
        raise UserError(
            f"{error}; an asset that moves can also be written as {', '.join(MOTION_SUFFIXES)} or DIR/{SEQUENCE}"
        ) from None
