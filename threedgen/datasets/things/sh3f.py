"""Furniture libraries of Sweet Home 3D (.sh3f): what they list, and the files of one model.

A library is a zip archive with a list in Java's format of properties, whose keys end with the number of the object
(`name#7`), and a folder for each model. It may come from anywhere, so nothing of it is written outside the folder
that is given, and its sizes are checked before anything is unpacked.
"""

from __future__ import annotations

import math
import re
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.datasets.decoding import reason

FOLDERS = (
    Path("/usr/share/sweethome3d/furniture"),
)  # where Debian's sweethome3d-furniture puts the libraries
_LIST = "PluginFurnitureCatalog.properties"
_LIST_BYTES = 8 << 20  # at most, of the list
_MODEL_BYTES = 128 << 20  # at most, of all files of a model when unpacked
_MODEL_FILES = 200  # at most, of a model
_NEEDED = ("id", "name", "model", "width", "depth", "height")
_SIZES = ("width", "depth", "height")
_LARGEST = 1e6  # cm, of a side of an object


@dataclass(frozen=True)
class Entry:
    """One object of a library.

    key: its name in the word map, unique over all libraries. license: that of its library. size: width, height
    and depth in cm, along x, y and z after the rotation. rotation: a matrix, three rows after each other, that
    turns the model upright with its front to +Z; None if it already is. model: the path of its .obj in `library`.
    """

    key: str
    name: str
    tags: tuple[str, ...]
    category: str
    creator: str
    license: str
    size: tuple[float, float, float]
    rotation: tuple[float, ...] | None
    model: str
    library: Path


def read_libraries(folder: str | Path | None = None) -> list[Entry]:
    """The objects of all .sh3f files of a folder, by the name of the file and then in their order in it.

    folder: None means the place where Debian installs them. Raises UserError if the folder is missing or holds no
    library, and for a library that is broken: no archive, no list, a missing or wrong property, or the same key
    twice.
    """
    if folder is None:
        found = [path for path in FOLDERS if path.is_dir()]
        if not found:
            raise UserError(
                f"there is no furniture catalogue at {FOLDERS[0]}: install sweethome3d-furniture or name its folder"
            )
        folder = found[0]
    place = existing(folder, "there is no folder '{path}' with a furniture catalogue")
    paths = sorted(place.glob("*.sh3f"))
    if not paths:
        raise UserError(f"'{place}' holds no furniture library (.sh3f)")
    entries = [entry for path in paths for entry in read_library(path)]
    seen: dict[str, Path] = {}
    for entry in entries:
        if entry.key in seen:
            raise UserError(f"'{entry.key}' is both in {seen[entry.key]} and in {entry.library}")
        seen[entry.key] = entry.library
    return entries


def read_library(path: Path) -> list[Entry]:
    """The objects of one .sh3f file in their order. Raises UserError as `read_libraries` does."""
    with _opened(path) as archive:
        if _LIST not in archive.namelist():
            raise UserError(f"{path} has no {_LIST}: it is no furniture library")
        info = archive.getinfo(_LIST)
        if info.file_size > _LIST_BYTES:
            raise UserError(f"the list of {path} is too large: {info.file_size} bytes, at most {_LIST_BYTES}")
        text = archive.read(info).decode("latin-1")
    items: defaultdict[int, dict[str, str]] = defaultdict(dict)
    header: dict[str, str] = {}
    for name, value in parse_properties(text).items():
        numbered = re.fullmatch(r"(\w+)#(\d{1,9})", name)
        if numbered:
            items[int(numbered[2])][numbered[1]] = value
        else:
            header[name] = value
    license_name = header.get("license", "unknown license")
    return [_entry(path, number, items[number], license_name) for number in sorted(items)]


def parse_properties(text: str) -> dict[str, str]:
    """The pairs of a text in Java's format of properties, with comments, continued lines and escapes.

    Keys are separated from values by = alone, as Sweet Home 3D writes them.
    """
    pairs: dict[str, str] = {}
    line = ""
    for raw in text.splitlines():
        line += raw.lstrip()
        if not line or line[0] in "#!":
            line = ""
        elif (len(line) - len(line.rstrip("\\"))) % 2:
            line = line[:-1]  # continued by the next line
        else:
            key, _, value = line.partition("=")
            pairs[_unescaped(key.strip())] = _unescaped(value.strip())
            line = ""
    return pairs


@contextmanager
def unpacked(entry: Entry, cache: Path | None = None) -> Iterator[Path]:
    """The path of the .obj of an object, with the other files of its folder beside it.

    cache: a folder in which they stay for the next time; None is a temporary folder that exists inside the context.
    Raises UserError for a model that is not there, has files outside its folder, or is too large, and for a cache
    that cannot be written.
    """
    parts = PurePosixPath(entry.model).parts
    with tempfile.TemporaryDirectory() as temporary:
        if cache is None:
            place = Path(temporary)
            _extract(entry, place)
        else:
            place = cache / re.sub(r"[^A-Za-z0-9_-]", "_", entry.library.stem) / "/".join(parts[:-1])
            if not (place / parts[-1]).is_file():
                _fill(entry, place)
        yield place / parts[-1]


def _fill(entry: Entry, place: Path) -> None:
    """Unpacks a model into a folder of a cache, which is there with all files or not at all."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
            _extract(entry, Path(temporary) / "model")
            try:
                (Path(temporary) / "model").rename(place)
            except OSError:
                if not (place / Path(entry.model).name).is_file():  # else another process was faster
                    raise
    except OSError as error:
        raise UserError(f"cannot keep '{entry.key}' in {place}: {reason(error)}") from error


def _extract(entry: Entry, target: Path) -> None:
    prefix = entry.model.rpartition("/")[0] + "/"
    with _opened(entry.library) as archive:
        members = [
            m for m in archive.infolist() if m.filename.lstrip("/").startswith(prefix) and not m.is_dir()
        ]
        total = sum(member.file_size for member in members)
        if total > _MODEL_BYTES or len(members) > _MODEL_FILES:
            raise UserError(
                f"'{entry.key}' of {entry.library} is too large: {len(members)} files of {total} bytes, at most "
                f"{_MODEL_FILES} files of {_MODEL_BYTES} bytes"
            )
        for member in members:
            inner = member.filename.lstrip("/")[len(prefix) :]
            _check_path(inner, f"a file of '{entry.key}' of {entry.library}")
            path = target / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))  # no more bytes than the declared size
    if not (target / entry.model.rpartition("/")[2]).is_file():
        raise UserError(f"{entry.library} lacks {entry.model}, the model of '{entry.key}'")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError and NotImplementedError: encrypted, or packed by a method that Python does not know
        raise UserError(f"cannot read the furniture library {path}: {reason(error)}") from error


def _entry(path: Path, number: int, values: dict[str, str], license_name: str) -> Entry:
    where = f"object {number} of {path}"
    for name in _NEEDED:
        if not values.get(name):
            raise UserError(f"{where} has no '{name}'")
    model = values["model"].lstrip("/")
    _check_path(model, f"the model of {where}")
    if not model.lower().endswith(".obj") or "/" not in model:
        raise UserError(f"the model of {where} must be an .obj in a folder of its own, not '{model}'")
    width, depth, height = (_number(values[name], f"'{name}' of {where}") for name in _SIZES)
    if not all(0.0 < side <= _LARGEST for side in (width, depth, height)):
        raise UserError(f"the sides of {where} must be above 0 and at most {_LARGEST:g} cm")
    rotation = None
    if "modelRotation" in values:
        rotation = tuple(
            _number(word, f"'modelRotation' of {where}") for word in values["modelRotation"].split()
        )
        if len(rotation) != 9:
            raise UserError(f"'modelRotation' of {where} must have 9 numbers, not {len(rotation)}")
        rows = [rotation[row : row + 3] for row in (0, 3, 6)]
        dots = [sum(a * b for a, b in zip(u, v, strict=True)) - (u is v) for u in rows for v in rows]
        if not max(map(abs, dots)) < 0.01:
            raise UserError(f"'modelRotation' of {where} is no rotation")
    return Entry(
        key=values["id"],
        name=values["name"],
        tags=tuple(tag.strip() for tag in values.get("tags", "").split(",") if tag.strip()),
        category=values.get("category", ""),
        creator=values.get("creator", ""),
        license=license_name,
        size=(width, height, depth),
        rotation=rotation,
        model=model,
        library=path,
    )


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{what} must be a number, not '{text[:40]}'")
    return value


def _check_path(path: str, what: str) -> None:
    wrong = {"", ".", ".."} & set(path.split("/"))
    if wrong or "\\" in path or "\0" in path or ":" in path or len(path) > 400:
        raise UserError(f"{what} has a path that leaves its folder or is not allowed: '{path[:80]}'")


def _unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) == 5 else {"t": "\t", "n": "\n", "r": "\r"}.get(code, code)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", character, text)
