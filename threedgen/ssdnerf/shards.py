"""Safetensors files as regions of numbers: where each tensor lies, mapped to be read, without the file in memory.

Layout: eight bytes with the length of the header, the header (JSON, padded with spaces), the numbers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from threedgen.core.errors import UserError

_NAMES = {"I64": np.int64, "F32": np.float32, "F16": np.float16, "U8": np.uint8}
_PAGE = 4096  # the numbers begin on a page of their own
_LONGEST_HEADER = 100_000_000  # as safetensors has it


@dataclass(frozen=True)
class Region:
    """A tensor of a file. start: its first byte, counted from the beginning of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """The byte behind its last."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def planned(
    tensors: Mapping[str, tuple[type[np.generic], tuple[int, ...]]],
) -> tuple[bytes, dict[str, Region]]:
    """What the file begins with that holds tensors of these dtypes and shapes, and where they will lie in it.

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
    """The tensors of a safetensors file, whose size is checked. Raises UserError: missing, truncated, damaged."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError("no header")
            document = json.loads(file.read(length))
        document.pop("__metadata__", None)
        found = {}
        for name, entry in document.items():
            begin, end = entry["data_offsets"]
            region = Region(np.dtype(_NAMES[entry["dtype"]]), tuple(entry["shape"]), 8 + length + begin)
            if begin < 0 or region.stop != 8 + length + end:
                raise ValueError(f"'{name}' does not fill its place")
            found[name] = region
        whole = max((region.stop for region in found.values()), default=8 + length)
        if size != whole:
            raise ValueError(f"{size} bytes, {whole} expected")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): restore it or make it again") from error
    return found


def mapped(path: Path, region: Region) -> np.ndarray:
    """The tensor as a read-only array in the file's own memory pages, which leave the process with the array.

    Raises UserError where the file is gone or has become shorter.
    """
    try:
        return np.memmap(path, region.dtype, "r", region.start, region.shape)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # the mapping would reach behind the end of the file
        raise UserError(f"{path} is truncated: restore it or make it again") from error
