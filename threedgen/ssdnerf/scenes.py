"""The training set of a latent diffusion: every scene read and checked once, then packed so that rays are cheap.

    FOLDER/index.json                   JSON, written last: names, captions, where each scene lies, what was skipped
    FOLDER/pictures-00000.safetensors   of the first scenes, "000000" and so on: uint8 [V, H, W, 3] on white
    FOLDER/cameras.safetensors          the cameras of all scenes, one after the other

Scenes may differ in the size and number of their pictures. Pictures stay on disk: what a draw of rays touches is
mapped while it is made.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from threedgen.cameras.orbit import single_pixels
from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.datasets.given import check_cameras, held_out
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import ObjectSet
from threedgen.ssdnerf.shards import Region, mapped, planned, regions

INDEX, CAMERAS = "index.json", "cameras.safetensors"
BYTES_PER_SHARD = 1 << 28
_FORMAT = 1


@dataclass(frozen=True)
class _Place:
    """Where a scene's pictures lie, and the first of its cameras among all."""

    path: Path
    region: Region
    camera: int
    near: float
    far: float


class Scenes:
    """A packed training set, read from its folder as it is asked for.

    names, captions: of the scenes. skipped: name and reason of those that could not be used. source: a digest of
    what they were packed from.
    """

    def __init__(
        self,
        entries: list[dict[str, Any]],
        places: list[_Place],
        cameras: dict[str, Tensor],
        skipped: tuple[tuple[str, str], ...],
        source: str,
    ) -> None:
        self.names: list[str] = [entry["name"] for entry in entries]
        self.captions: list[str | None] = [entry["caption"] for entry in entries]
        self.skipped, self.source = skipped, source
        self._places, self._cameras = places, cameras

    def __len__(self) -> int:
        return len(self.names)

    def views(self, index: int) -> int:
        """How many pictures there are of the scene."""
        return self._places[index].region.shape[0]

    def cameras(self, index: int) -> Cameras:
        """Those of all pictures of the scene."""
        place = self._places[index]
        height, width = place.region.shape[1:3]
        part = slice(place.camera, place.camera + self.views(index))
        return Cameras(
            self._cameras["world_from_camera"][part].clone(),
            self._cameras["intrinsics"][part].clone(),
            height,
            width,
            self._cameras["time"][part].clone(),
            place.near,
            place.far,
        )

    def pictures(self, index: int) -> UInt8[Tensor, "V H W 3"]:
        """All pictures of the scene, over white; a copy."""
        place = self._places[index]
        return torch.from_numpy(np.array(mapped(place.path, place.region)))

    def rays(self, index: int, count: int, rng: torch.Generator) -> tuple[Cameras, Float[Tensor, "n 3"]]:
        """`count` pixels of the scene, all equally likely and each as often as it is drawn.

        They come as cameras that see nothing but the centre of that pixel, with their colours in [0, 1] on white.
        """
        place = self._places[index]
        views, height, width, _ = place.region.shape
        pixel = torch.randint(views * height * width, (count,), generator=rng)
        colors = mapped(place.path, place.region).reshape(-1, 3)[pixel.numpy()]
        seen = torch.from_numpy(colors).float() / 255.0
        return single_pixels(self.cameras(index), pixel), seen


def pack(
    objects: ObjectSet,
    folder: str | Path,
    views: int | None = None,
    strict: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    needed: str | None = None,
) -> Scenes:
    """All scenes of a set, each read once and checked before anything is trained on it.

    views: how many of a scene's pictures are kept, evenly spread over their order; None, or more than there are:
    all. strict: the first scene that cannot be used is an error; otherwise it is left out and `Scenes.skipped`
    names it. progress: is told how many of how many scenes are done. needed: `Scenes.source` of a training that
    shall go on.

    What the folder holds already is used again where it is of the same scenes and views (names, captions, and the
    pictures of three of them are compared) and nothing was left out.
    Raises UserError: a scene that cannot be used, none that can, a folder that cannot be written, another source
    than needed.
    """
    folder = Path(folder)
    if views is not None and views < 1:
        raise UserError(f"a scene needs at least one view, got views={views}")
    if not len(objects):
        raise UserError("there are no scenes to train on: the set is empty")
    source = _fingerprint(objects, views)
    if needed not in (None, source):
        raise UserError(f"{folder.parent} holds a training on other scenes or pictures: choose another --out")
    known = _packed(objects, folder, source, strict)
    if known is not None:
        return known
    _clear(folder)
    skipped: list[tuple[str, str]] = []
    entries = _write(objects, folder, views, _Report(strict, skipped, progress))
    if not entries:
        name, reason = skipped[0]
        raise UserError(f"none of the {len(objects)} scenes can be used; '{name}': {reason}")
    document = {"format": _FORMAT, "source": source, "scenes": entries, "skipped": skipped}
    with replacing(folder / INDEX) as path:
        path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return open_scenes(folder)


def open_scenes(folder: str | Path) -> Scenes:
    """The scenes that `pack` left in a folder. Raises UserError: none there, a file missing or truncated."""
    folder = Path(folder)
    document = _read_index(folder)
    cameras = regions(folder / CAMERAS)
    shards: dict[int, dict[str, Region]] = {}
    places, first = [], 0
    try:
        for number, entry in enumerate(document["scenes"]):
            shard = int(entry["shard"])
            if shard not in shards:
                shards[shard] = regions(_shard(folder, shard))
            region = shards[shard][f"{number:06d}"]
            if region.dtype != np.uint8 or len(region.shape) != 4 or region.shape[3] != 3:
                raise ValueError(f"scene {number} has no pictures")
            near, far = float(entry["near"]), float(entry["far"])
            places.append(_Place(_shard(folder, shard), region, first, near, far))
            first += region.shape[0]
        if not places or cameras["time"].shape != (first,):
            raise ValueError(f"{first} pictures, cameras for {cameras['time'].shape}")
        tensors = {
            name: torch.from_numpy(np.array(mapped(folder / CAMERAS, region)))
            for name, region in cameras.items()
        }
        skipped = tuple((str(name), str(reason)) for name, reason in document["skipped"])
        return Scenes(document["scenes"], places, tensors, skipped, document["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / INDEX} does not fit the files beside it ({error}): pack again") from error


@dataclass(frozen=True)
class _Report:
    """strict: whether a scene that cannot be used is an error. skipped: takes the name and reason otherwise."""

    strict: bool
    skipped: list[tuple[str, str]]
    progress: Callable[[int, int], None]


def _packed(objects: ObjectSet, folder: Path, source: str, strict: bool) -> Scenes | None:
    """What the folder holds, if it is of this source and whatever was left out still cannot be used."""
    try:
        if _read_index(folder)["source"] != source:
            return None
        scenes = open_scenes(folder)
    except UserError:
        return None  # nothing there, or broken: it is made again
    names = list(objects.names)
    for name, _ in scenes.skipped:
        try:
            _checked(objects, names.index(name))
        except UserError as error:
            if strict:
                raise _unusable(name, error) from error
        else:
            return None
    return scenes


def _usable(
    objects: ObjectSet, views: int | None, report: _Report
) -> Iterator[tuple[str, str | None, PosedPictures]]:
    """Name, caption and kept pictures of one scene after the other."""
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
    """The pictures of a scene. Raises UserError where there are none, or not with a camera each."""
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
    check_cameras(posed.cameras, name)
    return posed


def _unusable(name: str, error: UserError) -> UserError:
    return UserError(
        f"scene '{name}' cannot be used: {error}; repair it, take it out, or leave it out with --tolerant"
    )


def _write(objects: ObjectSet, folder: Path, views: int | None, report: _Report) -> list[dict[str, Any]]:
    """Writes pictures and cameras; returns what the index says of each scene."""
    entries: list[dict[str, Any]] = []
    cameras: list[Cameras] = []
    waiting: dict[str, np.ndarray] = {}
    shard = 0
    for name, caption, posed in _usable(objects, views, report):
        seen = posed.cameras
        waiting[f"{len(entries):06d}"] = (posed.images.clamp(0.0, 1.0) * 255.0).round().byte().numpy()
        entries.append({"name": name, "caption": caption, "shard": shard, "near": seen.near, "far": seen.far})
        cameras.append(seen)
        if sum(pictures.nbytes for pictures in waiting.values()) >= BYTES_PER_SHARD:
            _save(_shard(folder, shard), waiting)
            waiting, shard = {}, shard + 1
    if waiting:
        _save(_shard(folder, shard), waiting)
    if cameras:
        names = ("world_from_camera", "intrinsics", "time")
        parts = {name: torch.cat([getattr(part, name) for part in cameras]) for name in names}
        _save(folder / CAMERAS, {name: part.float().numpy() for name, part in parts.items()})
    return entries


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    header, places = planned({name: (array.dtype.type, array.shape) for name, array in arrays.items()})
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(header)
        for name in places:  # in the order of the file
            file.write(np.ascontiguousarray(arrays[name]).data)
        file.flush()
        os.fsync(file.fileno())  # the index must not be there before what it names


def _fingerprint(objects: ObjectSet, views: int | None) -> str:
    """A digest of what is asked for: how many views of which scenes, by their names, captions and three of them."""
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


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']!r}, this version reads {_FORMAT}")
        return {
            "source": str(document["source"]),
            "scenes": document["scenes"],
            "skipped": document["skipped"],
        }
    except FileNotFoundError as error:
        raise UserError(f"there are no packed scenes in {folder}: {INDEX} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no index of packed scenes ({error}): pack again") from error


def _clear(folder: Path) -> None:
    """Takes away what another packing left, the index first: without it there are no scenes."""
    try:
        for path in (folder / INDEX, folder / CAMERAS, *folder.glob("pictures-*.safetensors")):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot replace {path}: {error.strerror or error}; choose another folder") from error


def _shard(folder: Path, number: int) -> Path:
    return folder / f"pictures-{number:05d}.safetensors"
