"""Sets of objects with posed pictures of each: SRN folders as they are published, and the shape world.

A set loads one object at a time: published sets have thousands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.core.random import derive_seed
from threedgen.core.types import Cameras
from threedgen.datasets import world
from threedgen.datasets.given import read_pictures
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.shapes import CLASSES
from threedgen.datasets.world import Scene, WorldObject

SHAPE_WORLD = "shape-world:"
_FOV, _RADIUS = 40.0, 2.85
_ELEVATION = (0.0, 60.0)
TRAINING_VIEWS = 12  # of an object of the shape world
_TEST_VIEWS = 32


@dataclass(frozen=True)
class ObjectSet:
    """names: of the objects, in order. load: the pictures of one, by its place. caption: what one is, by its place;
    None where nothing says it.
    """

    names: Sequence[str]
    load: Callable[[int], PosedPictures]
    caption: Callable[[int], str | None] = lambda _: None

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
    """The objects of `source`: a folder of SRN scenes or of folders with a transforms.json, one such folder, or
    shape-world:CLASS[,CLASS...], whose objects are drawn.

    count: the first so many; None: all of a folder, 100 of the shape world. size: pixels, of the shape world's
    pictures only. split: "train" or "test", different draws of the shape world with different cameras: `views`
    random ones, and SRN's spiral. Captions are the shape world's, and what a folder's captions.json says: an object
    of texts by scene. Raises UserError for a source that is neither.
    """
    if source.startswith(SHAPE_WORLD):
        return _shape_world(source, count or 100, size, split, seed, views)
    folder = existing(source, "there are no objects at '{path}': the folder is missing")
    if not folder.is_dir():
        raise UserError(f"'{folder}' is a file: name a folder of objects, or {SHAPE_WORLD}CLASS")
    scenes = [folder] if _is_scene(folder) else sorted(path for path in folder.iterdir() if _is_scene(path))
    if not scenes:
        raise UserError(
            f"'{folder}' holds no objects: it needs folders with rgb/, pose/ and intrinsics.txt (SRN), or with a "
            "transforms.json"
        )
    scenes = scenes[:count]
    names = [path.name for path in scenes]
    captions = _captions(folder)
    return ObjectSet(
        names, lambda index: read_pictures(scenes[index]), lambda index: captions.get(names[index])
    )


def spiral(count: int, size: int) -> Cameras:
    """`count` cameras on a spiral from low to high that turns four times, like those of SRN's test sets."""
    share = (torch.arange(count) + 0.5) / count
    low, high = _ELEVATION
    elevation = low + (high - low) * share
    return orbit(4.0 * 360.0 * share, elevation, torch.full((count,), _RADIUS), _FOV, size, size)


def _is_scene(folder: Path) -> bool:
    """Whether it has anything of a scene: one that lacks the rest is to be complained of, not passed over."""
    parts = ("intrinsics.txt", "transforms.json", "rgb", "pose")
    return folder.is_dir() and any((folder / part).exists() for part in parts)


def _captions(folder: Path) -> dict[str, str]:
    """What captions.json says, nothing where there is none."""
    path = folder / "captions.json"
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(text) for name, text in document.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} must be a JSON object of texts by scene: {error}") from error


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
    """The object of that place, the classes in turn, and the generator for its cameras."""
    rng = np.random.default_rng(derive_seed(seed, f"objects/{split}", index))
    return world.sample_object(rng, (shapes[index % len(shapes)],)), rng


def _draw(shapes: tuple[str, ...], size: int, split: str, seed: int, views: int, index: int) -> PosedPictures:
    """The pictures of the object of that place; a function of its arguments."""
    item, rng = _object(shapes, split, seed, index)
    if split == "test":
        cameras = spiral(_TEST_VIEWS, size)
    else:
        draw = torch.from_numpy(rng.random((2, views))).float()
        low, high = (math.sin(math.radians(angle)) for angle in _ELEVATION)
        elevation = torch.rad2deg(torch.asin(low + (high - low) * draw[1]))
        full = torch.full((views,), _RADIUS)
        cameras = orbit(360.0 * draw[0], elevation, full, _FOV, size, size)
    images, alpha = world.render(Scene((item,)), cameras)
    return PosedPictures(images.clamp(0.0, 1.0), alpha, cameras)
