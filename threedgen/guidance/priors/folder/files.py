"""The pipeline folder of a prior, checked before any part of it is loaded.

Only JSON and safetensors files are ever read. Every function raises UserError for a missing or damaged file.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.config_keys import check_config

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_LONGEST_HEADER = 100_000_000  # bytes, the limit of the library
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}  # of one number of each type of safetensors
_POINTER = b"version https://git-lfs"  # how the text begins that stands for a large file in a git repository
_PIPELINE_CLASS = "StableDiffusionPipeline"  # an example; the user knows which pipeline the file is for


@dataclass(frozen=True)
class PipelineFolder:
    """A folder as save_pretrained of diffusers writes it: model_index.json and one folder for each part.

    places: the folders of parts that lie elsewhere, by their names.
    """

    path: Path
    places: Mapping[str, Path] = field(default_factory=dict)

    def part(self, name: str) -> Path:
        """The folder of a part."""
        return self.places.get(name, self.path / name)

    @cached_property
    def index(self) -> dict[str, Any]:
        """The content of model_index.json, which names the class of each part."""
        if not self.path.is_dir():
            raise UserError(f"prior folder '{self.path}' does not exist: name a diffusers pipeline folder")
        for entry in (*self.path.iterdir(), *self.path.glob("*/*")):
            # To open a named pipe may wait for ever. A link to nothing is reported as a file that is missing.
            if entry.exists() and not (entry.is_file() or entry.is_dir()):
                raise UserError(f"prior file '{entry}' is neither a file nor a folder: copy the folder again")
        if not (self.path / "model_index.json").is_file():
            raise UserError(
                f"prior folder '{self.path}' is not a diffusers pipeline: it has no model_index.json "
                "(if it holds a single .safetensors file of a whole model, name that file)"
            )
        file = self.path / "model_index.json"
        content = read_json(file)
        for part, entry in content.items():
            named = isinstance(entry, list) and len(entry) == 2
            if named and not all(isinstance(name, str | None) for name in entry):
                raise UserError(
                    f"prior file '{file}' is damaged, {part} does not name a library and a class: copy it again"
                )
        return content

    def class_of(self, part: str) -> str | None:
        """The class that the index names for a part; None if the part is missing or [null, null]."""
        entry = self.index.get(part)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 else None

    def config(self, part: str) -> dict[str, Any]:
        """The content of the config of a part, see `read_config`."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_config(self.part(part) / name)


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in the config of a part, whose known keys have values that can be meant."""
    content = read_json(path)
    check_config(path, content)
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        # With the mark of the byte order, which some editors write.
        text = path.read_text(encoding="utf-8-sig")
        if text.startswith(_POINTER.decode()):
            raise _pointer(path)
        content = parse_json(text)
    except FileNotFoundError:
        raise UserError(f"prior file '{path}' is missing: copy the pipeline folder again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"prior file '{path}' cannot be read ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"prior file '{path}' is not a JSON object: copy the folder again")
    return content


def only_pickles(part: Path) -> UserError | None:
    """The error for a part with pickles, with the command that converts it; None for one without."""
    pickles = sorted(file.name for file in part.glob("[!.]*") if file.suffix in _PICKLES)
    if not pickles:
        return None
    return UserError(
        f"prior part '{part}' has only pickle weights ({pickles[0]}), which can run code. If you trust the "
        'folder, convert it: python -c "from diffusers import DiffusionPipeline as P; '
        "P.from_pretrained('OLD', use_safetensors=False).save_pretrained('NEW', "
        'safe_serialization=True)"'
    )


def require_whole(file: Path) -> None:
    """Checks that a safetensors file is as long as its header says."""
    ends = [tensor["data_offsets"][1] for tensor in header(file).values()]
    with _opened(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        size = stream.seek(0, os.SEEK_END)
    if 8 + length + max(ends, default=0) != size:
        raise _damaged(file)


def header(file: Path) -> dict[str, dict[str, Any]]:
    """The name and the entry of each tensor in the header of a safetensors file: dtype, shape and data_offsets.

    The format: 8 bytes that hold the length of the header, a JSON object, and then the tensors.
    """
    with _opened(file) as stream:
        start = stream.read(8)
        if start == _POINTER[:8]:
            raise _pointer(file)
        length = int.from_bytes(start, "little")
        text = stream.read(min(length, _LONGEST_HEADER))
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _damaged(file) from error
    if not isinstance(content, dict):
        raise _damaged(file)
    entries = {name: entry for name, entry in content.items() if name != "__metadata__"}
    for name, entry in entries.items():
        if not _describes_a_tensor(entry):
            raise _damaged(file, f", its tensor '{name[:60]}' has no such type, shape and place")
    return entries


def refuse_checkpoint_file(file: Path) -> UserError:
    """The error for a path that is a file of another format, with the command that makes a folder of a pickle."""
    if file.suffix not in _PICKLES:
        return UserError(
            f"prior '{file}' is a file: name the pipeline folder that holds model_index.json, or a .safetensors "
            "file of a whole model"
        )
    return UserError(
        f"prior '{file}' is a file, a pickle, which can run code. If you trust it, make a pipeline folder of it: "
        f'python -c "from diffusers import {_PIPELINE_CLASS} as P; '
        f"P.from_single_file('{file.name}').save_pretrained('FOLDER')\" "
        "(needs a network connection once, for the configs)"
    )


def fingerprint(parts: list[Path], *extras: object) -> str:
    """A hash of the names, sizes and dates of all files of some parts, and of whatever else decides their
    results."""
    lines = [str(extra) for extra in extras]
    for part in parts:
        for file in sorted(part.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                status = file.stat()
                lines.append(f"{part.name}/{file.relative_to(part)} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turns an OSError into a UserError about the prior: before Python 3.14, `is_dir` and similar methods raise
    one for a folder without the permission to read it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read the prior '{path}': {error.strerror or error}; check its permissions"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of the message of an exception, or the name of its type if it has none."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """A file to read bytes from; what fails while it is open is a UserError about it."""
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"prior file '{file}' cannot be read ({first_line(error)})") from error


def _describes_a_tensor(entry: object) -> bool:
    """Whether an entry of a header is that of a tensor which takes as many bytes as its type and shape say."""
    if not isinstance(entry, dict):
        return False
    dtype, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if (
        not isinstance(dtype, str)
        or not isinstance(shape, list)
        or not isinstance(place, list)
        or len(place) != 2
    ):
        return False
    if not all(isinstance(number, int) and 0 <= number < 2**62 for number in (*shape, *place)):
        return False
    bits = _BITS.get(dtype)
    return bits is not None and bits * math.prod(shape) == 8 * (place[1] - place[0])


def _pointer(file: Path) -> UserError:
    return UserError(
        f"prior file '{file}' is a Git LFS pointer, which stands for the file that git did not fetch: run `git lfs "
        "pull` in its folder, or download the file"
    )


def _damaged(file: Path, part: str = "") -> UserError:
    return UserError(f"prior file '{file}' is truncated or corrupt{part}: copy or download it again")
