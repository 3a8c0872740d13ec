"""The training set: every object is read and checked once, then packed so that draws of rays are cheap.

    FOLDER/index.json                   JSON, written last: names, captions and places of the objects
    FOLDER/pictures-00000.safetensors   of the first objects, "000000" and so on: uint8 [V, H, W, 3] on white
    FOLDER/cameras.safetensors          the cameras of all objects, one after the other

Objects may differ in the size and number of their pictures. Pictures stay on disk: a draw of rays maps only what it
reads.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from threedgen.cameras.orbit import single_pixels
from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.datasets.given import check_cameras, held_out, require_something_seen
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import ObjectSet
from threedgen.ssdnerf.shards import Region, mapped, planned, regions
from threedgen.training.documents import FORMAT, DocumentError, build, read_document

INDEX, CAMERAS = "index.json", "cameras.safetensors"
BYTES_PER_SHARD = 1 << 28
_CAMERA_FIELDS = ("world_from_camera", "intrinsics", "time")


@dataclass(frozen=True)
class _Entry:
    """One object in the index. shard: number of the file with its pictures. near, far: of its cameras, in world
    units."""

    name: str
    caption: str | None
    shard: int
    near: float
    far: float


@dataclass(frozen=True)
class _Index:
    """The index of a folder. The names of the fields are the keys of index.json.

    source: a digest of what the objects were packed from. scenes: the objects. skipped: name and reason of objects
    that were left out.
    """

    source: str
    scenes: tuple[_Entry, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Place:
    """Where the pictures of an object are, and the number of its first camera among all cameras."""

    path: Path
    region: Region
    camera: int
    near: float
    far: float


class PosedObjects:
    """A packed training set, which is read from its folder when it is asked for.

    names, captions: of the objects. skipped: name and reason of the objects that could not be used. source: a
    digest of what they were packed from.
    """

    def __init__(self, index: _Index, places: list[_Place], cameras: dict[str, Tensor]) -> None:
        self.names = [entry.name for entry in index.scenes]
        self.captions = [entry.caption for entry in index.scenes]
        self.skipped, self.source = index.skipped, index.source
        self._places, self._cameras = places, cameras

    def __len__(self) -> int:
        return len(self.names)

    def views(self, index: int) -> int:
        """The number of pictures of an object."""
        return self._places[index].region.shape[0]

    def cameras(self, index: int) -> Cameras:
        """The cameras of all pictures of an object."""
        place = self._places[index]
        height, width = place.region.shape[1:3]
        own = slice(place.camera, place.camera + self.views(index))
        return Cameras(
            self._cameras["world_from_camera"][own].clone(),
            self._cameras["intrinsics"][own].clone(),
            height,
            width,
            self._cameras["time"][own].clone(),
            place.near,
            place.far,
        )

    def pictures(self, index: int) -> UInt8[Tensor, "V H W 3"]:
        """All pictures of an object, on white, as a copy."""
        place = self._places[index]
        return torch.from_numpy(np.array(mapped(place.path, place.region)))

    def rays(self, index: int, count: int, rng: torch.Generator) -> tuple[Cameras, Float[Tensor, "n 3"]]:
        """`count` pixels of an object, drawn uniformly with replacement.

        Each pixel comes as a camera that sees only the centre of that pixel, with its colour in [0, 1] on white.
        """
        place = self._places[index]
        views, height, width, _ = place.region.shape
        pixel = torch.randint(views * height * width, (count,), generator=rng)
        colors = mapped(place.path, place.region).reshape(-1, 3)[pixel.numpy()]
        return single_pixels(self.cameras(index), pixel), torch.from_numpy(colors).float() / 255.0


def pack(
    objects: ObjectSet,
    folder: str | Path,
    views: int | None = None,
    strict: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    needed: str | None = None,
) -> PosedObjects:
    """All objects of a set, each read once and checked before anything is trained on it.

    views: number of pictures that are kept of each object, evenly spread over their order; None, or more than there
    are, keeps all. strict: the first object that cannot be used is an error; otherwise it is left out and
    `PosedObjects.skipped` names it. progress: called with the number of objects done and of all. needed:
    `PosedObjects.source` of a training that is to continue.

    What is in the folder already is used again if it is of the same objects and views (names, captions, and the
    pictures of three objects are compared) and nothing was left out.
    Raises UserError for an object that cannot be used, for a set without usable objects, for a folder that cannot
    be written, and for another source than needed.
    """
    folder = Path(folder)
    if views is not None and views < 1:
        raise UserError(f"an object needs at least one view, got views={views}")
    if not len(objects):
        raise UserError("there are no objects to train on: the set is empty; name another data set")
    source = _fingerprint(objects, views)
    if needed not in (None, source):
        raise UserError(
            f"{folder.parent} holds a training on other objects or pictures: choose another --out"
        )
    known = _packed(objects, folder, source, strict)
    if known is not None:
        return known
    _clear(folder)
    skipped: list[tuple[str, str]] = []
    entries = _write(objects, folder, views, _Report(strict, skipped, progress))
    if not entries:
        name, reason = skipped[0]
        raise UserError(f"none of the {len(objects)} objects can be used; '{name}': {reason}")
    document = {"format": FORMAT, **asdict(_Index(source, tuple(entries), tuple(skipped)))}
    with replacing(folder / INDEX) as path:
        path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return open_packed(folder)


def open_packed(folder: str | Path) -> PosedObjects:
    """The objects that `pack` wrote into a folder. Raises UserError if there are none, or if a file is missing or
    truncated."""
    folder = Path(folder)
    index = _read_index(folder)
    cameras = regions(folder / CAMERAS)
    try:
        places = _places(folder, index)
        count = sum(place.region.shape[0] for place in places)
        if not places or set(cameras) != set(_CAMERA_FIELDS) or cameras["time"].shape != (count,):
            raise DocumentError(f"{count} pictures do not fit the cameras")
    except DocumentError as error:
        raise UserError(f"{folder / INDEX} does not fit the files beside it ({error}): pack again") from error
    tensors = {
        name: torch.from_numpy(np.array(mapped(folder / CAMERAS, region))) for name, region in cameras.items()
    }
    return PosedObjects(index, places, tensors)


def _places(folder: Path, index: _Index) -> list[_Place]:
    """Where each object of an index is. Raises DocumentError if it does not fit the shards, and UserError for a
    shard that cannot be read."""
    shards: dict[int, dict[str, Region]] = {}
    places, first = [], 0
    for number, entry in enumerate(index.scenes):
        if entry.shard not in shards:
            shards[entry.shard] = regions(_shard(folder, entry.shard))
        region = shards[entry.shard].get(f"{number:06d}")
        if region is None or region.dtype != np.uint8 or len(region.shape) != 4 or region.shape[3] != 3:
            raise DocumentError(f"object {number} has no pictures")
        if not 0.0 < entry.near < entry.far < math.inf:
            raise DocumentError(f"the cameras of object {number} see from {entry.near} to {entry.far}")
        places.append(_Place(_shard(folder, entry.shard), region, first, entry.near, entry.far))
        first += region.shape[0]
    return places


@dataclass(frozen=True)
class _Report:
    """strict: whether an object that cannot be used is an error. skipped: takes its name and reason otherwise."""

    strict: bool
    skipped: list[tuple[str, str]]
    progress: Callable[[int, int], None]


def _packed(objects: ObjectSet, folder: Path, source: str, strict: bool) -> PosedObjects | None:
    """What the folder holds, if it is of this source and whatever was left out still cannot be used."""
    try:
        if _read_index(folder).source != source:
            return None
        found = open_packed(folder)
    except UserError:
        return None  # nothing is there, or it is damaged: it is made again
    names = list(objects.names)
    for name, _ in found.skipped:
        try:
            _checked(objects, names.index(name))
        except UserError as error:
            if strict:
                raise _unusable(name, error) from error
        else:
            return None
    return found


def _usable(
    objects: ObjectSet, views: int | None, report: _Report
) -> Iterator[tuple[str, str | None, PosedPictures]]:
    """Name, caption and kept pictures of one object after the other."""
    for index, name in enumerate(objects.names):
        try:
            posed = _checked(objects, index)
        except UserError as error:
            if report.strict:
                raise _unusable(name, error) from error
            report.skipped.append((name, str(error)))
        else:
            total = len(posed.images)
            kept = held_out(total, min(views or total, total))
            yield (
                name,
                objects.caption(index),
                PosedPictures(posed.images[kept], posed.alpha[kept], posed.cameras[kept]),
            )
        report.progress(index + 1, len(objects))


def _checked(objects: ObjectSet, index: int) -> PosedPictures:
    """The pictures of an object. Raises UserError if there are none, or if they do not fit their cameras."""
    posed = objects.load(index)
    name, shape = objects.names[index], tuple(posed.images.shape)
    if not len(posed.images):
        raise UserError(f"'{name}' holds no pictures")
    if shape != (len(posed.cameras), posed.cameras.height, posed.cameras.width, 3):
        raise UserError(
            f"'{name}': pictures {list(shape)} do not fit {len(posed.cameras)} cameras of "
            f"{posed.cameras.width} x {posed.cameras.height} pixels"
        )
    if not posed.images.isfinite().all():
        raise UserError(f"'{name}' has a picture with NaN or infinite numbers")
    check_cameras(posed, name)
    require_something_seen(posed, name)
    return posed


def _unusable(name: str, error: UserError) -> UserError:
    return UserError(
        f"object '{name}' cannot be used: {error}; repair it, remove it, or leave it out with --tolerant"
    )


def _write(objects: ObjectSet, folder: Path, views: int | None, report: _Report) -> list[_Entry]:
    """Writes pictures and cameras; returns the entries of the index."""
    entries: list[_Entry] = []
    cameras: list[Cameras] = []
    waiting: dict[str, np.ndarray] = {}
    shard = 0
    for name, caption, posed in _usable(objects, views, report):
        seen = posed.cameras
        waiting[f"{len(entries):06d}"] = (posed.images.clamp(0.0, 1.0) * 255.0).round().byte().numpy()
        entries.append(_Entry(name, caption, shard, seen.near, seen.far))
        cameras.append(seen)
        if sum(pictures.nbytes for pictures in waiting.values()) >= BYTES_PER_SHARD:
            _save(_shard(folder, shard), waiting)
            waiting, shard = {}, shard + 1
    if waiting:
        _save(_shard(folder, shard), waiting)
    if cameras:
        joined = {name: torch.cat([getattr(seen, name) for seen in cameras]) for name in _CAMERA_FIELDS}
        _save(folder / CAMERAS, {name: values.float().numpy() for name, values in joined.items()})
    return entries


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    header, places = planned({name: (array.dtype.type, array.shape) for name, array in arrays.items()})
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(header)
        for name in places:  # in the order of the file
            file.write(np.ascontiguousarray(arrays[name]).data)


def _fingerprint(objects: ObjectSet, views: int | None) -> str:
    """A digest of the number of views, of the names and captions of all objects, and of the pictures of three."""
    digest = hashlib.blake2b(repr((views, list(objects.names))).encode(), digest_size=16)
    for index in range(len(objects)):
        digest.update(repr(objects.caption(index)).encode())
    for index in sorted({0, len(objects) // 2, len(objects) - 1}):
        try:
            posed = objects.load(index)
        except UserError as error:
            digest.update(str(error).encode())
            continue
        for tensor in (posed.images, posed.cameras.world_from_camera, posed.cameras.intrinsics):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read_index(folder: Path) -> _Index:
    path = folder / INDEX
    try:
        values = read_document(path)
        return build(_Index, values)
    except FileNotFoundError as error:
        raise UserError(f"there are no packed objects in {folder}: {INDEX} is missing") from error
    except (OSError, DocumentError) as error:
        raise UserError(f"{path} is not an index of packed objects ({error}): pack again") from error


def _clear(folder: Path) -> None:
    """Removes the files of an earlier packing, the index first: without it the folder holds no objects."""
    try:
        for path in (folder / INDEX, folder / CAMERAS, *folder.glob("pictures-*.safetensors")):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot replace {path}: {error.strerror or error}; choose another folder") from error


def _shard(folder: Path, number: int) -> Path:
    return folder / f"pictures-{number:05d}.safetensors"
