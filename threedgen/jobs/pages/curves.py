"""The numbers of the steps of a run as lines of an SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 320, 96  # of a curve, in pixels
_POINTS = 160  # of a line; more steps are drawn as the least and the greatest value of a few each
_LARGEST = 1e300  # numbers that a file was given by somebody else may be larger than a line can show
_LOG = 100.0  # a curve whose values differ by more than this factor gets a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """One metric. lines: the points of polylines, as SVG writes them; a missing value interrupts the line."""

    name: str
    lines: Sequence[str]
    low: float
    high: float
    last: float
    first_step: int
    last_step: int
    logarithmic: bool


def curves(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """A curve for each metric: loss, gradients, counts and noise levels first. Metrics that never change are left
    out, because a line says nothing about them."""
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    drawn = (_curve(name, [(row["step"], row[name]) for row in rows if name in row]) for name in names)
    return sorted((curve for curve in drawn if curve is not None), key=_rank)


def _rank(curve: Curve) -> int:
    last = curve.name.rsplit("/", 1)[-1]
    if curve.name == "loss":
        return 0
    ranks = {"gradient": 1, "gaussians": 2, "vertices": 2, "faces": 2, "rows": 2, "t": 3}
    return ranks.get(last, 4)


def _curve(name: str, points: Sequence[tuple[int, float | None]]) -> Curve | None:
    points = [
        (step, value if value is not None and abs(value) < _LARGEST else None) for step, value in points
    ]
    values = [value for _, value in points if value is not None]
    if len(values) < 2 or min(values) == max(values):
        return None
    low, high = min(values), max(values)
    logarithmic = low > 0.0 and high / low > _LOG
    first, final = points[0][0], points[-1][0]

    def place(step: int, value: float) -> str:
        share = (value - low) / (high - low)
        if logarithmic:
            share = math.log(value / low) / math.log(high / low)
        across = (step - first) / max(1, final - first)
        return f"{WIDTH * across:.1f},{HEIGHT * (1.0 - share):.1f}"

    lines = [" ".join(place(*point) for point in piece) for piece in _pieces(points)]
    return Curve(name, lines, low, high, values[-1], first, final, logarithmic)


def _pieces(points: Sequence[tuple[int, float | None]]) -> Iterator[list[tuple[int, float]]]:
    """The points between missing values, thinned."""
    for there, group in itertools.groupby(points, lambda point: point[1] is not None):
        if there:
            yield _thinned([(step, value) for step, value in group if value is not None])


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    if len(points) <= _POINTS:
        return points
    size = -(-2 * len(points) // _POINTS)
    kept: list[tuple[int, float]] = []
    for start in range(0, len(points), size):
        some = points[start : start + size]
        kept += sorted({min(some, key=lambda point: point[1]), max(some, key=lambda point: point[1])})
    return kept
