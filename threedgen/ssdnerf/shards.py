"""Safetensors files as regions of numbers: where each tensor is, so that it can be mapped without reading the file.

Layout: eight bytes with the length of the header, the header (JSON, padded with spaces), the numbers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.settings import at_least, settings
from threedgen.training.documents import DocumentError, build

_NAMES = {"I64": np.int64, "F32": np.float32, "F16": np.float16, "U8": np.uint8}
_PAGE = 4096  # bytes; the numbers start on a page of their own
_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors


@settings
class _Entry:
    """What a header says of one tensor.

    Attributes:
        dtype: Name of the type of its numbers.
        shape: Its shape.
        data_offsets (bytes): Its first byte and the first byte after it, counted from the end of the header.
    """

    dtype: Literal["I64", "F32", "F16", "U8"]
    shape: Annotated[tuple[int, ...], at_least(0)]
    data_offsets: Annotated[tuple[int, int], at_least(0)]


@dataclass(frozen=True)
class Region:
    """A tensor in a file. start: its first byte, counted from the start of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """The first byte after the tensor."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def planned(
    tensors: Mapping[str, tuple[type[np.generic], tuple[int, ...]]],
) -> tuple[bytes, dict[str, Region]]:
    """The header of a file with tensors of these dtypes and shapes, and the region of each tensor in it.

    Wide numbers come first, so that every tensor is aligned to its numbers.
    """
    order = sorted(tensors, key=lambda name: -np.dtype(tensors[name][0]).itemsize)
    codes = {np.dtype(dtype): code for code, dtype in _NAMES.items()}
    entries, offset = {}, 0
    for name in order:
        dtype, shape = np.dtype(tensors[name][0]), tensors[name][1]
        end = offset + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-(len(text) + 8) % _PAGE)
    start = len(text) + 8
    found = {
        name: Region(np.dtype(tensors[name][0]), tensors[name][1], start + entries[name]["data_offsets"][0])
        for name in order
    }
    return len(text).to_bytes(8, "little") + text, found


def regions(path: Path) -> dict[str, Region]:
    """The regions of the tensors of a safetensors file. Raises UserError if it is missing, truncated or damaged."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if 0 < length <= min(size - 8, _LONGEST_HEADER) else b""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return _regions(header, size)
    except DocumentError as error:
        raise UserError(f"{path} is truncated or damaged ({error}): restore it or make it again") from error


def _regions(header: bytes, size: int) -> dict[str, Region]:
    """The tensors that a header describes. size: of the whole file, in bytes. Raises DocumentError."""
    try:
        document = parse_json(header)
    except ValueError as error:
        raise DocumentError("its header is not JSON") from error
    if not isinstance(document, dict):
        raise DocumentError("its header holds no JSON object")
    document.pop("__metadata__", None)
    first = 8 + len(header)
    found = {}
    for name, values in document.items():
        entry = build(_Entry, values)
        begin, end = entry.data_offsets
        region = Region(np.dtype(_NAMES[entry.dtype]), entry.shape, first + begin)
        if region.stop != first + end:
            raise DocumentError(f"'{name}' does not fill its place")
        found[name] = region
    whole = max((region.stop for region in found.values()), default=first)
    if size != whole:
        raise DocumentError(f"it has {size} bytes instead of {whole}")
    return found


def mapped(path: Path, region: Region) -> np.ndarray:
    """The tensor as a read-only array that maps the file; the mapping ends with the array.

    Raises UserError if the file is missing or has become shorter.
    """
    try:
        return np.memmap(path, region.dtype, "r", region.start, region.shape)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # the mapping would reach beyond the end of the file
        raise UserError(f"{path} is truncated: restore it or make it again") from error
