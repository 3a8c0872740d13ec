"""The classes of objects of the shape world: five simple solids and four parametric classes.

A class is a function of its parameters that returns pieces; a piece is a solid with a paint. The paint "main" is
the colour that the caption names, any other paint is a fixed colour. Objects face +Z, are centred on their bounding
box and lie inside the unit sphere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.solids import Solid

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.13, 0.12),
    "orange": (0.96, 0.52, 0.10),
    "yellow": (0.95, 0.86, 0.16),
    "green": (0.16, 0.64, 0.22),
    "cyan": (0.18, 0.78, 0.82),
    "blue": (0.15, 0.27, 0.84),
    "purple": (0.55, 0.20, 0.72),
    "gray": (0.50, 0.50, 0.50),
}

FIXED_PAINTS: dict[str, tuple[float, float, float]] = {
    "tyre": (0.10, 0.10, 0.11),
    "glass": (0.70, 0.85, 0.95),
    "headlight": (1.00, 0.95, 0.70),
    "taillight": (0.55, 0.02, 0.04),
    "hub": (0.90, 0.90, 0.92),
}

Piece = tuple[Solid, str]  # and the name of its paint


@dataclass(frozen=True)
class ParametricClass:
    """A class of objects.

    build: makes the pieces from the parameters. ranges: the least and the greatest value of each parameter, which
    is drawn uniformly; the canonical object has the middle of each.
    """

    build: Callable[..., list[Piece]]
    ranges: Mapping[str, tuple[float, float]]

    def canonical(self) -> dict[str, float]:
        """The parameters in the middle of their ranges."""
        return {name: 0.5 * (low + high) for name, (low, high) in self.ranges.items()}

    def sample(self, rng: np.random.Generator) -> dict[str, float]:
        """Parameters drawn uniformly from their ranges."""
        return {name: float(rng.uniform(low, high)) for name, (low, high) in self.ranges.items()}


@dataclass(frozen=True)
class ShapeClass(ParametricClass):
    """A class of the shape world.

    weight: how often the class is drawn, relative to the others; classes that look different from different sides
    are drawn more often. simple: whether it is a single solid.
    """

    weight: float
    simple: bool = False


def _sphere(radius: float) -> list[Piece]:
    return [(solids.sphere(radius), "main")]


def _cube(side: float) -> list[Piece]:
    return [(solids.box((side, side, side)), "main")]


def _cylinder(radius: float, height: float) -> list[Piece]:
    return [(solids.cylinder(radius, height), "main")]


def _cone(radius: float, height: float) -> list[Piece]:
    return [(solids.cone(radius, height), "main")]


def _torus(ring: float, tube: float) -> list[Piece]:
    return [(solids.torus(ring, tube), "main")]


def _legs(width: float, depth: float, top: float, height: float, thickness: float) -> list[Piece]:
    """Four square legs under the corners of a board of width x depth whose underside is at y = `top`."""
    x, z = 0.5 * (width - thickness), 0.5 * (depth - thickness)
    leg = solids.box((thickness, height, thickness))
    return [(leg.moved((sx * x, top - 0.5 * height, sz * z)), "main") for sx in (-1, 1) for sz in (-1, 1)]


def _chair(width: float, depth: float, seat: float, back: float, thickness: float) -> list[Piece]:
    """A seat on four legs with a back of its full width at -Z. seat, back: heights below and above the seat."""
    board = 0.10
    bottom = -0.5 * (seat + back)
    top = bottom + seat
    pieces = _legs(width, depth, top - board, seat - board, thickness)
    pieces.append((solids.box((width, board, depth)).moved((0.0, top - 0.5 * board, 0.0)), "main"))
    panel = solids.box((width, back, 0.11))
    pieces.append((panel.moved((0.0, top + 0.5 * back, -0.5 * (depth - 0.11))), "main"))
    return pieces


def _table(width: float, depth: float, height: float, thickness: float) -> list[Piece]:
    """A rectangular board, wider (x) than deep (z), on four legs."""
    board = 0.12
    pieces = _legs(width - 0.06, depth - 0.06, 0.5 * height - board, height - board, thickness)
    pieces.append((solids.box((width, board, depth)).moved((0.0, 0.5 * (height - board), 0.0)), "main"))
    return pieces


def _mug(radius: float, height: float, handle: float) -> list[Piece]:
    """An open cup with a handle at +X. handle: the radius of the ring of the handle."""
    # The plane (x, z) of the arc is turned into (x, y), so that it leaves the wall at the top and returns below.
    arc = solids.torus(handle, 0.075, segments=20, sides=12, turn=180.0)
    arc = arc.rotated(solids.rotation_about("x", 90.0)).rotated(solids.rotation_about("z", -90.0))
    shift = -0.5 * handle
    body = solids.cup(radius, height, 0.09)
    return [(body.moved((shift, 0.0, 0.0)), "main"), (arc.moved((shift + radius - 0.03, 0.0, 0.0)), "main")]


def _car(length: float, width: float, body: float, cabin: float) -> list[Piece]:
    """A saloon facing +Z: body, cabin set back, windscreen and windows, four wheels, lights."""
    wheel = 0.17
    bottom = -0.5 * (wheel + body + cabin)
    floor = bottom + wheel
    roof = floor + body
    half = 0.5 * length
    pieces: list[Piece] = [(solids.box((width, body, length)).moved((0.0, floor + 0.5 * body, 0.0)), "main")]
    # The cabin in profile, (y, z), with a steep rear and a slanted windscreen towards the front.
    rear, front = -0.78 * half, 0.30 * half
    top_rear, top_front = rear + 0.16, front - 0.26
    profile = np.array([[roof, rear], [roof + cabin, top_rear], [roof + cabin, top_front], [roof, front]])
    pieces.append((solids.prism(profile, 0.88 * width), "main"))
    glass = np.array(
        [
            [roof + 0.15 * cabin, rear + 0.10],
            [roof + 0.82 * cabin, top_rear + 0.05],
            [roof + 0.82 * cabin, top_front - 0.02],
            [roof + 0.15 * cabin, front - 0.12],
        ]
    )
    pieces.append((solids.prism(glass, 0.88 * width + 0.015), "glass"))
    slope = np.array([roof + cabin, top_front]) - np.array([roof, front])
    normal = np.array([-slope[1], slope[0]]) / np.linalg.norm(slope)
    low, high = np.array([roof, front]) + 0.10 * slope, np.array([roof, front]) + 0.86 * slope
    screen = np.array([low, high, high + 0.012 * normal, low + 0.012 * normal])
    pieces.append((solids.prism(screen, 0.74 * width), "glass"))
    tyre = solids.cylinder(wheel, 0.14, segments=20).rotated(solids.rotation_about("z", 90.0))
    for x in (-1, 1):
        for z in (-0.58, 0.58):
            pieces.append((tyre.moved((x * (0.5 * width - 0.05), bottom + wheel, z * half)), "tyre"))
        lamp = solids.box((0.14, 0.10, 0.02))
        height = floor + 0.62 * body
        pieces.append((lamp.moved((x * 0.33 * width, height, half + 0.005)), "headlight"))
        pieces.append((lamp.moved((x * 0.33 * width, height, -half - 0.005)), "taillight"))
    return pieces


CLASSES: dict[str, ShapeClass] = {
    "sphere": ShapeClass(_sphere, {"radius": (0.60, 0.64)}, 0.5, simple=True),
    "cube": ShapeClass(_cube, {"side": (0.96, 1.02)}, 1.3, simple=True),
    "cylinder": ShapeClass(_cylinder, {"radius": (0.43, 0.47), "height": (1.08, 1.16)}, 0.7, simple=True),
    "cone": ShapeClass(_cone, {"radius": (0.56, 0.60), "height": (1.16, 1.24)}, 0.7, simple=True),
    "torus": ShapeClass(_torus, {"ring": (0.54, 0.58), "tube": (0.20, 0.23)}, 0.8, simple=True),
    "chair": ShapeClass(
        _chair,
        {
            "width": (0.70, 0.82),
            "depth": (0.70, 0.82),
            "seat": (0.60, 0.70),
            "back": (0.66, 0.80),
            "thickness": (0.11, 0.15),
        },
        2.2,
    ),
    "table": ShapeClass(
        _table,
        {"width": (1.22, 1.40), "depth": (0.72, 0.86), "height": (0.72, 0.86), "thickness": (0.12, 0.16)},
        1.8,
    ),
    "mug": ShapeClass(_mug, {"radius": (0.42, 0.48), "height": (0.92, 1.06), "handle": (0.24, 0.29)}, 1.6),
    "car": ShapeClass(
        _car,
        {"length": (1.44, 1.60), "width": (0.66, 0.76), "body": (0.28, 0.34), "cabin": (0.26, 0.32)},
        2.4,
    ),
}
