"""Musical instruments."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid
from threedgen.datasets.things.thing_class import ThingClass

Point = tuple[float, float, float]


def _box(size: Point, at: Point, paint: str = "main") -> Piece:
    return solids.box(size).moved(at), paint


def _along(solid: Solid) -> Solid:
    """An upright solid, laid along z with its top towards +Z."""
    return solid.rotated(solids.rotation_about("x", 90.0))


def _plate(outline: list[tuple[float, float]], thickness: float) -> Solid:
    """A level plate about y = 0 with a convex outline of points (x, z)."""
    return solids.prism(np.array(outline), thickness).rotated(solids.rotation_about("z", -90.0))


def _front(outline: list[tuple[float, float]], depth: float) -> Solid:
    """A convex outline of points (x, y), extruded along z and centred on z = 0."""
    return solids.prism(np.array(outline)[:, ::-1], depth).rotated(solids.rotation_about("y", 90.0))


def _bouts(lower: float, upper: float, rise: float, waist: float, depth: float, paint: str) -> list[Piece]:
    """The body of a guitar or violin: two discs that face +Z, `rise` apart, joined by a waist of a given width."""
    pieces: list[Piece] = [
        (_along(solids.cylinder(lower, depth, 26)), paint),
        (_along(solids.cylinder(upper, depth, 26)).moved((0.0, rise, 0.0)), paint),
        _box((waist, rise, depth), (0.0, 0.5 * rise, 0.0), paint),
    ]
    return pieces


def _neck(width: float, low: float, high: float, front: float, pegs: int) -> list[Piece]:
    """A neck with its fingerboard, a head and `pegs` pegs at each side of it, from a height to another."""
    pieces = [_box((width, high - low, 0.12), (0.0, 0.5 * (low + high), front - 0.04), "brown")]
    pieces.append(_box((0.94 * width, high - low, 0.05), (0.0, 0.5 * (low + high), front + 0.03), "black"))
    wide = 0.8 * width
    head = [
        (-0.5 * width, high - 0.03),
        (0.5 * width, high - 0.03),
        (wide, high + 0.30),
        (-wide, high + 0.30),
    ]
    pieces.append((_front(head, 0.12).moved((0.0, 0.0, front - 0.04)), "brown"))
    for index in range(pegs):
        y = high + 0.05 + 0.24 * index / max(pegs - 1, 1)
        peg = solids.tube([(-wide - 0.07, y, front - 0.04), (wide + 0.07, y, front - 0.04)], 0.045, sides=8)
        pieces.append((peg, "hub"))
    return pieces


def _guitar(lower: float, upper: float, depth: float, neck: float) -> list[Piece]:
    """lower, upper: the radii of the bouts. neck: its length beyond the body."""
    rise = 0.86 * (lower + upper) - 0.12
    front = 0.5 * depth
    pieces = _bouts(lower, upper, rise, 1.25 * upper, depth, "main")
    edge = _bouts(lower + 0.025, upper + 0.025, rise, 1.25 * upper + 0.05, 0.7 * depth, "second")
    hole = rise - 0.62 * upper
    pieces += edge
    pieces.append((_along(solids.cylinder(0.20, 0.10, 22)).moved((0.0, hole, front - 0.03)), "white"))
    pieces.append((_along(solids.cylinder(0.16, 0.10, 22)).moved((0.0, hole, front - 0.02)), "black"))
    pieces.append(_box((0.36, 0.09, 0.06), (0.0, -0.35 * lower, front + 0.01), "black"))
    top = rise + upper
    pieces += _neck(0.16, hole + 0.13, top + neck, front, 3)
    pieces.append(
        _box(
            (0.07, top + neck + 0.35 * lower, 0.03),
            (0.0, 0.5 * (top + neck - 0.35 * lower), front + 0.06),
            "white",
        )
    )
    return pieces


def _violin(lower: float, upper: float, depth: float, neck: float) -> list[Piece]:
    """lower, upper: the radii of the bouts. neck: its length beyond the body. A bow lies across the strings."""
    rise = 0.95 * (lower + upper)
    front = 0.5 * depth
    pieces = _bouts(lower, upper, rise, 0.95 * upper, depth, "main")
    for y in (0.24 * rise, 0.86 * rise):
        width = 1.62 * (lower if y < 0.5 * rise else upper)
        pieces.append(_box((width, 0.10, depth), (0.0, 0.36 * rise if y < 0.5 * rise else 0.70 * rise, 0.0)))
    middle = 0.47 * rise
    for side in (-1.0, 1.0):
        x = side * 0.62 * lower
        hole = [
            (x - 0.03 * side, middle - 0.26, front),
            (x, middle - 0.12, front),
            (x - 0.06 * side, middle + 0.02, front),
        ]
        pieces.append((solids.tube(hole, 0.03, sides=8), "black"))
    pieces.append(_box((0.14, 0.46, 0.06), (0.0, -0.45 * lower, front + 0.03), "black"))
    pieces.append((solids.ellipsoid((0.14, 0.11, 0.07), 16).moved((-0.18, 0.12 - lower, front)), "black"))
    pieces.append(_box((0.24, 0.07, 0.20), (0.0, middle - 0.04, front + 0.03), "beige"))
    top = rise + upper
    low = middle + 0.06
    pieces.append(
        _box((0.13, top + neck - low, 0.07), (0.0, 0.5 * (top + neck + low), front + 0.03), "black")
    )
    pieces.append(_box((0.12, neck + 0.1, 0.10), (0.0, top + 0.5 * neck - 0.05, front - 0.04)))
    scroll = solids.cylinder(0.10, 0.15, 16).rotated(solids.rotation_about("z", 90.0))
    pieces.append((scroll.moved((0.0, top + neck + 0.16, front - 0.04)), "main"))
    pieces.append(_box((0.13, 0.22, 0.12), (0.0, top + neck + 0.04, front - 0.03)))
    for y in (0.0, 0.10):
        peg = [(-0.17, top + neck + y, front - 0.03), (0.17, top + neck + y, front - 0.03)]
        pieces.append((solids.tube(peg, 0.035, sides=8), "black"))
    tilt = np.array([np.cos(np.radians(14.0)), np.sin(np.radians(14.0)), 0.0])
    centre = np.array([0.0, middle + 0.02, front + 0.13])
    hair = [tuple(centre - 0.78 * tilt), tuple(centre + 0.78 * tilt)]
    stick = [tuple(centre - 0.86 * tilt + (0.0, 0.0, 0.09)), tuple(centre + 0.80 * tilt + (0.0, 0.0, 0.09))]
    pieces += [(solids.tube(hair, 0.035, sides=8), "white"), (solids.tube(stick, 0.04, sides=8), "second")]
    frog = [tuple(centre - 0.76 * tilt + (0.0, 0.0, 0.05)), tuple(centre - 0.64 * tilt + (0.0, 0.0, 0.05))]
    return [*pieces, (solids.tube(frog, 0.06, sides=8), "black")]


def _drum(radius: float, height: float, rim: float, sticks: float) -> list[Piece]:
    """A snare drum with two sticks on its head. rim: the thickness of its hoops. sticks: their length."""
    half = 0.5 * height
    pieces: list[Piece] = [(solids.cylinder(radius, height, 26), "main")]
    for y in (-half, half):
        pieces.append(
            (solids.torus(radius, rim, 26, 10).stretched((1.0, 1.3, 1.0)).moved((0.0, y, 0.0)), "second")
        )
    pieces.append((solids.cylinder(radius - 0.02, 0.06, 26).moved((0.0, half + 0.02, 0.0)), "white"))
    turns = np.arange(13) * np.pi / 6.0
    for index in range(12):
        a, b = turns[index], turns[index + 1]
        low, high = (-half, half) if index % 2 else (half, -half)
        line = [
            (radius * np.sin(t), low + s * (high - low), radius * np.cos(t))
            for s, t in ((0, a), (0.5, 0.5 * (a + b)), (1, b))
        ]
        pieces.append((solids.tube(line, 0.03, sides=6), "white"))
    top = half + 0.09
    for side in (-1.0, 1.0):
        line = [
            (0.14 * side, top + 0.01, 0.55 * sticks),
            (-0.22 * side, top + 0.01 + 0.04 * (side + 1.0), -0.45 * sticks),
        ]
        pieces.append((solids.tube(line, 0.05, sides=10), "brown"))
        pieces.append((solids.sphere(0.085, 12).moved(line[1]), "brown"))
    return pieces


def _trumpet(length: float, bell: float, tube: float, drop: float) -> list[Piece]:
    """bell: its radius. tube: the radius of the tubes. drop: how far the loop hangs below the leadpipe."""
    half = 0.5 * length
    flare = [[tube, -0.55], [1.05 * tube, -0.30], [0.42 * bell, -0.12], [0.66 * bell, -0.04], [bell, 0.0]]
    inner = [[0.9 * bell, 0.0], [0.4 * bell, -0.10], [0.0, -0.14]]
    pieces: list[Piece] = [
        (_along(solids.lathe(np.array([[0.0, -0.55], *flare, *inner]), 24)).moved((0.0, 0.0, half)), "main")
    ]
    back, front = -0.42 * half, 0.42 * half
    pipe = [(0.0, 0.0, half - 0.5), (0.0, 0.0, back)]
    bend = [
        (0.0, -0.5 * drop * (1.0 - np.cos(t)), back - 0.5 * drop * np.sin(t))
        for t in np.radians(np.arange(30, 181, 30))
    ]
    pieces.append((solids.tube([*pipe, *bend, (0.0, -drop, front)], tube, sides=12), "main"))
    turn = [
        (0.0, -drop + 0.5 * drop * (1.0 - np.cos(t)), front + 0.5 * drop * np.sin(t))
        for t in np.radians(np.arange(30, 181, 30))
    ]
    pieces.append(
        (solids.tube([(0.0, -drop, front - 0.1), *turn, (0.0, 0.0, front - 0.1)], tube, sides=12), "main")
    )
    pieces.append((solids.tube([(0.0, 0.0, back), (0.0, 0.0, -half)], 0.9 * tube, sides=12), "main"))
    mouth = solids.frustum(0.13, 0.07, 0.16, 16)
    pieces.append((_along(mouth).moved((0.0, 0.0, -half - 0.04)), "second"))
    for z in (-0.17, 0.0, 0.17):
        pieces.append((solids.cylinder(0.085, drop + 0.28, 14).moved((0.0, -0.5 * drop, z)), "main"))
        pieces.append((solids.cylinder(0.04, 0.20, 10).moved((0.0, 0.20, z)), "hub"))
        pieces.append((solids.cylinder(0.075, 0.06, 12).moved((0.0, 0.29, z)), "second"))
    return pieces


def _piano(width: float, length: float, body: float, lid: float) -> list[Piece]:
    """A grand piano with its lid up. body: the height of its case. lid: how far the lid is open, degrees."""
    half, floor = 0.5 * width, 0.52
    front = 0.5 * length
    top = floor + body
    keys = front - 0.26
    middle, tail = -0.10 * length, -front
    outlines = [
        [(-half, keys), (half, keys), (half, 0.12 * length), (0.55 * half, middle), (-half, middle)],
        [
            (-half, middle + 0.01),
            (0.55 * half, middle + 0.01),
            (0.30 * half, tail + 0.18),
            (-0.10 * half, tail),
            (-0.7 * half, tail),
            (-half, tail + 0.14),
        ],
    ]
    pieces: list[Piece] = []
    hinge = solids.rotation_about("z", lid)
    for outline in outlines:
        pieces.append((_plate(outline, body).moved((0.0, floor + 0.5 * body, 0.0)), "main"))
        inner = [(0.86 * x - 0.03, 0.90 * (z - middle) + middle) for x, z in outline]
        pieces.append((_plate(inner, 0.03).moved((0.0, top + 0.005, 0.0)), "second"))
        cover = _plate([(x + half, z) for x, z in outline], 0.06).rotated(hinge)
        pieces.append((cover.moved((-half, top + 0.02, 0.0)), "main"))
    pieces.append(_box((width, 0.16, 0.30), (0.0, floor + 0.08, front - 0.13)))
    pieces += [
        _box((0.09, body, 0.28), (x, floor + 0.5 * body, front - 0.13)) for x in (0.045 - half, half - 0.045)
    ]
    pieces.append(_box((width - 0.18, 0.06, 0.24), (0.0, floor + 0.17, front - 0.12), "white"))
    for x in np.linspace(-0.5, 0.5, 9)[[0, 1, 3, 4, 5, 7, 8]] * (width - 0.34):
        pieces.append(_box((0.06, 0.07, 0.14), (x, floor + 0.20, front - 0.18), "black"))
    stand = solids.box((0.56 * width, 0.26, 0.05)).rotated(solids.rotation_about("x", -20.0))
    pieces.append((stand.moved((0.0, top + 0.10, keys - 0.10)), "main"))
    for x, z in ((0.12 - half, keys), (half - 0.12, keys), (-0.35 * half, tail + 0.20)):
        pieces.append(
            (solids.frustum(0.06, 0.10, floor + 0.04, 12).moved((x, 0.5 * floor + 0.02, z)), "main")
        )
    prop = [
        (half - 0.10, top, 0.0),
        (-half + 1.5 * half * np.cos(np.radians(lid)), top + 1.5 * half * np.sin(np.radians(lid)), 0.0),
    ]
    pieces.append((solids.tube(prop, 0.035, sides=8), "main"))
    return pieces


def _bell(radius: float, height: float, flare: float, ring: float) -> list[Piece]:
    """radius: of the shoulder over the height 1. flare: of the mouth beyond it. ring: the radius of the loop."""
    r, mouth = radius, radius + flare
    wall = [
        [0.9 * mouth, 0.0],
        [mouth, 0.0],
        [mouth, 0.08],
        [r + 0.35 * flare, 0.26 * height],
        [r, 0.5 * height],
    ]
    crown = [[0.92 * r, 0.76 * height], [0.7 * r, 0.92 * height], [0.3 * r, height], [0.0, height]]
    inner = [[0.0, 0.6 * height], [0.7 * r, 0.5 * height]]
    pieces: list[Piece] = [(solids.lathe(np.array(inner + wall + crown), 26), "main")]
    pieces.append((solids.torus(mouth - 0.02, 0.06, 26, 10).moved((0.0, 0.07, 0.0)), "main"))
    pieces.append(
        (solids.cylinder(r + 0.16 * flare + 0.03, 0.07, 26).moved((0.0, 0.40 * height, 0.0)), "second")
    )
    loop = solids.torus(ring, 0.07, 20, 10).rotated(solids.rotation_about("x", 90.0))
    pieces.append((loop.moved((0.0, height + ring - 0.02, 0.0)), "second"))
    pieces.append((solids.tube([(0.0, 0.6 * height, 0.0), (0.0, 0.0, 0.0)], 0.06, sides=10), "black"))
    return [*pieces, (solids.sphere(0.18, 16).moved((0.0, -0.10, 0.0)), "black")]


CLASSES: dict[str, ThingClass] = {
    "guitar": ThingClass(
        _guitar,
        {"lower": (0.45, 0.52), "upper": (0.33, 0.38), "depth": (0.20, 0.26), "neck": (0.50, 0.64)},
        natural=("orange", "beige", "brown", "red", "blue", "black"),
        second=("brown", "black"),
    ),
    "drum": ThingClass(
        _drum,
        {"radius": (0.56, 0.64), "height": (0.62, 0.84), "rim": (0.06, 0.075), "sticks": (0.85, 1.05)},
        natural=("red", "blue", "green", "white", "black"),
        second=("yellow", "gray", "beige"),
        front=False,
    ),
    "trumpet": ThingClass(
        _trumpet,
        {"length": (1.45, 1.70), "bell": (0.30, 0.36), "tube": (0.055, 0.065), "drop": (0.30, 0.38)},
        natural=("yellow", "gray"),
        second=("white", "gray"),
        recolored=False,
    ),
    "piano": ThingClass(
        _piano,
        {"width": (1.05, 1.20), "length": (1.25, 1.50), "body": (0.24, 0.30), "lid": (32.0, 44.0)},
        natural=("black", "white", "brown", "red"),
        second=("yellow", "orange", "beige"),
    ),
    "violin": ThingClass(
        _violin,
        {"lower": (0.36, 0.40), "upper": (0.28, 0.32), "depth": (0.18, 0.22), "neck": (0.34, 0.42)},
        natural=("orange", "brown", "red", "black"),
        second=("brown", "black"),
    ),
    "bell": ThingClass(
        _bell,
        {"radius": (0.40, 0.46), "height": (0.90, 1.05), "flare": (0.18, 0.26), "ring": (0.13, 0.18)},
        natural=("yellow", "gray", "orange", "red"),
        second=("brown", "black", "red", "yellow"),
        front=False,
    ),
}
