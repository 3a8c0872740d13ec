"""Scenes of two things: each is decoded alone, and the two fields are placed and rendered together.

A text such as "a cat on a red chair" names two things and how they stand. A field that is told the whole text would
have to learn every pair; here "a cat" and "a red chair" are decoded, scaled to sizes that can be seen together, and
the first is placed on, beside or before the second by where both are opaque. GALA3D and others (Zhou et al. 2024,
arXiv:2402.07207) compose texts in the same way, with the layout from a language model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.transfer import among, constant
from threedgen.core.types import Cameras
from threedgen.datasets.things.scenes import CELLS, relative_sizes, standing_place
from threedgen.datasets.things.thing_class import RADIUS
from threedgen.guidance.priors.radiance_field import chords, composited, ray_points
from threedgen.guidance.priors.text_field import DecodedText, TextField
from threedgen.kernels.field_rendering import can_render, render_fields

_RELATIONS = {
    "on": r"(?:(?:sitting|standing|lying|perched)\s+)?(?:on\s+top\s+of|on|upon|atop)",
    "before": r"(?:(?:sitting|standing|lying)\s+)?in\s+front\s+of",
    "beside": r"(?:(?:sitting|standing|lying)\s+)?(?:beside|next\s+to|near)|and",
}
_SENTENCE = r"^(?P<first>.+?),?\s+(?:{relation})\s+(?P<second>(?:an?|the|one)\s.+)$"
_PATTERNS = {name: re.compile(_SENTENCE.format(relation=form), re.I) for name, form in _RELATIONS.items()}
_GRID = 48  # cells along each side of the ball in which things are looked for
_OPAQUE = 0.3  # opacity of a cell from which it belongs to a thing
_GAP = 0.07  # world units between two things, before both are scaled to fit


@dataclass(frozen=True)
class Relation:
    """The texts of two things, and how they stand: the first is "on", "beside" or "before" the second."""

    first: str
    kind: str
    second: str


@dataclass(frozen=True)
class Placed:
    """A field that is scaled by `size` and then moved by `shift` (world units)."""

    text: DecodedText
    size: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


def relation_of(text: str) -> Relation | None:
    """The two things of a text, or None for a text of one thing. The second one must have an article, so that "a
    red and white car" is one thing."""
    found = [
        Relation(match["first"], kind, match["second"])
        for kind, pattern in _PATTERNS.items()
        if (match := pattern.match(text.strip()))
    ]
    return min(found, key=lambda relation: len(relation.first)) if found else None


def place(
    field: TextField, first: DecodedText, second: DecodedText, relation: str, sizes: tuple[int, int]
) -> list[Placed]:
    """Two things as a scene that is centred and scaled to RADIUS.

    sizes: see `scenes.size_of`. A thing that is nowhere opaque stays where it is.
    """
    scales = relative_sizes(*sizes, relation)
    solid = [(field.opacity_grid(text, _GRID) > _OPAQUE).cpu().numpy() for text in (first, second)]
    if not all(grid.any() for grid in solid):
        return [Placed(first), Placed(second)]
    points = [_points(grid) * size for grid, size in zip(solid, scales, strict=True)]
    (low, high), (floor, top) = ((cloud.min(0), cloud.max(0)) for cloud in points)
    if relation == "on":
        under, ground = _heights(solid[0], scales[0], True), _heights(solid[1], scales[1], False)
        shift = standing_place(under, ground, top - floor)
    elif relation == "beside":
        shift = np.array([floor[0] - high[0] - _GAP, floor[1] - low[1], 0.0])
    else:
        shift = np.array([0.0, floor[1] - low[1], top[2] - low[2] + _GAP])
    return _fitted(
        [Placed(first, scales[0], _triple(shift)), Placed(second, scales[1])], [points[0] + shift, points[1]]
    )


def render_placed(field: TextField, parts: Sequence[Placed], cameras: Cameras) -> Float[Tensor, "B N 4"]:
    """Premultiplied RGB and alpha, in [0, 1], of all pixels of B views of things that stand together.

    Where things overlap their densities add, and their colours mix in these shares. A thing that is made smaller is
    as opaque as before.
    """
    samples = field.architecture.samples * (1 if len(parts) == 1 else 2)
    if can_render(field.outer.weight):
        placed = [replace(field.part(part.text), size=part.size, shift=part.shift) for part in parts]
        return render_fields(placed, *chords(cameras, None), samples)
    points, lengths = ray_points(cameras, None, samples)
    flat = points.flatten(0, 2)
    colors, total = torch.zeros_like(flat), flat.new_zeros(len(flat))
    for part in parts:
        own = (flat - constant(part.shift, flat)) / part.size
        inside = own.square().sum(1) < 1.0
        color, density = among(lambda some, part=part: field.shade(part.text, some), own, inside)
        density = density / part.size
        colors += density[:, None] * color
        total += density
    colors = colors / total.clamp_min(1e-12)[:, None]
    return composited(colors.view(points.shape), total.view(points.shape[:-1]), lengths)


def _points(solid: np.ndarray) -> Float[np.ndarray, "M 3"]:
    """The middles of the cells that belong to a thing."""
    return (np.argwhere(solid) + 0.5) / _GRID * 2.0 - 1.0


def _heights(solid: np.ndarray, size: float, below: bool) -> Float[np.ndarray, "C C"]:
    """See `scenes.heights`, of a scaled thing."""
    middles = (np.arange(CELLS) + 0.5) / CELLS * 2.0 - 1.0
    cell = np.floor((middles / size + 1.0) * 0.5 * _GRID).astype(int)
    inside = (cell >= 0) & (cell < _GRID)
    column = solid[cell.clip(0, _GRID - 1)][:, :, cell.clip(0, _GRID - 1)]  # [x, y, z]
    column = column & inside[:, None, None] & inside[None, None, :]
    index = column.argmax(1) if below else _GRID - column[:, ::-1].argmax(1)
    height = np.where(column.any(1), index / _GRID * 2.0 - 1.0, np.nan) * size
    return height.T


def _fitted(parts: Sequence[Placed], points: Sequence[np.ndarray]) -> list[Placed]:
    """The parts, together centred and scaled to RADIUS."""
    cloud = np.concatenate(points)
    middle = 0.5 * (cloud.min(0) + cloud.max(0))
    scale = RADIUS / float(np.linalg.norm(cloud - middle, axis=1).max())
    return [
        replace(part, size=part.size * scale, shift=_triple((np.array(part.shift) - middle) * scale))
        for part in parts
    ]


def _triple(vector: np.ndarray) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return x, y, z
