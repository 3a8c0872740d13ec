"""What a class of procedural things declares: how it is built and painted, and whether it has a front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from threedgen.datasets import shapes
from threedgen.datasets.shapes import ParametricClass, Piece
from threedgen.datasets.solids import Solid

# The colours that captions of things name, display-referred.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.12, 0.11),
    "orange": (0.95, 0.50, 0.10),
    "yellow": (0.95, 0.84, 0.18),
    "green": (0.18, 0.58, 0.22),
    "cyan": (0.20, 0.78, 0.82),
    "blue": (0.16, 0.28, 0.78),
    "purple": (0.52, 0.22, 0.68),
    "pink": (0.95, 0.60, 0.74),
    "brown": (0.45, 0.27, 0.13),
    "beige": (0.85, 0.76, 0.60),
    "white": (0.94, 0.94, 0.94),
    "gray": (0.52, 0.52, 0.52),
    "black": (0.10, 0.10, 0.11),
}

PAINTS = ("main", "second")  # the paints that captions can name
FIXED_PAINTS: dict[str, tuple[float, float, float]] = {**shapes.FIXED_PAINTS, **COLORS}
RADIUS = 0.9  # world units, of the ball about the middle of the bounding box that a thing touches


@dataclass(frozen=True)
class ThingClass(ParametricClass):
    """A class of procedural things, which face +Z and stand upright along +Y.

    build: makes the pieces from the parameters, in any units and at any place. Each piece has a paint: "main",
    "second" (both are colours, which captions can name) or one of FIXED_PAINTS, which has every colour of COLORS.
    natural: the colours of the main paint in the world, the most usual first. second: the same for the second
    paint; empty if no piece has it. recolored: whether the main paint may have any other colour too, as a car may
    and a banana may not. front: whether it looks different from the front and from the back.
    """

    natural: tuple[str, ...]
    second: tuple[str, ...] = ()
    recolored: bool = True
    front: bool = True

    def pieces(self, parameters: Mapping[str, float]) -> list[Piece]:
        """The pieces, fitted."""
        return fitted(self.build(**parameters))


def fitted(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces, moved so that the middle of their bounding box is the origin, and scaled to RADIUS."""
    points = np.concatenate([solid.vertices for solid, _ in pieces])
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    scale = RADIUS / np.linalg.norm(points - middle, axis=1).max()
    return [
        (Solid((solid.vertices - middle) * scale, solid.normals, solid.faces), paint)
        for solid, paint in pieces
    ]
