"""The pipeline folder of a prior, checked before any part of it is loaded.

Only JSON and safetensors files are ever read. Every function raises UserError for a missing or damaged file.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_PIPELINE_CLASS = "StableDiffusionPipeline"  # an example; the user knows which pipeline the file is for


@dataclass(frozen=True)
class PipelineFolder:
    """A folder as save_pretrained of diffusers writes it: model_index.json and one folder for each part."""

    path: Path

    @cached_property
    def index(self) -> dict[str, Any]:
        """The content of model_index.json, which names the class of each part."""
        if not self.path.is_dir():
            raise UserError(f"prior folder '{self.path}' does not exist: name a diffusers pipeline folder")
        if not (self.path / "model_index.json").is_file():
            raise UserError(
                f"prior folder '{self.path}' is not a diffusers pipeline: it has no model_index.json "
                "(convert a single checkpoint file with diffusers' save_pretrained first)"
            )
        return read_json(self.path / "model_index.json")

    def class_of(self, part: str) -> str | None:
        """The class that the index names for a part; None if the part is missing or [null, null]."""
        entry = self.index.get(part)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 else None

    def config(self, part: str) -> dict[str, Any]:
        """The content of config.json of a part, or of scheduler_config.json for the scheduler."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.path / part / name)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"prior file '{path}' is missing: copy the pipeline folder again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"prior file '{path}' cannot be read ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"prior file '{path}' is not a JSON object: copy the folder again")
    return content


def require_safe_weights(part: Path) -> None:
    """Checks that every safetensors file of a part is complete. Pickle files are refused and never opened."""
    files = sorted(part.glob("*.safetensors"))
    if not files:
        pickles = sorted(file.name for file in part.glob("*") if file.suffix in _PICKLES)
        if pickles:
            raise UserError(
                f"prior part '{part}' has only pickle weights ({pickles[0]}), which can run code. If you trust the "
                'folder, convert it: python -c "from diffusers import DiffusionPipeline as P; '
                "P.from_pretrained('OLD', use_safetensors=False).save_pretrained('NEW', "
                'safe_serialization=True)"'
            )
        raise UserError(f"prior part '{part}' has no safetensors weights: copy the folder again")
    for index in part.glob("*.safetensors.index.json"):
        for name in set(read_json(index).get("weight_map", {}).values()):
            if not (part / name).is_file():
                raise UserError(f"prior file '{part / name}' is missing: copy the folder again")
    for file in files:
        require_whole(file)


def require_whole(file: Path) -> None:
    """Checks that a safetensors file is as long as its header says."""
    ends = [tensor["data_offsets"][1] for tensor in _described(file)]
    with _opened(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        size = stream.seek(0, os.SEEK_END)
    if 8 + length + max(ends, default=0) != size:
        raise _damaged(file)


def refuse_checkpoint_file(file: Path) -> UserError:
    """The error for a path that is a single file, with the command that makes a pipeline folder of it."""
    if file.suffix not in (*_PICKLES, ".safetensors"):
        return UserError(f"prior '{file}' is a file: name the pipeline folder that holds model_index.json")
    pickle = file.suffix in _PICKLES
    return UserError(
        f"prior '{file}' is a file"
        + (", a pickle, which can run code. If you trust it, make" if pickle else ". Make")
        + f' a pipeline folder of it: python -c "from diffusers import {_PIPELINE_CLASS} as P; '
        f"P.from_single_file('{file.name}').save_pretrained('FOLDER')\" "
        "(needs a network connection once, for the configs)"
    )


def variant(part: Path) -> str | None:
    """'fp16' if a folder holds only the half-precision copy of its weights, else None."""
    files = [file.name for file in part.glob("*.safetensors")]
    return "fp16" if files and all(".fp16" in name for name in files) else None


def elements_of(part: Path) -> int:
    """The number of weights of a part, from the headers of the files that `variant` chooses."""
    wanted = variant(part)
    chosen = [file for file in part.glob("*.safetensors") if wanted or ".fp16" not in file.name]
    tensors = [tensor for file in chosen for tensor in _described(file)]
    return sum(math.prod(tensor["shape"]) for tensor in tensors)


def fingerprint(parts: list[Path], *extras: object) -> str:
    """A hash of the names, sizes and dates of all files of some parts, and of whatever else decides their
    results."""
    lines = [str(extra) for extra in extras]
    for part in parts:
        for file in sorted(part.rglob("*")):
            if file.is_file():
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


def _described(file: Path) -> list[dict[str, Any]]:
    """The entry of each tensor in the header of a safetensors file: shape, data_offsets and others.

    The format: 8 bytes that hold the length of the header, a JSON object, and then the tensors.
    """
    with _opened(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(min(length, file.stat().st_size))
    try:
        header = parse_json(text)
    except ValueError as error:
        raise _damaged(file) from error
    if not isinstance(header, dict):
        raise _damaged(file)
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    if not all(map(_describes_a_tensor, entries)):
        raise _damaged(file)
    return entries


def _describes_a_tensor(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    shape, place = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(place, list) or len(place) != 2:
        return False
    return all(isinstance(number, int) for number in (*shape, *place))


def _damaged(file: Path) -> UserError:
    return UserError(f"prior file '{file}' is truncated or corrupt: copy or download it again")
