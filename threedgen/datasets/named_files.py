"""Files that the list of a data set names, found beside it although systems write names differently."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from threedgen.core.errors import UserError
from threedgen.core.paths import entries

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # of the pictures of a data set


class NamedFiles:
    """The files below a folder. list_file: what names them, for messages."""

    def __init__(self, folder: Path, list_file: Path) -> None:
        self._folder, self._list_file = folder, list_file
        self._in = lru_cache(maxsize=None)(_files_in)

    def find(self, name: str) -> Path | None:
        """The file of a name, None if there is none. A name may lack its suffix, have Windows separators, and
        differ from the file's in upper and lower case. Raises UserError for a file outside the folder."""
        for shown in dict.fromkeys((name, name.replace("\\", "/"))):
            path = self._folder / shown
            if os.path.isfile(path):  # unlike Path.is_file, it is False for names that no file can have
                return self._inside(path)
            wanted, beside = path.name.lower(), self._in(path.parent)
            for ending in ("",) if path.suffix.lower() in SUFFIXES else ("", *SUFFIXES):
                if wanted + ending in beside:
                    return self._inside(beside[wanted + ending])
        return None

    def require(self, name: str, what: str = "picture") -> Path:
        """As `find`; raises UserError if there is no such file. what: is in it."""
        found = self.find(name)
        if found is not None:
            return found
        if len(name) > 80 or not name.isprintable():
            raise UserError(f"{self._folder} has no {what} of the name {name[:80]!r}")
        raise UserError(f"the {what} {self._folder / name} is missing")

    def _inside(self, path: Path) -> Path:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self._folder)):
            raise UserError(
                f"{self._list_file} names a file outside its folder: {path}; copy it into the folder, or move "
                f"{self._list_file.name} up"
            )
        return path


def _files_in(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names in lower case; none for a name that no folder can have."""
    try:
        return {path.name.lower(): path for path in entries(folder) if path.is_file()}
    except (OSError, ValueError):
        return {}
