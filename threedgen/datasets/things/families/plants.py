"""Trees, flowers and other plants."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid, rotation_about
from threedgen.datasets.things.families.fruit import around, leaf, studs, turned
from threedgen.datasets.things.thing_class import ThingClass


def _spread(count: int, low: float) -> list[np.ndarray]:
    """Evenly spread directions with y from `low` to nearly 1, along a spiral."""
    y = np.linspace(low, 0.96, count)
    angle = np.radians(137.5) * np.arange(count)
    ring = np.sqrt(1.0 - y**2)
    return list(np.column_stack([ring * np.sin(angle), y, ring * np.cos(angle)]))


def _foliage(radii: tuple[float, float, float], puff: float, count: int, low: float) -> list[Solid]:
    """A clump of balls of radius `puff` over an ellipsoid."""
    ball = solids.sphere(puff, 14)
    return [ball.moved(tuple(np.multiply(d, radii))) for d in _spread(count, low)]


def _tree(width: float, height: float, trunk: float, puff: float) -> list[Piece]:
    radii = (width, height, width)
    crown = [solids.ellipsoid(radii, 16), *_foliage(radii, puff, 15, -0.75)]
    pieces: list[Piece] = [(solid, "main") for solid in crown]
    bottom = -height - trunk
    bole = solids.tube([(0.0, bottom, 0.0), (0.0, bottom + 0.12, 0.0), (0.0, 0.0, 0.0)], [0.19, 0.14, 0.11])
    return [*pieces, (bole, "brown")]


def _pine_tree(width: float, height: float, trunk: float) -> list[Piece]:
    pieces: list[Piece] = [
        (solids.cylinder(0.13, trunk + 0.2, 16).moved((0.0, 0.1 - 0.5 * trunk, 0.0)), "brown")
    ]
    for index, size in enumerate((1.0, 0.82, 0.62)):
        tier = solids.cone(size * width, 0.46 * height, 20)
        pieces.append((tier.moved((0.0, height * (0.23 + 0.27 * index), 0.0)), "main"))
    return pieces


def _palm_tree(height: float, bend: float, frond: float, droop: float) -> list[Piece]:
    t = np.linspace(0.0, 1.0, 8)
    path = np.column_stack([0.0 * t, height * t, bend * (t**2 - 1.0)])
    pieces: list[Piece] = [(solids.tube(path, np.linspace(0.13, 0.08, 8)), "brown")]
    for index in range(1, 7):
        ring = solids.torus(0.132 - 0.05 * t[index], 0.025, 12, 6).moved(tuple(path[index]))
        pieces.append((ring, "beige"))
    top = (0.0, height, 0.0)
    for count, size, fall, phase in ((7, frond, droop, 0.0), (5, 0.75 * frond, 0.3 * droop, 30.0)):
        blade = leaf(size, 0.26, 0.26, fall, 0.05).moved(top)
        pieces += [(solid, "main") for solid in around(blade, count, phase)]
    nut = solids.sphere(0.10, 12).moved((0.0, height - 0.10, 0.13))
    return pieces + [(solid, "brown") for solid in around(nut, 3, 60.0)]


def _cactus(height: float, girth: float, arm: float, flower: float) -> list[Piece]:
    trunk = solids.tube([(0.0, 0.0, 0.0), (0.0, height, 0.0)], girth)
    rib = solids.tube([(0.0, 0.0, 0.0), (0.0, height, 0.0)], 0.2 * girth, 6)
    ribs = around(rib.moved((0.0, 0.0, 0.93 * girth)), 10)
    pieces: list[Piece] = [(solid, "main") for solid in (trunk, *ribs)]
    for side, base in ((-1.0, 0.30), (1.0, 0.48)):
        out, low = side * (girth + 0.26), base * height
        line = [(0.0, low, 0.0), (0.75 * out, low, 0.0), (out, low + 0.10, 0.0), (out, low + arm, 0.0)]
        pieces.append((solids.tube(line, 0.65 * girth), "main"))
        bloom = solids.ellipsoid((flower, 0.8 * flower, flower), 12)
        pieces.append((bloom.moved((out, low + arm + 0.65 * girth, 0.0)), "second"))
    petal = solids.ellipsoid((0.08, 0.06, 1.2 * flower), 8).rotated(rotation_about("x", -50.0))
    pieces += [(s, "second") for s in around(petal.moved((0.0, height + girth + 0.04, 0.07)), 6)]
    return pieces


def _flower(petal: float, count: float, stem: float, tilt: float) -> list[Piece]:
    """A daisy whose face looks forwards and up."""
    number = int(count)
    blade = solids.ellipsoid((2.1 * petal / number + 0.05, 0.07, 0.55 * petal), 14)
    blade = blade.rotated(rotation_about("x", -12.0)).moved((0.0, 0.0, 0.16 + 0.45 * petal))
    head: list[Piece] = [(solid, "main") for solid in around(blade, number)]
    head.append((solids.ellipsoid((0.22, 0.15, 0.22), 16).moved((0.0, 0.03, 0.0)), "second"))
    turn = rotation_about("x", tilt)
    pieces: list[Piece] = [(solid.rotated(turn), paint) for solid, paint in head]
    pieces.append(
        (solids.tube([(0.0, -0.03, -0.04), (0.0, -0.3, -0.12), (0.0, -stem, -0.06)], 0.07), "green")
    )
    for side in (-1.0, 1.0):
        frond = leaf(0.55, 0.26, 0.1, -0.28, 0.05).rotated(rotation_about("y", side * 80.0))
        pieces.append((frond.moved((0.0, 0.25 - stem, -0.06)), "green"))
    return pieces


def _potted_plant(bloom: float, stem: float, pot: float, leaves: float) -> list[Piece]:
    """A tulip with broad leaves in a clay pot."""
    pieces: list[Piece] = [
        (solids.frustum(0.7 * pot, 0.95 * pot, 0.5, 24).moved((0.0, -0.25, 0.0)), "second")
    ]
    pieces.append((solids.cylinder(1.08 * pot, 0.14, 24).moved((0.0, -0.05, 0.0)), "second"))
    pieces.append((solids.cylinder(0.95 * pot, 0.04, 20).moved((0.0, 0.01, 0.0)), "brown"))
    pieces.append((solids.tube([(0.0, 0.0, 0.0), (0.0, stem, 0.0)], 0.06), "green"))
    blade = leaf(leaves, 0.26, 0.12, 0.02, 0.05).rotated(rotation_about("x", -62.0))
    pieces += [(solid, "green") for solid in around(blade.moved((0.0, 0.0, 0.06)), 5, 36.0)]
    cup = turned([(0.0, 0.0), (0.75, 0.05), (1.0, 0.75), (0.75, 1.3), (0.0, 1.3)], segments=18)
    pieces.append((cup.stretched((bloom, bloom, bloom)).moved((0.0, stem - 0.03, 0.0)), "main"))
    line = [(0.0, 0.3, 0.55), (0.0, 0.8, 0.72), (0.0, 1.3, 0.62), (0.0, 1.75, 0.60)]
    petal = solids.tube(np.multiply(line, bloom), np.multiply([0.4, 0.5, 0.40, 0.04], bloom), 10)
    return pieces + [(s, "main") for s in around(petal.moved((0.0, stem - 0.03, 0.0)), 6)]


def _mushroom(width: float, cap: float, stem: float, thickness: float) -> list[Piece]:
    arch = [(0.88, -0.16), (1.06, -0.16), (1.04, 0.2), (0.88, 0.6), (0.5, 0.92), (0.2, 1.0), (0.0, 1.0)]
    spots = studs(arch, [(0.08, 7), (0.52, 6), (0.86, 3)], (0.17, 0.19, 0.09), 12)
    pieces: list[Piece] = [(turned(arch).stretched((width, cap, width)), "main")]
    pieces += [(spot.stretched((width, cap, width)), "white") for spot in spots]
    gills = solids.lathe(np.array([[0.0, -0.03], [0.9 * width, -0.085], [0.9 * width, 0.0]]), 24)
    pieces.append((gills, "beige"))
    foot = turned([(0.0, -stem), (1.3, -stem), (1.45, 0.2 - stem), (0.9, -0.3), (0.95, 0.0)], 2, 20)
    pieces.append((foot.stretched((thickness, 1.0, thickness)), "beige"))
    return pieces


def _bush(width: float, height: float, puff: float, berry: float) -> list[Piece]:
    radii = (width, height, width)
    clump = [solids.ellipsoid(radii, 16), *_foliage(radii, puff, 18, 0.0)]
    pieces: list[Piece] = [(solid, "main") for solid in clump]
    for direction in _spread(17, 0.08)[1:]:
        point = np.multiply(direction, radii) + (puff - 0.02) * direction
        turn = solids.rotation_about("y", 25.0)
        pieces.append((solids.sphere(berry, 8).moved(tuple(turn @ point)), "second"))
    return pieces


CLASSES: dict[str, ThingClass] = {
    "tree": ThingClass(
        _tree,
        {"width": (0.38, 0.48), "height": (0.36, 0.48), "trunk": (0.60, 0.78), "puff": (0.25, 0.30)},
        natural=("green", "orange", "yellow", "red", "pink"),
        recolored=False,
        front=False,
    ),
    "pine tree": ThingClass(
        _pine_tree,
        {"width": (0.50, 0.64), "height": (1.35, 1.65), "trunk": (0.26, 0.38)},
        natural=("green",),
        recolored=False,
        front=False,
    ),
    "palm tree": ThingClass(
        _palm_tree,
        {"height": (1.15, 1.4), "bend": (0.10, 0.30), "frond": (0.70, 0.85), "droop": (0.35, 0.50)},
        natural=("green",),
        recolored=False,
    ),
    "cactus": ThingClass(
        _cactus,
        {"height": (1.05, 1.3), "girth": (0.20, 0.25), "arm": (0.36, 0.48), "flower": (0.09, 0.12)},
        natural=("green",),
        second=("pink", "red", "yellow", "orange"),
        recolored=False,
        front=False,
    ),
    "flower": ThingClass(
        _flower,
        {"petal": (0.40, 0.50), "count": (6.0, 9.0), "stem": (0.95, 1.2), "tilt": (50.0, 70.0)},
        natural=("red", "pink", "white", "purple", "orange", "blue"),
        second=("yellow", "brown"),
    ),
    "potted plant": ThingClass(
        _potted_plant,
        {"bloom": (0.24, 0.29), "stem": (0.65, 0.80), "pot": (0.34, 0.42), "leaves": (0.55, 0.68)},
        natural=("red", "yellow", "pink", "purple"),
        second=("brown", "orange", "white", "blue"),
        front=False,
    ),
    "mushroom": ThingClass(
        _mushroom,
        {"width": (0.58, 0.70), "cap": (0.42, 0.56), "stem": (0.60, 0.80), "thickness": (0.15, 0.20)},
        natural=("red", "brown", "orange"),
        front=False,
    ),
    "bush": ThingClass(
        _bush,
        {"width": (0.52, 0.64), "height": (0.42, 0.54), "puff": (0.23, 0.28), "berry": (0.05, 0.065)},
        natural=("green",),
        second=("red", "pink", "white", "yellow", "purple"),
        recolored=False,
        front=False,
    ),
}
