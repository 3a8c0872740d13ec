"""What a prior is on disk: a diffusers pipeline folder, checked before any of it is loaded.

Only JSON and safetensors are ever read. Every function raises UserError for what the user can put right.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_PIPELINE_CLASS = "StableDiffusionPipeline"  # or StableDiffusionXLPipeline, ...: the user knows which


@dataclass(frozen=True)
class PipelineFolder:
    """A folder as diffusers' save_pretrained writes it: model_index.json and one folder for each part."""

    path: Path

    @cached_property
    def index(self) -> dict[str, Any]:
        """model_index.json: which class each part is."""
        if not self.path.is_dir():
            raise UserError(f"prior folder '{self.path}' does not exist: name a diffusers pipeline folder")
        if not (self.path / "model_index.json").is_file():
            raise UserError(
                f"prior folder '{self.path}' is not a diffusers pipeline: it has no model_index.json "
                "(convert a single checkpoint file with diffusers' save_pretrained first)"
            )
        return read_json(self.path / "model_index.json")

    def class_of(self, part: str) -> str | None:
        """The class the index names for a part; absent parts are missing or [null, null]."""
        entry = self.index.get(part)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 else None

    def config(self, part: str) -> dict[str, Any]:
        """The config.json of a part, scheduler_config.json for the scheduler."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.path / part / name)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"prior file '{path}' is missing: copy the pipeline folder again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"prior file '{path}' cannot be read ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"prior file '{path}' is not a JSON object: copy the folder again")
    return content


def require_safe_weights(part: Path) -> None:
    """Every safetensors file of a part is whole; a folder of pickles is refused, never opened."""
    files = sorted(part.glob("*.safetensors"))
    if not files:
        pickles = sorted(file.name for file in part.glob("*") if file.suffix in _PICKLES)
        if pickles:
            raise UserError(
                f"prior part '{part}' has only pickle weights ({pickles[0]}), which can run code. Convert the "
                'folder where you trust it: python -c "from diffusers import DiffusionPipeline as P; '
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
    """A safetensors file that holds all it promises."""
    try:
        whole = _is_whole(file)
    except OSError as error:
        raise UserError(f"prior file '{file}' cannot be read ({first_line(error)})") from error
    if not whole:
        raise UserError(f"prior file '{file}' is truncated or corrupt: copy or download it again")


def refuse_checkpoint_file(file: Path) -> UserError:
    """The error for a path that is one file, with the command that makes a pipeline folder of it."""
    if file.suffix not in (*_PICKLES, ".safetensors"):
        return UserError(f"prior '{file}' is a file: name the pipeline folder that holds model_index.json")
    trust = ""
    if file.suffix in _PICKLES:
        trust = ", a pickle, which can run code"
    return UserError(
        f"prior '{file}' is a file{trust}. Make a pipeline folder of it"
        + (" where you trust it" if trust else "")
        + f': python -c "from diffusers import {_PIPELINE_CLASS} as P; '
        f"P.from_single_file('{file.name}').save_pretrained('FOLDER')\" (needs a network once, for the configs)"
    )


def variant(part: Path) -> str | None:
    """'fp16' when the half-precision copy is the only one in the folder."""
    files = [file.name for file in part.glob("*.safetensors")]
    return "fp16" if files and all(".fp16" in name for name in files) else None


def elements_of(part: Path) -> int:
    """How many numbers the weights of a part are, by the headers of the files that `variant` chooses."""
    wanted = variant(part)
    chosen = [file for file in part.glob("*.safetensors") if wanted or ".fp16" not in file.name]
    tensors = [tensor for file in chosen for tensor in _header(file).values()]
    return sum(math.prod(tensor["shape"]) for tensor in tensors)


def fingerprint(parts: list[Path], *extras: object) -> str:
    """Names, sizes and dates of all files of some parts, and whatever else decides their results."""
    lines = [str(extra) for extra in extras]
    for part in parts:
        for file in sorted(part.rglob("*")):
            if file.is_file():
                status = file.stat()
                lines.append(f"{part.name}/{file.relative_to(part)} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """A folder that must not even be looked into is an OSError of `is_dir` and its like (before Python 3.14)."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read the prior '{path}': {error.strerror or error}; check its permissions"
        ) from error


def first_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _is_whole(file: Path) -> bool:
    """A safetensors file: 8 bytes of header length, a JSON header, exactly the bytes the header promises."""
    try:
        ends = [tensor["data_offsets"][1] for tensor in _header(file).values()]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    return 8 + length + max(ends, default=0) == file.stat().st_size


def _header(file: Path) -> dict[str, Any]:
    """Name -> shape, dtype and place of each tensor. Raises ValueError when there is no such header."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("no header")
        header = json.loads(stream.read(length))
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}
