"""Scenes of two things ("a blue bird on a tree", "a cat beside a red chair") and of several of the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float

from threedgen.cameras.orbit import orbit
from threedgen.core.types import TriMesh
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import rotation_about
from threedgen.datasets.things.thing_class import PAINTS, fitted
from threedgen.datasets.things.thing_set import ThingSource
from threedgen.datasets.things.wording import Coat, count_phrase, countable, draw_coat, draw_word, phrase
from threedgen.renderers.rasterize import rasterize

SCENES = Path(__file__).with_name("scenes.yaml")
PAIR_PAINTS = tuple(f"{paint} {index}" for index in (0, 1) for paint in PAINTS)  # of both things of a scene
_RELATIONS = {"on": 0.4, "beside": 0.45, "before": 0.15}  # how often each is drawn
_LONGEST = (15.0, 40.0, 80.0, 200.0, 450.0)  # centimetres, of the longest side, where the next size begins
_STEP, _SMALLEST = 0.8, 0.4  # how much smaller a thing is for each step of size, and at least is
_ON = 0.65  # greatest size of a thing that stands on another, relative to it
_TURN = 20.0  # degrees, by which things are turned at most
_UNNAMED = 0.4  # share of the things of scenes whose colours are natural and not named
CELLS = 96  # of the square grid of heights over [-1, 1]
_FAR = 400.0  # world units, of the camera that looks straight down or up
_CONTACT = 0.03  # world units: surfaces as near as this carry each other
_PLACES = np.linspace(-0.5, 0.5, 7)  # where on the lower thing a place is looked for, in halves of its width


@dataclass(frozen=True)
class PairScene:
    """Two classes, the first of which is "on", "beside" or "before" the second. side: -1 or 1, of the first thing,
    from the middle to +X."""

    first: ThingSource
    second: ThingSource
    relation: str
    side: int


@dataclass(frozen=True)
class CountScene:
    """Several of the same thing, in a row or, if three, perhaps in a triangle."""

    source: ThingSource
    count: int
    row: bool


def size_of(source: ThingSource) -> int:
    """How large the things of a class are, or a catalogue object is, from 0 to 5."""
    document = _document()
    if source.item is not None and source.word not in document["words"]:
        return int(np.searchsorted(_LONGEST, max(source.item.entry.size)))
    return document["words"].get(source.word, document["families"][source.name.split("/")[0]])


def draw_pair(classes: Sequence[ThingSource], rng: np.random.Generator) -> PairScene:
    """A scene of two different words of the given classes. Raises ValueError if there are fewer than two."""
    if len({source.word for source in classes}) < 2:
        raise ValueError("a scene of two needs classes of two words")
    relations = _possible(tuple(classes))
    weights = np.array([_RELATIONS[name] for name in relations])
    relation = list(relations)[rng.choice(len(relations), p=weights / weights.sum())]
    pairs = relations[relation]
    first, second = pairs[rng.integers(len(pairs))]
    return PairScene(first, second, relation, 1 if rng.random() < 0.5 else -1)


def draw_count(classes: Sequence[ThingSource], rng: np.random.Generator) -> CountScene:
    """Two or three of one of the given classes that can be counted."""
    able = [source for source in classes if countable(source.word)]
    return CountScene(able[rng.integers(len(able))], 2 + int(rng.integers(2)), rng.random() < 0.5)


def relative_sizes(first: int, second: int, relation: str) -> tuple[float, float]:
    """How two things of given sizes (see `size_of`) are scaled to be seen together."""
    steps = first - second
    one, other = max(_STEP ** max(-steps, 0), _SMALLEST), max(_STEP ** max(steps, 0), _SMALLEST)
    return min(one, _ON * other) if relation == "on" else one, other


def pair_pieces(scene: PairScene, rng: np.random.Generator) -> tuple[list[Piece], list[Piece]]:
    """The pieces of both things, random ones of their classes, together centred and scaled to RADIUS."""
    sizes = relative_sizes(size_of(scene.first), size_of(scene.second), scene.relation)
    first, second = (
        _turned(source.pieces(rng), rng.uniform(-_TURN, _TURN), size * rng.uniform(0.9, 1.1))
        for source, size in zip((scene.first, scene.second), sizes, strict=True)
    )
    (low, high), (floor, top) = joined_bounds(first), joined_bounds(second)
    gap = rng.uniform(0.02, 0.12)
    if scene.relation == "on":
        shift = _standing(first, second)
    elif scene.relation == "beside":
        x = top[0] - low[0] + gap if scene.side > 0 else floor[0] - high[0] - gap
        shift = np.array([x, floor[1] - low[1], 0.2 * (top[2] - floor[2]) * rng.uniform(-1.0, 1.0)])
    else:
        x = 0.25 * (top[0] - floor[0]) * rng.uniform(-1.0, 1.0)
        shift = np.array([x, floor[1] - low[1], top[2] - low[2] + gap])
    first = [(solid.moved(tuple(shift)), paint) for solid, paint in first]
    together = fitted([*first, *second])
    return together[: len(first)], together[len(first) :]


def count_pieces(scene: CountScene, rng: np.random.Generator) -> list[Piece]:
    """The pieces of all things, which are the same but for a turn, together centred and scaled to RADIUS."""
    one = scene.source.pieces(rng)
    things = [_turned(one, rng.uniform(-_TURN, _TURN), 1.0) for _ in range(scene.count)]
    pieces: list[Piece] = []
    edge = 0.0
    back = things if scene.row or scene.count < 3 else things[:-1]
    for thing in back:
        low, high = joined_bounds(thing)
        pieces += [(solid.moved((edge - low[0], -low[1], 0.0)), paint) for solid, paint in thing]
        edge += high[0] - low[0] + rng.uniform(0.04, 0.15)
    for thing in things[len(back) :]:
        (low, high), (floor, top) = joined_bounds(thing), joined_bounds(pieces)
        x = 0.5 * (floor[0] + top[0] - low[0] - high[0])
        z = top[2] - low[2] + rng.uniform(0.04, 0.15)
        pieces += [(solid.moved((x, -low[1], z)), paint) for solid, paint in thing]
    return fitted(pieces)


def renamed(things: Sequence[Sequence[Piece]]) -> list[Piece]:
    """The pieces of two things in one list, with the paints of PAIR_PAINTS."""
    return [
        (solid, f"{paint} {index}" if paint in PAINTS else paint)
        for index, pieces in enumerate(things)
        for solid, paint in pieces
    ]


def draw_pair_look(scene: PairScene, rng: np.random.Generator) -> tuple[tuple[Coat, Coat], str]:
    """Colours of both things, and a phrase such as "a red cat beside a chair"."""
    coats = draw_coat(scene.first, rng, _UNNAMED), draw_coat(scene.second, rng, _UNNAMED)
    first, second = (
        phrase(draw_word(source.word, rng), coat.named)
        for source, coat in zip((scene.first, scene.second), coats, strict=True)
    )
    if scene.relation == "on":
        return coats, f"{first} on {second}" if rng.random() < 0.8 else f"{first} on top of {second}"
    if scene.relation == "before":
        return coats, f"{first} in front of {second}"
    if rng.random() < 0.5:
        first, second = second, first
    return coats, f"{first} {('beside', 'next to', 'and')[rng.integers(3)]} {second}"


def draw_count_look(scene: CountScene, rng: np.random.Generator) -> tuple[Coat, str]:
    """The colours of all the things, and a phrase such as "three red chairs"."""
    coat = draw_coat(scene.source, rng)
    return coat, count_phrase(scene.count, draw_word(scene.source.word, rng), coat.named)


def joined_bounds(pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the bounding box of pieces: the least and the greatest coordinates."""
    points = np.concatenate([solid.vertices for solid, _ in pieces])
    return points.min(axis=0), points.max(axis=0)


def heights(pieces: Sequence[Piece], below: bool = False) -> Float[np.ndarray, "C C"]:
    """The greatest height, or the least one, of a surface at each cell [z, x] of a grid over [-1, 1]; NaN if there
    is none."""
    vertices = np.concatenate([solid.vertices for solid, _ in pieces])
    starts = np.cumsum([0, *(len(solid.vertices) for solid, _ in pieces)])
    faces = np.concatenate([solid.faces + start for (solid, _), start in zip(pieces, starts, strict=False)])
    mesh = TriMesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces))
    view = torch.tensor([-90.0 if below else 90.0])
    fov = 2.0 * float(np.degrees(np.arctan(1.0 / _FAR)))
    camera = orbit(torch.zeros(1), view, torch.tensor([_FAR]), fov, CELLS, CELLS)
    inverse = rasterize(mesh, replace(camera, far=2.0 * _FAR)).inverse_z[0].double().numpy()
    depth = 1.0 / np.where(inverse > 0.0, inverse, np.nan)
    pose = camera.world_from_camera[0].numpy()
    field = depth - _FAR if below else _FAR - depth
    if pose[2, 1] < 0.0:  # the rows of the picture go towards -Z
        field = field[::-1]
    return field[:, ::-1] if pose[0, 0] < 0.0 else field


def _standing(upper: Sequence[Piece], lower: Sequence[Piece]) -> np.ndarray:
    """How `upper` moves to stand on `lower`."""
    floor, top = joined_bounds(lower)
    return standing_place(heights(upper, below=True), heights(lower), top - floor)


def standing_place(
    under: Float[np.ndarray, "C C"], ground: Float[np.ndarray, "C C"], extent: Float[np.ndarray, 3]
) -> Float[np.ndarray, 3]:
    """How a thing moves to stand on another, at the place where most of it is carried.

    under, ground: the least heights of the upper thing and the greatest of the lower one, as `heights` gives them.
    extent: of the lower thing, in world units.
    """
    row, column = np.nonzero(np.isfinite(under))
    bottom = under[row, column]
    middle = np.array([row.mean(), column.mean()])
    spread = max(float(np.ptp(row)), float(np.ptp(column)), 1.0)
    best, shift = -np.inf, np.zeros(3)
    for along in _PLACES:
        for across in _PLACES:
            z, x = 0.5 * along * extent[2], 0.5 * across * extent[0]
            down, right = round(0.5 * z * CELLS), round(0.5 * x * CELLS)
            r, c = row + down, column + right
            inside = (r >= 0) & (r < CELLS) & (c >= 0) & (c < CELLS)
            room = np.where(inside, bottom - ground[r.clip(0, CELLS - 1), c.clip(0, CELLS - 1)], np.nan)
            if not np.isfinite(room).any():
                continue
            drop = np.nanmin(room)
            carried = np.nan_to_num(room, nan=np.inf) < drop + _CONTACT
            lean = np.hypot(row[carried].mean() - middle[0], column[carried].mean() - middle[1]) / spread
            score = carried.mean() - 2.0 * lean - 0.3 * np.hypot(along, across)
            if score > best:
                best, shift = score, np.array([2.0 * right / CELLS, -drop, 2.0 * down / CELLS])
    return shift


def _turned(pieces: Sequence[Piece], degrees: float, size: float) -> list[Piece]:
    turn = rotation_about("y", degrees)
    return [(solid.rotated(turn).stretched((size, size, size)), paint) for solid, paint in pieces]


@once
def _possible(classes: tuple[ThingSource, ...]) -> Mapping[str, list[tuple[ThingSource, ThingSource]]]:
    """The pairs of classes for each relation that some of them can have."""
    supports = _document()["supports"]
    found: dict[str, list[tuple[ThingSource, ThingSource]]] = {}
    for first in classes:
        for second in classes:
            if first.word == second.word:
                continue
            steps = size_of(second) - size_of(first)
            if size_of(first) <= supports.get(second.word, -1):
                found.setdefault("on", []).append((first, second))
            if abs(steps) <= 2:
                found.setdefault("beside", []).append((first, second))
            if 1 <= steps <= 3 and second.front:
                found.setdefault("before", []).append((first, second))
    return found or {"beside": [(a, b) for a in classes for b in classes if a.word != b.word]}


@once
def _document() -> dict[str, Any]:
    return yaml.safe_load(SCENES.read_text(encoding="utf-8"))
