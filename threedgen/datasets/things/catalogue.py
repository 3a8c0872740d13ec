"""The catalogue of things: objects of Sweet Home 3D's furniture libraries with the words that people use for them.

The libraries are no part of threedgen (Debian: `apt install sweethome3d-furniture`). What is, is
catalogue_words.yaml: which objects are kept, their words, and corrections of how they stand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.datasets.mesh_files import PaintedMesh, read_painted
from threedgen.datasets.things.sh3f import Entry, read_libraries, unpacked
from threedgen.datasets.things.thing_class import RADIUS

MATERIALS = ("wooden", "metal", "iron", "glass", "plastic", "leather", "stone", "wicker", "cardboard")
WORDS = Path(__file__).with_name("catalogue_words.yaml")
ONLY = {"cc0": "Public domain"}  # what `only` may be, and how the licence of these libraries begins


@dataclass(frozen=True)
class Words:
    """What catalogue_words.yaml says of an object.

    words: what people call it, the most usual word first. material: one of MATERIALS, None if no word is sure.
    pitch: degrees by which it is turned about +X, top to the front, before all else: 90 makes stand what lies. yaw:
    degrees by which it is then turned about +Y, for a front that is not on +Z. thin: whether it fills less than 8 %
    of a picture from the front. colored: whether its caption may name its colours. recolored: whether it may have
    other colours, as a car may and a plant may not.
    """

    words: tuple[str, ...]
    material: str | None = None
    pitch: float = 0.0
    yaw: float = 0.0
    thin: bool = False
    colored: bool = True
    recolored: bool = True


@dataclass(frozen=True)
class Thing:
    """An object of the catalogue that is kept, and its words."""

    entry: Entry
    words: Words


@once
def word_map() -> Mapping[str, Words]:
    """The words of every object that is kept, by its key."""
    kept = _document()["kept"]
    return {key: Words(**{**values, "words": tuple(values["words"])}) for key, values in kept.items()}


@once
def bare_words() -> frozenset[str]:
    """The words that have no article: plurals such as "scissors", and what cannot be counted."""
    return frozenset(_document()["bare"])


def dropped() -> dict[str, str]:
    """Why each of the other objects is left out, by its key: one word."""
    return dict(_document()["dropped"])


def read_catalogue(folder: str | Path | None = None, only: str | None = None) -> list[Thing]:
    """The kept objects of the libraries in a folder, in the order of `read_libraries`.

    folder: None means the place where Debian installs them. only: "cc0" means the library of the public domain
    alone. Raises UserError as `read_libraries` does, for another `only`, and if no object of the folder is kept.
    """
    if only is not None and only not in ONLY:
        raise UserError(f"there is no part '{only}' of the catalogue: use {', '.join(ONLY)}")
    words = word_map()
    things = [
        Thing(entry, words[entry.key])
        for entry in read_libraries(folder)
        if entry.key in words and (only is None or entry.license.startswith(ONLY[only]))
    ]
    if not things:
        raise UserError(f"no object of the furniture libraries in '{folder}' has a word")
    return things


def read_thing(thing: Thing, cache: str | Path | None = None) -> PaintedMesh:
    """The mesh of an object, which faces +Z and stands upright along +Y, with the proportions of the catalogue; the
    middle of its bounding box is the origin, and its farthest corner is at RADIUS.

    cache: a folder that keeps unpacked models. Raises UserError as `unpacked` and `read_painted` do.
    """
    with unpacked(thing.entry, None if cache is None else Path(cache)) as path:
        painted = read_painted(path)
    vertices = painted.mesh.vertices.double()
    entry, words = thing.entry, thing.words
    if entry.rotation is not None:
        vertices = vertices @ torch.tensor(entry.rotation, dtype=torch.float64).reshape(3, 3).T
    extent = vertices.amax(0) - vertices.amin(0)
    sides = torch.tensor(entry.size, dtype=torch.float64)
    vertices = vertices * torch.where(extent > 0.0, sides / extent, 1.0)  # a flat model has a side of 0
    vertices = vertices @ (_turn(1, words.yaw) @ _turn(0, words.pitch)).T
    vertices = vertices - 0.5 * (vertices.amax(0) + vertices.amin(0))
    vertices = vertices * (RADIUS / vertices.norm(dim=1).max())
    return replace(painted, mesh=replace(painted.mesh, vertices=vertices.float()))


def words_of(things: Sequence[Thing]) -> list[str]:
    """The distinct words of objects, sorted."""
    return sorted({word for thing in things for word in thing.words.words})


@once
def _document() -> dict[str, Any]:
    return yaml.safe_load(WORDS.read_text(encoding="utf-8"))


def _turn(axis: int, degrees: float) -> Float[Tensor, "3 3"]:
    """The right-handed rotation about an axis: 0 is x, 1 is y."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = (
        [[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]
        if axis == 0
        else [[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]
    )
    return torch.tensor(rows, dtype=torch.float64)
