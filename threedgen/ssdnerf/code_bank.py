"""Codes of thousands of scenes on disk, with their Adam moments and occupancy grids (METHODS 4.2's cache).

    FOLDER/bank.json                 JSON: how many scenes, of what shape, and how their codes begin
    FOLDER/codes-00000.safetensors   the first scenes, each tensor [scenes, 2, ...]: two slots a scene
    FOLDER/mean.safetensors          the mean code, in two slots as well

A write goes to the slot that the last commit does not name, so the state of that commit is on disk until the next
one, whatever is written, and whenever the process is killed. Which slot holds each scene (`slots`) is all that a
checkpoint must keep: opened with it, a bank has the same bits again. Nothing is undone and nothing is replayed.

Reads map the file and the mapping ends with them; writes are ordinary ones, because a full disk is then an error
and not the end of the process. Either way nothing of the bank stays in the process's memory.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.ssdnerf.shards import Region, mapped, planned, regions

DOCUMENT, MEAN_FILE = "bank.json", "mean.safetensors"
SCENES_PER_SHARD = 64
INITIAL, MEANS = 2, (3, 4)
"""What `slots` says beside 0 and 1: the code is as `initialise` drew it; it is the mean code, in slot 0 or 1."""
_FORMAT = 1
_AHEAD = 1 << 17  # bytes: of a longer piece Linux may read only the beginning ahead
_FIELDS = ("code", "first", "second", "step", "density")


@dataclass(frozen=True)
class Records:
    """What a bank keeps of B scenes. code: before its activation. first, second: Adam's moments of it. step: how
    many Adam steps it had. density: the running maximum of its occupancy grid.

    A scene that was never written has moments, step and density 0, which says nothing of where it is empty.
    """

    code: Float[Tensor, "B P C R R"]
    first: Float[Tensor, "B P C R R"]
    second: Float[Tensor, "B P C R R"]
    step: Int[Tensor, " B"]
    density: Float[Tensor, "B G G G"]


class CodeBank:
    """count: scenes. shape: of a code, (P, C, R, R). cells: G, the occupancy grid's cells a side.

    Made by `create` or `open`. Several processes may have one bank open when each writes other scenes.
    """

    def __init__(self, folder: Path, document: dict[str, Any], slots: UInt8[Tensor, " N"]) -> None:
        self.folder = folder
        self.count: int = document["count"]
        self.shape: tuple[int, ...] = tuple(document["shape"])
        self.cells: int = document["cells"]
        self._document = document
        self._slots, self._committed = slots.clone(), slots.clone()
        self._touched: set[Path] = set()
        self._files = self._layout()

    @classmethod
    def create(cls, folder: str | Path, count: int, shape: tuple[int, int, int, int], cells: int) -> CodeBank:
        """A bank whose codes are 0, in place of one that is there. It takes up the disk as it is written.

        Raises UserError: sizes that are not positive, a folder that cannot be written.
        """
        if min(count, cells, *shape) < 1 or len(shape) != 4:
            raise UserError(
                f"a code bank needs at least one scene, cell and number, got {count} scenes of {list(shape)} "
                f"with {cells} cells"
            )
        folder = Path(folder)
        document = {
            "format": _FORMAT, "count": count, "shape": list(shape), "cells": cells, "seed": 0, "scale": 0.0,
        }  # fmt: skip
        bank = cls(folder, document, torch.full((count,), INITIAL, dtype=torch.uint8))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / DOCUMENT).unlink(missing_ok=True)  # no bank until the new one is whole
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
        """The bank as it was when `slots` was committed; None: as it began.

        Raises UserError: no bank there, a shard that is missing or truncated, slots of other scenes.
        """
        folder = Path(folder)
        try:
            document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
            if document["format"] != _FORMAT:
                raise ValueError(f"format {document['format']!r}, this version reads {_FORMAT}")
            sizes = [document["count"], *document["shape"], document["cells"], document["seed"]]
            if len(sizes) != 7 or not all(type(size) is int for size in sizes) or min(sizes[:6]) < 1:
                raise ValueError("its sizes are no sizes")
            document["scale"] = float(document["scale"])
        except FileNotFoundError as error:
            raise UserError(f"there is no code bank in {folder}: {DOCUMENT} is missing") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / DOCUMENT} is not a code bank ({error}): train again") from error
        count = document["count"]
        if slots is None:
            slots = torch.full((count,), INITIAL, dtype=torch.uint8)
        if slots.shape != (count,):
            raise UserError(
                f"the checkpoint is of {slots.numel()} scenes and the code bank {folder} of {count}: they are "
                "of different trainings"
            )
        if not ((slots >= 0) & (slots <= MEANS[-1])).all():
            raise UserError(f"the checkpoint names slots that the code bank {folder} has not: restore it")
        bank = cls(folder, document, slots.to("cpu", torch.uint8))
        for path, (_, places) in bank._files.items():
            if regions(path) != places:
                raise UserError(f"{path} is of another code bank than {folder / DOCUMENT}: restore it")
        return bank

    def require(self, count: int, shape: tuple[int, int, int, int], cells: int) -> None:
        """UserError where the bank is not of so many scenes, such codes and grids."""
        asked, here = (count, tuple(shape), cells), (self.count, self.shape, self.cells)
        if asked != here:
            raise UserError(
                f"the code bank {self.folder} is of {here[0]} scenes with codes {list(here[1])} and {here[2]} "
                f"cells, not of {count} with {list(shape)} and {cells}: use the settings it was made with"
            )

    @property
    def slots(self) -> UInt8[Tensor, " N"]:
        """Which slot holds each scene now: what a checkpoint must keep. A copy."""
        return self._slots.clone()

    def initialise(self, seed: int, scale: float = 1e-4) -> None:
        """Codes uniform in +-scale, drawn when they are read. Raises ValueError once there are other codes."""
        if not (self._slots == INITIAL).all() or not (self._committed == INITIAL).all():
            raise ValueError("a bank is initialised before anything is written to it")
        self._document |= {"seed": seed, "scale": scale}
        self._save_document()

    def read(self, indices: Sequence[int]) -> Records:
        """The records of these scenes, in this order, as copies."""
        found = {
            name: np.zeros((len(indices), *shape), dtype) for name, (dtype, shape) in self._fields().items()
        }
        self.expect(indices)  # all at once: otherwise the disk is asked for a few pages after the other
        for row, scene in enumerate(indices):
            slot = int(self._slots[scene])
            if slot >= INITIAL:
                found["code"][row] = self._start(scene, slot)
                continue
            path, places, place = self._home(scene)
            for name, values in found.items():
                values[row] = mapped(path, places[name])[place, slot]
        return Records(**{name: torch.from_numpy(values) for name, values in found.items()})

    def write(self, indices: Sequence[int], records: Records) -> None:
        """Replaces the records of these scenes, rounded to what a bank keeps; infinite densities to the largest.

        Raises UserError: a full disk (the last commit is intact), records of another shape.
        """
        arrays = {}
        for name, (dtype, shape) in self._fields().items():
            values = getattr(records, name).detach().cpu()
            if values.shape != (len(indices), *shape):
                raise UserError(
                    f"the code bank {self.folder} keeps a {name} of {list(shape)} a scene, got "
                    f"{list(values.shape)} for {len(indices)}"
                )
            if name == "density":
                values = values.clamp(max=float(np.finfo(np.float16).max))
            arrays[name] = values.numpy().astype(dtype, copy=False)
        for row, scene in enumerate(self._checked(indices)):
            slot = self._other(scene)
            path, places, place = self._home(scene)
            self._store(path, [(places[name], (place, slot), values[row]) for name, values in arrays.items()])
            self._slots[scene] = slot

    def mark(self, indices: Sequence[int]) -> None:
        """Takes note that another process of the training wrote these scenes."""
        for scene in self._checked(indices):
            self._slots[scene] = self._other(scene)

    def expect(self, indices: Sequence[int]) -> None:
        """Has the operating system read these scenes ahead, where it can."""
        self._announce(self._checked(indices), _FIELDS)

    def flush(self) -> None:
        """Everything written so far is on the disk when this returns. Called before the checkpoint is saved.

        Raises UserError where the disk is full.
        """
        for path in sorted(self._touched):
            try:
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise _unwritable(path, error) from error
        self._touched.clear()

    def committed(self) -> None:
        """The checkpoint that keeps the present `slots` is on disk: what it names is not written over."""
        self._committed = self._slots.clone()

    def mean_code(self) -> Float[Tensor, "P C R R"]:
        """The mean of the codes of all scenes, added up in float64 in their order."""
        total = np.zeros(self.shape)
        for scene in range(self.count):
            if scene % SCENES_PER_SHARD == 0:
                self._announce(range(scene, min(scene + 2 * SCENES_PER_SHARD, self.count)), ("code",))
            slot = int(self._slots[scene])
            if slot >= INITIAL:
                total += self._start(scene, slot)
            else:
                path, places, place = self._home(scene)
                total += mapped(path, places["code"])[place, slot]
        return torch.from_numpy((total / self.count).astype(np.float32))

    def reset_to_mean(self) -> None:
        """All codes become their mean, all moments, steps and densities 0 (METHODS 4.3, sparse views).

        Every process of a training calls it, after all have written and before any writes again.
        """
        mean = self.mean_code().numpy()
        slot = int((self._committed == MEANS[0]).any())
        path = self.folder / MEAN_FILE
        self._store(path, [(self._files[path][1]["mean"], (slot,), mean)])
        self._slots.fill_(MEANS[slot])

    def _fields(self) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
        """The dtype and shape of a scene's part of each field."""
        planes, grid = (np.float32, self.shape), (np.float16, (self.cells,) * 3)
        return dict(zip(_FIELDS, (planes, planes, planes, (np.int64, ()), grid), strict=True))

    def _layout(self) -> dict[Path, tuple[bytes, dict[str, Region]]]:
        """The files of the bank: how each begins, and where its tensors lie."""

        def shard(scenes: int) -> tuple[bytes, dict[str, Region]]:
            return planned(
                {name: (dtype, (scenes, 2, *shape)) for name, (dtype, shape) in self._fields().items()}
            )

        whole, rest = divmod(self.count, SCENES_PER_SHARD)
        full = shard(SCENES_PER_SHARD)
        shards = [full] * whole + ([shard(rest)] if rest else [])
        files = {self._shard(number): layout for number, layout in enumerate(shards)}
        return files | {self.folder / MEAN_FILE: planned({"mean": (np.float32, (2, *self.shape))})}

    def _shard(self, number: int) -> Path:
        return self.folder / f"codes-{number:05d}.safetensors"

    def _home(self, scene: int) -> tuple[Path, dict[str, Region], int]:
        """The file that holds a scene, where its tensors lie, and the scene's place in each."""
        path = self._shard(scene // SCENES_PER_SHARD)
        return path, self._files[path][1], scene % SCENES_PER_SHARD

    def _other(self, scene: int) -> int:
        """The slot that the last commit does not name."""
        return int(self._committed[scene] == 0)

    def _start(self, scene: int, slot: int) -> np.ndarray:
        """The code of a scene that has no record of its own: as it was drawn, or the mean."""
        if slot == INITIAL:
            rng = generator(self._document["seed"], "code", scene)
            return (self._document["scale"] * (2.0 * torch.rand(self.shape, generator=rng) - 1.0)).numpy()
        path = self.folder / MEAN_FILE
        return np.array(mapped(path, self._files[path][1]["mean"])[MEANS.index(slot)])

    def _announce(self, scenes: Sequence[int], names: Sequence[str]) -> None:
        """Tells the operating system that these fields of scenes will be read."""
        if not hasattr(os, "posix_fadvise"):
            return
        for scene in scenes:
            slot = int(self._slots[scene])
            if slot >= INITIAL:
                continue
            path, places, place = self._home(scene)
            with contextlib.suppress(OSError), path.open("rb") as file:  # a hint: reading says what is wrong
                for name in names:
                    start, length = _part(places[name], (place, slot))
                    for first in range(start, start + length, _AHEAD):
                        size = min(_AHEAD, start + length - first)
                        os.posix_fadvise(file.fileno(), first, size, os.POSIX_FADV_WILLNEED)

    def _store(self, path: Path, parts: list[tuple[Region, tuple[int, ...], np.ndarray]]) -> None:
        """Writes each array to its place in its region of the file."""
        self._touched.add(path)
        try:
            with path.open("r+b", buffering=0) as file:
                for region, place, values in parts:
                    file.seek(_part(region, place)[0])
                    rest = memoryview(values.tobytes())
                    while rest:
                        rest = rest[file.write(rest) :]
        except OSError as error:
            raise _unwritable(path, error) from error

    def _checked(self, indices: Sequence[int]) -> list[int]:
        for scene in indices:
            if not 0 <= scene < self.count:
                raise IndexError(f"scene {scene} of a code bank of {self.count}")
        return [int(scene) for scene in indices]

    def _save_document(self) -> None:
        path = self.folder / DOCUMENT
        with replacing(path) as partial:
            partial.write_text(json.dumps(self._document, indent=1) + "\n", encoding="utf-8")
        self._touched.add(path)
        self.flush()


def _part(region: Region, place: tuple[int, ...]) -> tuple[int, int]:
    """The first byte and the number of bytes of what lies at `place` of a tensor's first axes."""
    length = math.prod(region.shape[len(place) :]) * region.dtype.itemsize
    return region.start + int(np.ravel_multi_index(place, region.shape[: len(place)])) * length, length


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror or error}; free some space or choose another folder (the last "
        "checkpoint is intact)"
    )
