"""Vegetables."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import rotation_about
from threedgen.datasets.things.families.fruit import around, leaf, turned
from threedgen.datasets.things.thing_class import ThingClass


def _carrot(width: float, length: float, leaves: float) -> list[Piece]:
    """A carrot with its tip down and its leaves up."""
    corners = [
        (0.0, -length),
        (0.04, -length),
        (0.16, -0.5 * length),
        (0.30, -0.04),
        (0.22, 0.10),
        (0.0, 0.10),
    ]
    pieces: list[Piece] = [(turned(corners).stretched((width, 1.0, width)), "main")]
    for count, size, lean in ((6, 0.8 * leaves, 38.0), (4, leaves, 12.0)):
        blade = leaf(size, 0.20, 0.05, 0.0, 0.06).rotated(rotation_about("x", lean - 90.0))
        pieces += [(solid, "green") for solid in around(blade.moved((0.0, 0.04, 0.05)), count, 20.0 * count)]
    for y, reach in ((-0.18, 0.265), (-0.42, 0.20), (-0.66, 0.145)):
        crease = solids.torus(reach * width, 0.022, 24, 6).moved((0.0, y, 0.0))
        pieces.append((crease, "brown"))
    return pieces


def _pumpkin(width: float, height: float, stem: float) -> list[Piece]:
    rib = solids.ellipsoid((0.26, 0.46 * height, 0.36), 16).moved((0.0, 0.0, 0.34 * width))
    pieces: list[Piece] = [(solid, "main") for solid in around(rib, 10)]
    line = [(0.0, 0.3 * height, 0.0), (0.0, 0.45 * height + 0.5 * stem, 0.0)]
    line.append((0.05, 0.45 * height + stem, 0.06))
    pieces.append((solids.tube(line, [0.13, 0.08, 0.09], 10), "green"))
    return pieces


def _corn(width: float, length: float, husk: float) -> list[Piece]:
    """An upright ear, with bumpy columns of grains and a husk that opens around its lower half."""
    count, rows = 10, 12
    height = np.linspace(0.0, 1.0, 2 * rows + 1)
    ring = width * np.interp(height, [0.0, 0.3, 0.75, 1.0], [0.20, 0.22, 0.18, 0.05])
    bumps = np.where(np.arange(2 * rows + 1) % 2 == 1, 0.36, 0.24)
    column = np.column_stack([0.0 * height, length * height, ring])
    pieces: list[Piece] = [(solid, "main") for solid in around(solids.tube(column, bumps * ring, 6), count)]
    pieces.append((turned([(0.0, 0.0), (0.2, 0.0), (0.2, 0.7 * length), (0.0, 1.01 * length)]), "main"))
    for reach, lean, phase in ((husk, 22.0, 0.0), (0.85 * husk, 38.0, 60.0)):
        blade = leaf(reach, 0.34, 0.06, -0.1, 0.05).rotated(rotation_about("x", lean - 90.0))
        pieces += [(solid, "green") for solid in around(blade.moved((0.0, -0.12, 0.16 * width)), 3, phase)]
    pieces.append((solids.ellipsoid((0.24, 0.2, 0.24), 16).moved((0.0, -0.04, 0.0)), "green"))
    pieces.append((solids.tube([(0.0, -0.1, 0.0), (0.0, -0.34, 0.0)], 0.08, 8), "green"))
    return pieces


def _tomato(width: float, height: float, star: float) -> list[Piece]:
    corners = [
        (0.0, -0.36),
        (0.2, -0.40),
        (0.48, -0.30),
        (0.60, 0.02),
        (0.50, 0.36),
        (0.22, 0.42),
        (0.0, 0.28),
    ]
    pieces: list[Piece] = [(turned(corners).stretched((width, height, width)), "main")]
    blade = leaf(star, 0.17, 0.09, 0.06, 0.04).moved((0.0, 0.33 * height, 0.02))
    pieces += [(solid, "green") for solid in around(blade, 5)]
    stem = [(0.0, 0.28 * height, 0.0), (0.0, 0.46 * height, 0.0), (0.0, 0.56 * height, 0.05)]
    pieces.append((solids.tube(stem, 0.065, 8), "green"))
    return pieces


CLASSES: dict[str, ThingClass] = {
    "carrot": ThingClass(
        _carrot,
        {"width": (0.95, 1.2), "length": (0.95, 1.15), "leaves": (0.55, 0.70)},
        natural=("orange",),
        recolored=False,
        front=False,
    ),
    "pumpkin": ThingClass(
        _pumpkin,
        {"width": (0.95, 1.15), "height": (0.85, 1.05), "stem": (0.22, 0.30)},
        natural=("orange", "white"),
        recolored=False,
        front=False,
    ),
    "corn": ThingClass(
        _corn,
        {"width": (1.0, 1.2), "length": (1.05, 1.25), "husk": (0.75, 0.90)},
        natural=("yellow",),
        recolored=False,
        front=False,
    ),
    "tomato": ThingClass(
        _tomato,
        {"width": (0.92, 1.08), "height": (0.88, 1.05), "star": (0.38, 0.48)},
        natural=("red", "orange"),
        recolored=False,
        front=False,
    ),
}
