"""Codes of thousands of objects on disk, with their Adam moments and occupancy grids.

This is the cache of codes of SSDNeRF (Chen, Gu et al. 2023, algorithm 1 and its code):

    FOLDER/bank.json                 JSON: the number of objects, the shapes, and how the codes start
    FOLDER/codes-00000.safetensors   the first objects, each tensor [objects, 2, ...]: two slots for each object
    FOLDER/mean.safetensors          the mean code, in two slots as well

A write goes to the slot that the last commit does not name. So the state of that commit stays on disk until the
next commit, even if the process is killed. A checkpoint needs to keep only which slot holds each object (`slots`):
a bank that is opened with these slots has the same bits again. Nothing is undone and nothing is replayed.

A read maps the file only while it lasts. Writes do not use a mapping, because a full disk is then an error and does
not kill the process. Either way no part of the bank stays in the memory of the process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from threedgen.core.atomic import flush, replacing
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.settings import at_least, finite, settings
from threedgen.ssdnerf.shards import Region, mapped, planned, regions
from threedgen.training.documents import FORMAT, DocumentError, build, read_document

DOCUMENT, MEAN_FILE = "bank.json", "mean.safetensors"
OBJECTS_PER_SHARD = 64
INITIAL, MEANS = 2, (3, 4)
"""Further values in `slots`: the code is as `initialise` draws it; it is the mean code, which is in slot 0 or 1."""
_AHEAD = 1 << 17  # bytes; of a longer piece Linux may read ahead only the beginning
_FIELDS = ("code", "first", "second", "step", "density")


@dataclass(frozen=True)
class Records:
    """What a bank keeps of B objects.

    code: the values before their activation. first, second: the moments of Adam. step: the number of Adam steps so
    far. density: the running maximum of each cell of the occupancy grid, per world unit.

    An object that was never written has moments, step and density 0. This density does not mean that the object is
    empty.
    """

    code: Float[Tensor, "B P C R R"]
    first: Float[Tensor, "B P C R R"]
    second: Float[Tensor, "B P C R R"]
    step: Int[Tensor, " B"]
    density: Float[Tensor, "B G G G"]


@settings
class _Header:
    """What bank.json holds.

    Attributes:
        count: Number of objects.
        shape: Shape of a code, (P, C, R, R).
        cells: Number of cells along each side of an occupancy grid.
        seed: Seed of the first codes.
        scale: The first codes are uniform between minus and plus this number.
    """

    count: Annotated[int, at_least(1)]
    shape: Annotated[tuple[int, int, int, int], at_least(1)]
    cells: Annotated[int, at_least(1)]
    seed: int = 0
    scale: Annotated[float, finite] = 0.0


class CodeBank:
    """A bank of codes in a folder, made by `create` or `open`.

    count: number of objects. shape: shape of a code, (P, C, R, R). cells: G, number of cells along each side of an
    occupancy grid. Several processes may have one bank open if each writes different objects.
    """

    def __init__(self, folder: Path, header: _Header, slots: UInt8[Tensor, " N"]) -> None:
        self.folder = folder
        self.count, self.shape, self.cells = header.count, header.shape, header.cells
        self._header = header
        self._slots, self._committed = slots.clone(), slots.clone()
        self._touched: set[Path] = set()
        self._files = self._layout()

    @classmethod
    def create(cls, folder: str | Path, count: int, shape: tuple[int, int, int, int], cells: int) -> CodeBank:
        """A new bank whose codes are 0, which replaces one that is there. It uses disk space only as it is written.

        Raises UserError for sizes that are not positive, and for a folder that cannot be written.
        """
        if min(count, cells, *shape) < 1 or len(shape) != 4:
            raise UserError(
                f"a code bank needs at least one object, cell and number, got {count} objects of {list(shape)} "
                f"with {cells} cells"
            )
        folder = Path(folder)
        bank = cls(folder, _Header(count, shape, cells), torch.full((count,), INITIAL, dtype=torch.uint8))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / DOCUMENT).unlink(missing_ok=True)  # there is no bank until the new one is complete
            for path in folder.glob("codes-*.safetensors"):
                path.unlink()
            for path, (header, places) in bank._files.items():
                with path.open("wb") as file:
                    file.write(header)
                    file.truncate(max(region.stop for region in places.values()))
                bank._touched.add(path)
        except OSError as error:
            raise _unwritable(folder, error) from error
        bank._save_document()
        return bank

    @classmethod
    def open(cls, folder: str | Path, slots: Int[Tensor, " N"] | None = None) -> CodeBank:
        """The bank as it was when `slots` was committed. With None it is as it was initialised.

        Raises UserError if there is no bank, if a shard is missing or truncated, and for slots of another bank.
        """
        folder = Path(folder)
        try:
            header = build(_Header, read_document(folder / DOCUMENT))
        except FileNotFoundError as error:
            raise UserError(f"there is no code bank in {folder}: {DOCUMENT} is missing") from error
        except (OSError, DocumentError) as error:
            raise UserError(f"{folder / DOCUMENT} is not a code bank ({error}): train again") from error
        count = header.count
        if slots is None:
            slots = torch.full((count,), INITIAL, dtype=torch.uint8)
        if slots.shape != (count,):
            raise UserError(
                f"the checkpoint is of {slots.numel()} objects and the code bank {folder} of {count}: they belong "
                "to different trainings; restore the one that is missing, or train again"
            )
        if not ((slots >= 0) & (slots <= MEANS[-1])).all():
            raise UserError(
                f"the checkpoint names slots that the code bank {folder} does not have: restore the checkpoint"
            )
        bank = cls(folder, header, slots.to("cpu", torch.uint8))
        for path, (_, places) in bank._files.items():
            if regions(path) != places:
                raise UserError(f"{path} belongs to another code bank than {folder / DOCUMENT}: restore it")
        return bank

    def require(self, count: int, shape: tuple[int, int, int, int], cells: int) -> None:
        """Raises UserError unless the bank has this number of objects and these shapes of codes and grids."""
        asked, here = (count, tuple(shape), cells), (self.count, self.shape, self.cells)
        if asked != here:
            raise UserError(
                f"the code bank {self.folder} has {here[0]} objects with codes {list(here[1])} and {here[2]} "
                f"cells, not {count} with {list(shape)} and {cells}: use the settings that it was made with"
            )

    @property
    def slots(self) -> UInt8[Tensor, " N"]:
        """Which slot holds each object now, which a checkpoint must keep. It is a copy."""
        return self._slots.clone()

    def initialise(self, seed: int, scale: float = 1e-4) -> None:
        """Makes the codes uniform in +-scale; they are drawn when they are read. Raises ValueError once others are
        written."""
        if not (self._slots == INITIAL).all() or not (self._committed == INITIAL).all():
            raise ValueError("a bank is initialised before anything is written to it")
        self._header = replace(self._header, seed=seed, scale=scale)
        self._save_document()

    def read(self, indices: Sequence[int]) -> Records:
        """The records of these objects, in this order, as copies. Raises UserError if one is not finite."""
        found = {
            name: np.zeros((len(indices), *shape), dtype) for name, (dtype, shape) in self._fields().items()
        }
        self.expect(indices)  # all at once, so that the disk is not asked for a few pages after the other
        for row, index in enumerate(indices):
            slot = int(self._slots[index])
            if slot >= INITIAL:
                found["code"][row] = self._start(index, slot)
                continue
            path, places, place = self._home(index)
            for name, values in found.items():
                values[row] = mapped(path, places[name])[place, slot]
                if values.dtype.kind == "f" and not np.isfinite(values[row]).all():
                    raise UserError(f"{path} is damaged: it holds numbers that are not finite; train again")
        return Records(**{name: torch.from_numpy(values) for name, values in found.items()})

    def write(self, indices: Sequence[int], records: Records) -> None:
        """Replaces the records of these objects, rounded to the precision of the bank. Densities too large for half
        precision become its largest number.

        Raises UserError for a full disk (the last commit stays intact), and for records of another shape.
        """
        arrays = {}
        for name, (dtype, shape) in self._fields().items():
            values = getattr(records, name).detach().cpu()
            if values.shape != (len(indices), *shape):
                raise UserError(
                    f"the code bank {self.folder} keeps a {name} of {list(shape)} for each object, got "
                    f"{list(values.shape)} for {len(indices)} objects"
                )
            if name == "density":
                values = values.clamp(max=float(np.finfo(np.float16).max))
            arrays[name] = values.numpy().astype(dtype, copy=False)
        for row, index in enumerate(self._checked(indices)):
            slot = self._other(index)
            path, places, place = self._home(index)
            self._store(path, [(places[name], (place, slot), values[row]) for name, values in arrays.items()])
            self._slots[index] = slot

    def mark(self, indices: Sequence[int]) -> None:
        """Notes that another process of the training wrote these objects."""
        for index in self._checked(indices):
            self._slots[index] = self._other(index)

    def expect(self, indices: Sequence[int]) -> None:
        """Asks the operating system to read these objects ahead, if it can."""
        self._announce(self._checked(indices), _FIELDS)

    def flush(self) -> None:
        """Waits until everything written so far is on the disk. It is called before the checkpoint is saved.

        Raises UserError if the disk is full.
        """
        for path in sorted(self._touched):
            try:
                flush(path)
            except OSError as error:
                raise _unwritable(path, error) from error
        self._touched.clear()

    def committed(self) -> None:
        """Notes that a checkpoint with the present `slots` is on disk, so that these slots are not overwritten."""
        self._committed = self._slots.clone()

    def mean_code(self) -> Float[Tensor, "P C R R"]:
        """The mean of the codes of all objects, summed in float64 in their order."""
        total = np.zeros(self.shape)
        for index in range(self.count):
            if index % OBJECTS_PER_SHARD == 0:
                self._announce(range(index, min(index + 2 * OBJECTS_PER_SHARD, self.count)), ("code",))
            slot = int(self._slots[index])
            if slot >= INITIAL:
                total += self._start(index, slot)
            else:
                path, places, place = self._home(index)
                total += mapped(path, places["code"])[place, slot]
        return torch.from_numpy((total / self.count).astype(np.float32))

    def reset_to_mean(self) -> None:
        """Sets all codes to their mean, and all moments, steps and densities to 0 (SSDNeRF, Chen, Gu et al. 2023,
        training on sparse views).

        Every process of a training calls it, after all have written and before any of them writes again.
        """
        mean = self.mean_code().numpy()
        slot = int((self._committed == MEANS[0]).any())
        path = self.folder / MEAN_FILE
        self._store(path, [(self._files[path][1]["mean"], (slot,), mean)])
        self._slots.fill_(MEANS[slot])

    def _fields(self) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
        """The dtype and shape of each field of one object."""
        planes, grid = (np.float32, self.shape), (np.float16, (self.cells,) * 3)
        return dict(zip(_FIELDS, (planes, planes, planes, (np.int64, ()), grid), strict=True))

    def _layout(self) -> dict[Path, tuple[bytes, dict[str, Region]]]:
        """The files of the bank: the header of each, and where its tensors are."""

        def shard(objects: int) -> tuple[bytes, dict[str, Region]]:
            return planned(
                {name: (dtype, (objects, 2, *shape)) for name, (dtype, shape) in self._fields().items()}
            )

        whole, rest = divmod(self.count, OBJECTS_PER_SHARD)
        full = shard(OBJECTS_PER_SHARD)
        shards = [full] * whole + ([shard(rest)] if rest else [])
        files = {self._shard(number): layout for number, layout in enumerate(shards)}
        return files | {self.folder / MEAN_FILE: planned({"mean": (np.float32, (2, *self.shape))})}

    def _shard(self, number: int) -> Path:
        return self.folder / f"codes-{number:05d}.safetensors"

    def _home(self, index: int) -> tuple[Path, dict[str, Region], int]:
        """The file that holds an object, where its tensors are, and the place of the object in each."""
        path = self._shard(index // OBJECTS_PER_SHARD)
        return path, self._files[path][1], index % OBJECTS_PER_SHARD

    def _other(self, index: int) -> int:
        """The slot that the last commit does not name."""
        return int(self._committed[index] == 0)

    def _start(self, index: int, slot: int) -> np.ndarray:
        """The code of an object that has no record of its own: as it was drawn, or the mean."""
        if slot == INITIAL:
            rng = generator(self._header.seed, "code", index)
            return (self._header.scale * (2.0 * torch.rand(self.shape, generator=rng) - 1.0)).numpy()
        path = self.folder / MEAN_FILE
        return np.array(mapped(path, self._files[path][1]["mean"])[MEANS.index(slot)])

    def _announce(self, indices: Sequence[int], names: Sequence[str]) -> None:
        """Tells the operating system that these fields of objects will be read."""
        if not hasattr(os, "posix_fadvise"):
            return
        for index in indices:
            slot = int(self._slots[index])
            if slot >= INITIAL:
                continue
            path, places, place = self._home(index)
            with (
                contextlib.suppress(OSError),
                path.open("rb") as file,
            ):  # a hint: the read itself reports errors
                for name in names:
                    start, length = _byte_range(places[name], (place, slot))
                    for first in range(start, start + length, _AHEAD):
                        size = min(_AHEAD, start + length - first)
                        os.posix_fadvise(file.fileno(), first, size, os.POSIX_FADV_WILLNEED)

    def _store(self, path: Path, arrays: list[tuple[Region, tuple[int, ...], np.ndarray]]) -> None:
        """Writes each array to its place in its region of the file."""
        self._touched.add(path)
        try:
            with path.open("r+b", buffering=0) as file:
                for region, place, values in arrays:
                    file.seek(_byte_range(region, place)[0])
                    rest = memoryview(values.tobytes())
                    while rest:
                        rest = rest[file.write(rest) :]
        except OSError as error:
            raise _unwritable(path, error) from error

    def _checked(self, indices: Sequence[int]) -> list[int]:
        for index in indices:
            if not 0 <= index < self.count:
                raise IndexError(f"object {index} of a code bank of {self.count}")
        return [int(index) for index in indices]

    def _save_document(self) -> None:
        path = self.folder / DOCUMENT
        with replacing(path) as partial:
            document = {"format": FORMAT, **asdict(self._header)}
            partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        self._touched.add(path)
        self.flush()


def _byte_range(region: Region, place: tuple[int, ...]) -> tuple[int, int]:
    """The first byte and the number of bytes of the values at `place` of the first axes of a tensor."""
    length = math.prod(region.shape[len(place) :]) * region.dtype.itemsize
    return region.start + int(np.ravel_multi_index(place, region.shape[: len(place)])) * length, length


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror or error}; free some space or choose another folder (the last "
        "checkpoint is intact)"
    )
