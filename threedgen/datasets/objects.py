"""Sets of objects with posed pictures of each: published folders in the layout of SRN, and the shape world.

A set loads one object at a time, because published sets have thousands.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.paths import entries, existing
from threedgen.core.random import derive_seed
from threedgen.core.types import Cameras
from threedgen.datasets import world
from threedgen.datasets.gauge import centred
from threedgen.datasets.given import is_capture, read_pictures
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.named_files import SUFFIXES
from threedgen.datasets.shapes import CLASSES
from threedgen.datasets.world import Scene, WorldObject

SHAPE_WORLD = "shape-world:"
_ELEVATION = (0.0, 60.0)  # degrees
TRAINING_VIEWS = 12  # of each object of the shape world
_TEST_VIEWS = 32


@dataclass(frozen=True)
class ObjectSet:
    """A set of objects. names: in order. load: returns the pictures of the object with an index. caption: returns
    the caption of the object with an index, None if it has none. digest: returns what tells the files of the object
    with an index from those of others, under any name; None if it is drawn.
    """

    names: Sequence[str]
    load: Callable[[int], PosedPictures]
    caption: Callable[[int], str | None] = lambda _: None
    digest: Callable[[int], str | None] = lambda _: None

    def digests(self, names: Collection[str] | None = None) -> list[str]:
        """The digests of the objects of these names, by default of all; [] if they are drawn."""
        chosen = (index for index, name in enumerate(self.names) if names is None or name in names)
        return [found for index in chosen if (found := self.digest(index)) is not None]

    def __len__(self) -> int:
        return len(self.names)


def open_objects(
    source: str,
    count: int | None = None,
    size: int = 64,
    split: str = "test",
    seed: int = 0,
    views: int = TRAINING_VIEWS,
) -> ObjectSet:
    """The objects of `source`: a folder of folders in the layout of SRN or with a transforms.json, one such folder,
    or shape-world:CLASS[,CLASS...], of which random objects are drawn.

    count: how many objects, the first of a folder; None is all of a folder, and 100 of the shape world. size: width
    and height in pixels of pictures of the shape world. split: "train" or "test", which have different objects of
    the shape world and different cameras: `views` random ones, or the spiral of SRN. Captions are those of the
    shape world, or of the file captions.json of a folder, a JSON object of texts by the names of the objects.
    Raises UserError for any other source.
    """
    if source.startswith(SHAPE_WORLD):
        return _shape_world(source, count or 100, size, split, seed, views)
    folder = existing(source, "there are no objects at '{path}': the folder is missing")
    if not folder.is_dir():
        raise UserError(f"'{folder}' is a file: name a folder of objects, or {SHAPE_WORLD}CLASS")
    folders = _objects_in(folder)
    if not folders:
        raise UserError(
            f"'{folder}' holds no objects: it needs folders with rgb/, pose/ and intrinsics.txt (SRN), with a "
            "transforms.json, or of COLMAP"
        )
    folders = folders[:count]
    names = [path.name for path in folders]
    captions = _captions(folder)
    return ObjectSet(
        names,
        lambda index: centred(read_pictures(folders[index]))[0],
        lambda index: captions.get(names[index]),
        lambda index: _digest(folders[index]),
    )


def spiral(count: int, size: int) -> Cameras:
    """`count` cameras of size x size pixels on a spiral of four turns upwards, as in the test sets of SRN."""
    share = (torch.arange(count) + 0.5) / count
    low, high = _ELEVATION
    elevation = low + (high - low) * share
    return orbit(4.0 * 360.0 * share, elevation, torch.full((count,), DISTANCE), FOV, size, size)


def _objects_in(folder: Path) -> list[Path]:
    """The folders of the objects: `folder` itself, those in it, or those in the one folder in it that an archive
    often begins with."""
    if _is_object(folder):
        return [folder]
    beside = [path for path in entries(folder) if path.is_dir()]
    if len(beside) == 1 and not _is_object(beside[0]):
        beside = entries(beside[0])
    return [path for path in beside if _is_object(path)]


def _is_object(folder: Path) -> bool:
    """Whether a folder has anything that belongs to an object. If it lacks the rest, loading it
    reports that."""
    return folder.is_dir() and (
        is_capture(folder) or any((folder / name).exists() for name in ("rgb", "pose"))
    )


def _digest(folder: Path) -> str | None:
    """A digest of the largest picture of an object, which is the last to be blank; None if it cannot be read.

    One file is enough to tell objects from each other, and takes a moment for a thousand of them."""
    try:
        files = [
            Path(place) / name
            for place, _, names in os.walk(folder)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
        largest = max(files, key=lambda path: (path.stat().st_size, path.name), default=None)
        if largest is None:
            return None
        with largest.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError:  # loading the object says what is wrong
        return None


def _captions(folder: Path) -> dict[str, str]:
    """The captions in captions.json, none if there is no such file."""
    path = folder / "captions.json"
    if not path.is_file():
        return {}
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must be a JSON object of texts by object: {error}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} must be a JSON object of texts by object")
    return {str(name): str(text) for name, text in document.items()}


def _shape_world(source: str, count: int, size: int, split: str, seed: int, views: int) -> ObjectSet:
    shapes = tuple(name for name in source.removeprefix(SHAPE_WORLD).split(",") if name)
    unknown = [name for name in shapes if name not in CLASSES]
    if not shapes or unknown:
        wrong = f"no class '{unknown[0]}'" if unknown else "no class"
        raise UserError(f"'{source}' names {wrong}: use {SHAPE_WORLD}CLASS with {', '.join(CLASSES)}")
    names = [f"{shapes[index % len(shapes)]}-{index:05d}" for index in range(count)]
    return ObjectSet(
        names,
        partial(_draw, shapes, size, split, seed, views),
        lambda index: Scene((_object(shapes, split, seed, index)[0],)).caption,
    )


def _object(
    shapes: tuple[str, ...], split: str, seed: int, index: int
) -> tuple[WorldObject, np.random.Generator]:
    """The object with an index, of each class in turn, and the generator for its cameras."""
    rng = np.random.default_rng(derive_seed(seed, f"objects/{split}", index))
    return world.sample_object(rng, (shapes[index % len(shapes)],)), rng


def _draw(shapes: tuple[str, ...], size: int, split: str, seed: int, views: int, index: int) -> PosedPictures:
    """The pictures of the object with an index; they depend on the arguments alone."""
    item, rng = _object(shapes, split, seed, index)
    if split == "test":
        cameras = spiral(_TEST_VIEWS, size)
    else:
        draw = torch.from_numpy(rng.random((2, views))).float()
        low, high = (math.sin(math.radians(angle)) for angle in _ELEVATION)
        elevation = torch.rad2deg(torch.asin(low + (high - low) * draw[1]))
        full = torch.full((views,), DISTANCE)
        cameras = orbit(360.0 * draw[0], elevation, full, FOV, size, size)
    images, alpha = world.render(Scene((item,)), cameras)
    return PosedPictures(images.clamp(0.0, 1.0), alpha, cameras)
