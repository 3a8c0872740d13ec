"""The files of materials and textures that a mesh file names: found as other programs do, or said to be missing."""

from __future__ import annotations

import io
import mimetypes
import re
import warnings
from pathlib import Path

from trimesh.resolvers import FilePathResolver

# Options of a map_Kd line, such as `-s 1 1 1 -clamp on`, which stand before the name.
_OPTIONS = re.compile(r"(?:-\w+(?:\s+(?:on|off|[-+.\d][-+.\deE]*))*\s+)*")

_NAMED = 4  # files that a warning names


class References(FilePathResolver):
    """Reads files in the folder of a mesh file, and none outside of it; notes those that it cannot read.

    A name is also tried without options before it, with slashes for backslashes, and in another case of letters.
    """

    def __init__(self, mesh: Path) -> None:
        super().__init__(str(mesh.absolute().parent))
        self._mesh = mesh
        self._lost: dict[str, str] = {}

    def get(self, name: str) -> bytes:
        """The content of a file. Raises OSError if it is not there."""
        for spelled in _spellings(name):
            try:
                data = super().get(self._in_its_case(spelled))
            except (OSError, ValueError):
                continue
            if (mimetypes.guess_type(spelled)[0] or "").startswith("image/") and not _is_picture(data):
                self._lost[spelled] = "cannot be read as a picture"
            return data
        self._lost[_OPTIONS.sub("", name.strip(), count=1)] = "is not in its folder"
        raise FileNotFoundError(name)

    def lose(self, name: str, why: str) -> None:
        """Notes something else that cannot be read, and why."""
        self._lost[name] = why

    def warn(self) -> None:
        """One warning that names the files that could not be read, if there are any."""
        if not self._lost:
            return
        said = [f"'{name}' {why}" for name, why in list(self._lost.items())[:_NAMED]]
        more = len(self._lost) - len(said)
        said += [f"nor can {more} more be read"] if more else []
        warnings.warn(
            f"'{self._mesh}' is read without some of its colours: {', '.join(said)}; put what is missing beside it",
            stacklevel=3,
        )

    def _in_its_case(self, name: str) -> str:
        """The name of the file that is there, if it differs in its case of letters only. Raises as `get` does."""
        path = self.absolute(name)
        if path.exists():
            return name
        beside = path.parent if path.parent.is_dir() else Path(self.parent)
        same = (item.name for item in beside.iterdir() if item.name.lower() == path.name.lower())
        return str(Path(name).with_name(next(same, path.name)))


def _spellings(name: str) -> list[str]:
    plain = _OPTIONS.sub("", name.strip(), count=1)
    slashes = plain.replace("\\", "/")
    return list(dict.fromkeys([name.strip(), plain, slashes, slashes.rpartition("/")[2]]))


def _is_picture(data: bytes) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)):
            return True
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
