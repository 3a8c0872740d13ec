"""Which files of a folder are its pictures, and in which order they come."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_ARCHIVED = "__MACOSX"  # the folder of companion files in archives that macOS wrote


def is_companion(path: str | Path) -> bool:
    """Whether a file holds what an operating system keeps beside files (`._a.png`, `__MACOSX/a.png`, `.DS_Store`,
    `Thumbs.db`), and not what its name seems to say. path: relative to the folder that is read."""
    parts = Path(path).parts
    return _ARCHIVED in parts or parts[-1:] == ("Thumbs.db",) or any(_is_hidden(part) for part in parts)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name.strip(".") != ""


def by_number(path: str | Path) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts names as people count: frame_9 before frame_10, whatever zeros are in front."""
    name = Path(path).name
    words = re.split(r"([0-9]+)", name)
    # Words of digits stand at every second place, so that numbers meet numbers.
    return [(int(word), "") if place % 2 else (0, word) for place, word in enumerate(words)], name


def picture_files(folder: Path, suffixes: Iterable[str] = SUFFIXES) -> list[Path]:
    """The files of a folder with these suffixes, in any case, in the order of their numbers; companions are left
    out. Raises OSError if the folder cannot be listed."""
    known = tuple(suffixes)
    found = (
        path for path in folder.iterdir() if path.suffix.lower() in known and not is_companion(path.name)
    )
    return sorted((path for path in found if path.is_file()), key=by_number)
