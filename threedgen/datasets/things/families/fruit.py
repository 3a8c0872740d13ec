"""Fruit."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid, rotation_about
from threedgen.datasets.things.thing_class import ThingClass


def around(solid: Solid, count: int, phase: float = 0.0) -> list[Solid]:
    """Copies of a solid, turned about +Y by equal angles, the first by `phase` degrees."""
    return [solid.rotated(rotation_about("y", phase + 360.0 * i / count)) for i in range(count)]


def rounded(corners: list[tuple[float, float]], times: int = 2) -> Float[np.ndarray, "P 2"]:
    """A line through the same ends whose corners are cut off (Chaikin), as a profile for solids.lathe."""
    line = np.asarray(corners, dtype=np.float64)
    for _ in range(times):
        cut = np.stack([0.75 * line[:-1] + 0.25 * line[1:], 0.25 * line[:-1] + 0.75 * line[1:]], axis=1)
        line = np.concatenate([line[:1], cut.reshape(-1, 2), line[-1:]])
    return line


def turned(corners: list[tuple[float, float]], times: int = 2, segments: int = 24) -> Solid:
    """A smooth surface of revolution about +Y with a rounded profile, (radius, y) from the bottom up."""
    profile = rounded(corners, times)
    solid = solids.lathe(profile, segments)
    normals = solid.normals.reshape(len(profile) - 1, 2, segments + 1, 3).copy()
    below, above = normals[:-1, 1], normals[1:, 0]
    mean = below + above
    length = np.linalg.norm(mean, axis=-1, keepdims=True)
    smooth = length > 1.0  # a sharper turn, as of a lip, stays a crease
    mean = mean / np.maximum(length, 1e-9)
    normals[:-1, 1], normals[1:, 0] = np.where(smooth, mean, below), np.where(smooth, mean, above)
    return Solid(solid.vertices, normals.reshape(-1, 3), solid.faces)


def leaf(
    length: float, width: float, rise: float, droop: float, thickness: float = 0.035, sides: int = 8
) -> Solid:
    """A leaf from the origin towards +Z, which first rises by `rise` and then falls to -`droop` at its tip."""
    t = np.linspace(0.0, 1.0, 6)
    path = np.column_stack([0.0 * t, rise * np.sin(np.pi * t) - droop * t**2, length * t])
    girth = thickness * np.array([0.45, 0.85, 1.0, 0.95, 0.7, 0.15])
    return solids.tube(path, girth, sides).stretched((0.5 * width / thickness, 1.0, 1.0))


def studs(
    profile: list[tuple[float, float]],
    rows: list[tuple[float, int]],
    radii: tuple[float, float, float],
    segments: int = 8,
) -> list[Solid]:
    """Ellipsoids on the surface `turned(profile)`: for each (y, count) so many at this height."""
    line = rounded(profile)
    stud = solids.ellipsoid(radii, segments)
    placed = []
    for index, (y, count) in enumerate(rows):
        radius = float(np.interp(y, line[:, 1], line[:, 0]))
        placed += around(stud.moved((0.0, y, radius)), count, phase=180.0 / count * (index % 2))
    return placed


def _banana(length: float, bend: float, thickness: float) -> list[Piece]:
    angle = np.radians(np.linspace(-bend, bend, 9))
    radius = length / (2.0 * np.radians(bend))
    path = np.column_stack([radius * np.sin(angle), -radius * np.cos(angle), np.zeros(9)])
    girth = thickness * np.array([0.35, 0.75, 0.95, 1.0, 1.0, 1.0, 0.95, 0.75, 0.4])
    stem = solids.tube([path[-1], path[-1] + (0.10, 0.13, 0.0)], 0.3 * thickness)
    tip = solids.tube([path[0], path[0] + (-0.02, 0.03, 0.0)], 0.3 * thickness)
    return [(solids.tube(path, girth), "main"), (stem, "green"), (tip, "brown")]


def _stem_with_leaf(y: float, size: float) -> list[Piece]:
    """A brown stem from height y upwards, with a green leaf towards +Z."""
    stem = solids.tube([(0.0, y - 0.1, 0.0), (0.0, y + 0.1, 0.0), (0.0, y + 0.24, -0.06)], 0.055, 8)
    blade = leaf(size, 0.6 * size, 0.3 * size, 0.1 * size).moved((0.0, y + 0.08, 0.02))
    return [(stem, "brown"), (blade, "green")]


def _apple(width: float, height: float, leaf_size: float) -> list[Piece]:
    corners = [(0.0, -0.38), (0.14, -0.50), (0.34, -0.46), (0.52, -0.15), (0.57, 0.15), (0.50, 0.38)]
    body = turned([*corners, (0.30, 0.52), (0.10, 0.38), (0.0, 0.22)]).stretched((width, height, width))
    return [(body, "main"), *_stem_with_leaf(0.34 * height, leaf_size)]


def _pear(width: float, neck: float, leaf_size: float) -> list[Piece]:
    corners = [(0.0, -0.5), (0.25, -0.52), (0.50, -0.34), (0.48, 0.02), (0.22, 0.26), (0.20, neck)]
    body = turned([*corners, (0.12, neck + 0.12), (0.0, neck + 0.12)]).stretched((width, 1.0, width))
    return [(body, "main"), *_stem_with_leaf(neck + 0.08, leaf_size)]


def _orange(radius: float, tilt: float, leaf_size: float) -> list[Piece]:
    """A whole orange with a leaf, and half a one in front, whose cut face looks at +Z."""
    half = [(turned([(0.0, -0.42), (0.3, -0.42), (0.44, -0.2), (0.44, 0.0), (0.0, 0.0)], 3), "main")]
    half.append((solids.cylinder(0.40, 0.03, 24).moved((0.0, 0.01, 0.0)), "white"))
    wedge = solids.ellipsoid((0.10, 0.03, 0.16), 12).moved((0.0, 0.03, 0.20))
    half += [(solid, "main") for solid in around(wedge, 8)]
    turn = rotation_about("x", tilt)
    pieces: list[Piece] = [(solid.rotated(turn).moved((0.0, -0.08, 0.75)), paint) for solid, paint in half]
    pieces.append((solids.sphere(radius, 24), "main"))
    pieces += [(solid.moved((0.0, 0.0, -0.1)), paint) for solid, paint in _stem_with_leaf(radius, leaf_size)]
    return pieces


_STRAWBERRY = [
    (0.0, -0.62),
    (0.14, -0.60),
    (0.38, -0.15),
    (0.54, 0.25),
    (0.36, 0.46),
    (0.10, 0.46),
    (0.0, 0.46),
]


def _strawberry(width: float, height: float, leaf_size: float) -> list[Piece]:
    body = turned(_STRAWBERRY).stretched((width, height, width))
    rows = [(-0.45, 4), (-0.27, 7), (-0.08, 8), (0.10, 9), (0.27, 9)]
    seeds = [s.stretched((width, height, width)) for s in studs(_STRAWBERRY, rows, (0.032, 0.05, 0.032))]
    crown = around(leaf(leaf_size, 0.24, 0.12, 0.14).moved((0.0, 0.45 * height, 0.02)), 6)
    stem = solids.tube([(0.0, 0.4 * height, 0.0), (0.0, 0.66 * height, -0.04)], 0.06, 8)
    pieces: list[Piece] = [(body, "main"), (stem, "green")]
    return pieces + [(seed, "yellow") for seed in seeds] + [(solid, "green") for solid in crown]


_PINEAPPLE = [(0.0, -0.6), (0.26, -0.6), (0.42, -0.4), (0.44, 0.0), (0.42, 0.35), (0.26, 0.55), (0.0, 0.55)]


def _pineapple(width: float, crown: float, spread: float) -> list[Piece]:
    body = turned(_PINEAPPLE).stretched((width, 1.0, width))
    rows = [(y, 8) for y in (-0.45, -0.29, -0.13, 0.03, 0.19, 0.35)]
    eyes = [s.stretched((width, 1.0, width)) for s in studs(_PINEAPPLE, rows, (0.055, 0.06, 0.035))]
    pieces: list[Piece] = [(body, "main"), *((eye, "brown") for eye in eyes)]
    for count, length, lean in ((5, 0.8 * crown, spread), (4, crown, 0.5 * spread), (3, 1.1 * crown, 8.0)):
        blade = leaf(length, 0.20, 0.06, 0.0, 0.04).rotated(rotation_about("x", lean - 90.0))
        pieces += [(solid, "green") for solid in around(blade.moved((0.0, 0.46, 0.06)), count, 20.0 * count)]
    return pieces


def _watermelon(radius: float, depth: float, tilt: float) -> list[Piece]:
    """Half a melon, whose red cut face looks forwards and up."""
    arc = np.radians(np.linspace(-90.0, 0.0, 12))
    shell = np.column_stack([radius * np.cos(arc), depth * np.sin(arc)])
    rind = solids.lathe(np.concatenate([shell, [[0.0, 0.0]]]), 24)
    stripes = solids.lathe(1.012 * shell[2:], 40)
    middle = stripes.vertices[stripes.faces].mean(axis=1)
    column = np.floor(np.degrees(np.arctan2(middle[:, 0], middle[:, 2])) / 9.0) % 5
    stripes = Solid(stripes.vertices, stripes.normals, stripes.faces[column == 0])
    pieces: list[Piece] = [(rind, "main"), (stripes, "black")]
    pieces.append((solids.cylinder(0.94 * radius, 0.04, 24).moved((0.0, 0.005, 0.0)), "white"))
    pieces.append((solids.cylinder(0.85 * radius, 0.06, 24).moved((0.0, 0.01, 0.0)), "red"))
    seed = solids.ellipsoid((0.045, 0.03, 0.07), 8)
    for count, ring in ((5, 0.30), (10, 0.62)):
        pieces += [(s, "black") for s in around(seed.moved((0.0, 0.04, ring * radius)), count)]
    return [(solid.rotated(rotation_about("x", tilt)), paint) for solid, paint in pieces]


def _grapes(grape: float, length: float, leaf_size: float) -> list[Piece]:
    pieces: list[Piece] = []
    ball = solids.sphere(grape, 12)
    for index, (count, ring) in enumerate(((6, 0.34), (7, 0.40), (6, 0.34), (5, 0.25), (3, 0.14), (1, 0.0))):
        layer = around(ball.moved((0.0, -length * index / 5.0, ring)), count, 25.0 * index)
        pieces += [(solid, "main") for solid in layer]
    pieces.append((solids.sphere(0.30, 12).moved((0.0, -0.1, 0.0)), "main"))
    pieces.append((solids.tube([(0.0, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.48, -0.08)], 0.06, 8), "brown"))
    blade = leaf(leaf_size, leaf_size, 0.12, 0.10, 0.05).moved((0.0, 0.22, 0.0))
    pieces += [(solid, "green") for solid in around(blade, 3)]
    return pieces


def _lemon(width: float, length: float, leaf_size: float) -> list[Piece]:
    """A lemon on its side, with its tip at +Z and its stem at -Z."""
    corners = [(0.0, -0.58), (0.10, -0.57), (0.14, -0.46), (0.42, -0.32), (0.50, 0.0), (0.42, 0.32)]
    corners += [(0.14, 0.46), (0.11, 0.60), (0.0, 0.62)]
    body = turned(corners).stretched((width, length, width)).rotated(rotation_about("x", 90.0))
    start = -0.56 * length
    stem = solids.tube([(0.0, 0.0, start), (0.0, 0.06, start - 0.14)], 0.06, 8)
    blade = leaf(leaf_size, 0.55 * leaf_size, 0.12, -0.1).rotated(rotation_about("x", -60.0))
    return [(body, "main"), (stem, "brown"), (blade.moved((0.0, 0.05, start - 0.04)), "green")]


def _cherry(radius: float, spread: float, height: float) -> list[Piece]:
    pieces: list[Piece] = []
    corners = [(0.0, -1.0), (0.55, -1.0), (1.05, -0.3), (1.0, 0.7), (0.45, 0.95), (0.12, 0.72), (0.0, 0.6)]
    ball = turned([(radius * r, radius * y) for r, y in corners])
    for x in (-spread, spread):
        pieces.append((ball.moved((x, 0.0, 0.0)), "main"))
        bow = [(x, 0.5 * radius, 0.0), (0.85 * x, 0.6 * height, 0.0), (0.0, height, 0.0)]
        pieces.append((solids.tube(bow, 0.055, 8), "green"))
    pieces.append((solids.ellipsoid((0.10, 0.07, 0.10), 12).moved((0.0, height, 0.0)), "brown"))
    for turn in (-35.0, 145.0):
        blade = leaf(0.55, 0.34, 0.12, 0.05, 0.045).rotated(rotation_about("y", turn))
        pieces.append((blade.moved((0.0, height, 0.0)), "green"))
    return pieces


CLASSES: dict[str, ThingClass] = {
    "banana": ThingClass(
        _banana,
        {"length": (1.3, 1.5), "bend": (50.0, 65.0), "thickness": (0.14, 0.18)},
        natural=("yellow", "green"),
        recolored=False,
        front=False,
    ),
    "apple": ThingClass(
        _apple,
        {"width": (0.92, 1.08), "height": (0.80, 0.94), "leaf_size": (0.40, 0.52)},
        natural=("red", "green", "yellow"),
        recolored=False,
        front=False,
    ),
    "pear": ThingClass(
        _pear,
        {"width": (0.92, 1.08), "neck": (0.46, 0.60), "leaf_size": (0.38, 0.50)},
        natural=("green", "yellow"),
        recolored=False,
        front=False,
    ),
    "orange": ThingClass(
        _orange,
        {"radius": (0.48, 0.56), "tilt": (60.0, 80.0), "leaf_size": (0.38, 0.50)},
        natural=("orange",),
        recolored=False,
    ),
    "strawberry": ThingClass(
        _strawberry,
        {"width": (0.92, 1.08), "height": (0.92, 1.08), "leaf_size": (0.40, 0.50)},
        natural=("red",),
        recolored=False,
        front=False,
    ),
    "pineapple": ThingClass(
        _pineapple,
        {"width": (0.90, 1.08), "crown": (0.50, 0.65), "spread": (40.0, 55.0)},
        natural=("yellow", "orange"),
        recolored=False,
        front=False,
    ),
    "watermelon": ThingClass(
        _watermelon,
        {"radius": (0.75, 0.85), "depth": (0.65, 0.85), "tilt": (35.0, 55.0)},
        natural=("green",),
        recolored=False,
    ),
    "grapes": ThingClass(
        _grapes,
        {"grape": (0.19, 0.22), "length": (0.90, 1.10), "leaf_size": (0.40, 0.50)},
        natural=("purple", "green"),
        recolored=False,
        front=False,
    ),
    "lemon": ThingClass(
        _lemon,
        {"width": (0.88, 1.05), "length": (1.05, 1.25), "leaf_size": (0.50, 0.62)},
        natural=("yellow",),
        recolored=False,
    ),
    "cherry": ThingClass(
        _cherry,
        {"radius": (0.30, 0.36), "spread": (0.36, 0.44), "height": (0.85, 1.0)},
        natural=("red",),
        recolored=False,
        front=False,
    ),
}
