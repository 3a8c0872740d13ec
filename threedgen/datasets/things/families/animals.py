"""Wild animals and pets, and the parts of which animals and people are made."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid
from threedgen.datasets.things.thing_class import ThingClass

Point = tuple[float, float, float]


def ball(radii: Point, at: Point, segments: int = 18) -> Solid:
    """An ellipsoid with its middle at `at`."""
    return solids.ellipsoid(radii, segments).moved(at)


def pair(radii: Point, at: Point, paint: str, tilt: float = 0.0, segments: int = 14) -> list[Piece]:
    """Two mirrored ellipsoids, whose tops lean outwards by `tilt` degrees."""
    x, y, z = at
    solid = solids.ellipsoid(radii, segments)
    return [
        (solid.rotated(solids.rotation_about("z", -side * tilt)).moved((side * x, y, z)), paint)
        for side in (-1, 1)
    ]


def eyes(x: float, y: float, z: float, radius: float) -> list[Piece]:
    """Two black eyes."""
    return pair((radius, radius, radius), (x, y, z), "black", segments=12)


def horns(
    radius: float, height: float, at: Point, paint: str, tilt: float = 0.0, flat: float = 1.0
) -> list[Piece]:
    """Two cones on their bases at `at` and its mirror image, for ears and horns. flat: their depth / width."""
    x, y, z = at
    cone = solids.cone(radius, height, 14).moved((0.0, 0.5 * height, 0.0)).stretched((1.0, 1.0, flat))
    return [
        (cone.rotated(solids.rotation_about("z", -side * tilt)).moved((side * x, y, z)), paint)
        for side in (-1, 1)
    ]


def limbs(points: list[Point], radii: float | list[float], paint: str) -> list[Piece]:
    """Two mirrored tubes."""
    return [(solids.tube([(side * x, y, z) for x, y, z in points], radii, 10), paint) for side in (-1, 1)]


def legs(
    x: float, front: float, back: float, height: float, radius: float, paint: str, foot: str
) -> list[Piece]:
    """Four upright legs on the ground y = 0, with feet."""
    low = 0.16 * height + 0.03
    leg = solids.frustum(radius, 1.15 * radius, height - low, 14).moved((0.0, 0.5 * (height + low), 0.0))
    hoof = solids.cylinder(1.12 * radius, low, 14).moved((0.0, 0.5 * low, 0.0))
    places = [(side * x, 0.0, z) for side in (-1, 1) for z in (front, back)]
    return [(solid.moved(at), name) for at in places for solid, name in ((leg, paint), (hoof, foot))]


def spot(at: np.ndarray, normal: np.ndarray, size: float, rise: float = 0.02) -> Solid:
    """A round patch on a surface, above which it rises by `rise` in its middle."""
    normal = normal / np.linalg.norm(normal)
    across = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    across /= np.linalg.norm(across)
    turn = np.column_stack([across, np.cross(normal, across), normal])
    depth = 0.45 * size
    middle = at - (depth - rise) * normal
    return solids.ellipsoid((size, size, depth), 14).rotated(turn).moved(tuple(middle))


def spots_on_tube(
    ends: tuple[Point, Point],
    radii: tuple[float, float],
    places: list[tuple[float, float, float]],
    paint: str,
) -> list[Piece]:
    """Patches on a tube in the plane x = 0. places: how far along, degrees around from the top, size."""
    start, end = (np.array(point) for point in ends)
    axis = (end - start) / np.linalg.norm(end - start)
    up = np.array([0.0, axis[2], -axis[1]])
    pieces: list[Piece] = []
    for along, around, size in places:
        angle = np.radians(around)
        normal = np.cos(angle) * up + np.sin(angle) * np.array([1.0, 0.0, 0.0])
        radius = radii[0] + along * (radii[1] - radii[0])
        pieces.append((spot(start + along * (end - start) + radius * normal, normal, size), paint))
    return pieces


def spots_on_ellipsoid(
    middle: Point, radii: Point, places: list[tuple[float, float, float]], paint: str
) -> list[Piece]:
    """Patches on an ellipsoid. places: degrees around from +Z towards +X, degrees of elevation, size."""
    pieces: list[Piece] = []
    for around, elevation, size in places:
        a, e = np.radians((around, elevation))
        direction = np.array([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)])
        at = np.array(middle) + np.array(radii) * direction
        pieces.append((spot(at, direction / np.array(radii), size), paint))
    return pieces


def _cat(girth: float, height: float, head: float, ear: float, tail: float) -> list[Piece]:
    """Sits, with its tail up."""
    face, front = height + 0.75 * head, 0.12
    pieces: list[Piece] = [
        (solids.tube([(0, 0.32, -0.22), (0, height - 0.12, 0.04)], [girth, 0.68 * girth]), "main"),
        (ball((0.6 * girth, 0.26, 0.14), (0, height - 0.28, 0.14)), "second"),
        (ball((1.1 * head, 0.92 * head, 0.95 * head), (0, face, front)), "main"),
        (ball((0.5 * head, 0.34 * head, 0.4 * head), (0, face - 0.35 * head, front + 0.7 * head)), "second"),
        (ball((0.06, 0.045, 0.05), (0, face - 0.2 * head, front + 1.06 * head), 12), "pink"),
        (
            solids.tube(
                [(0, 0.12, -0.42), (0, 0.12, -0.68), (0, 0.36, -0.84), (0, 0.4 + tail, -0.78)],
                [0.1, 0.09, 0.085, 0.085],
            ),
            "main",
        ),
        (ball((0.1, 0.14, 0.1), (0, 0.42 + tail, -0.78)), "second"),
    ]
    pieces += pair((0.16, 0.26, 0.3), (0.85 * girth, 0.25, -0.16), "main")
    pieces += pair((0.11, 0.08, 0.17), (0.95 * girth, 0.08, 0.1), "second")
    pieces += limbs([(0.13, 0.1, 0.2), (0.12, height - 0.2, 0.14)], 0.09, "main")
    pieces += pair((0.11, 0.08, 0.14), (0.13, 0.08, 0.25), "second")
    base = (0.6 * head, face + 0.5 * head, front)
    pieces += horns(0.5 * head, ear, base, "main", 14.0, 0.55)
    pieces += horns(0.32 * head, 0.7 * ear, (base[0], base[1], front + 0.2 * head), "pink", 14.0, 0.4)
    return pieces + eyes(0.45 * head, face + 0.1 * head, front + 0.85 * head, 0.19 * head)


def _dog(length: float, leg: float, girth: float, head: float, ear: float) -> list[Piece]:
    back, half = leg + 0.7 * girth, 0.5 * length
    face, front = back + 0.5, half + 0.24
    collar = solids.cylinder(0.2, 0.1, 18).rotated(solids.rotation_about("x", 25.0))
    pieces: list[Piece] = [
        (solids.tube([(0, back, -half), (0, back + 0.03, half)], [0.92 * girth, girth], 16), "main"),
        (solids.tube([(0, back, half), (0, face, front - 0.05)], [0.2, 0.17]), "main"),
        (collar.moved((0, back + 0.27, half + 0.12)), "red"),
        (ball((head, 0.95 * head, head), (0, face, front)), "main"),
        (
            solids.tube(
                [(0, face - 0.3 * head, front + 0.5 * head), (0, face - 0.35 * head, front + 1.25 * head)],
                [0.55 * head, 0.45 * head],
            ),
            "white",
        ),
        (ball((0.1, 0.085, 0.08), (0, face - 0.05 * head, front + 1.65 * head), 12), "black"),
        (solids.tube([(0, back + 0.1, -half - 0.2), (0, back + 0.5, -half - 0.42)], [0.1, 0.07]), "second"),
    ]
    pieces += legs(0.62 * girth, half, -half, leg, 0.11, "main", "white")
    pieces += pair((0.09, ear, 0.17), (1.02 * head, face - 0.35 * ear, front - 0.08), "second", -12.0)
    pieces += spots_on_tube(
        ((0, back, -half), (0, back, half)), (0.92 * girth, girth), [(0.35, 20.0, 0.22)], "second"
    )
    return pieces + eyes(0.42 * head, face + 0.22 * head, front + 0.88 * head, 0.17 * head)


def _rabbit(girth: float, length: float, head: float, ear: float) -> list[Piece]:
    face, front = 0.55 + 1.1 * head, 0.5 * length
    pieces: list[Piece] = [
        (ball((girth, 1.1 * girth, length), (0, 0.42, -0.12)), "main"),
        (ball((0.75 * girth, 0.8 * girth, 0.2), (0, 0.38, length - 0.27)), "second"),
        (ball((0.95 * head, 0.9 * head, head), (0, face, front)), "main"),
        (
            ball((0.5 * head, 0.35 * head, 0.35 * head), (0, face - 0.35 * head, front + 0.78 * head)),
            "second",
        ),
        (ball((0.06, 0.05, 0.05), (0, face - 0.18 * head, front + 1.1 * head), 12), "pink"),
        (ball((0.15, 0.15, 0.15), (0, 0.36, -0.16 - length)), "second"),
    ]
    pieces += pair((0.16, 0.25, 0.28), (0.8 * girth, 0.26, -0.2), "main")
    pieces += pair((0.11, 0.08, 0.25), (0.85 * girth, 0.08, 0.05), "second")
    pieces += limbs([(0.14, 0.09, front), (0.14, 0.4, front - 0.06)], 0.09, "main")
    pieces += pair((0.11, ear, 0.075), (0.15, face + 0.75 * head + 0.75 * ear, front - 0.03), "main", 10.0)
    pieces += pair(
        (0.06, 0.8 * ear, 0.05), (0.15, face + 0.75 * head + 0.78 * ear, front + 0.03), "pink", 10.0
    )
    return pieces + eyes(0.58 * head, face + 0.15 * head, front + 0.75 * head, 0.17 * head)


def _mouse(girth: float, length: float, ear: float, tail: float) -> list[Piece]:
    end = -0.9 * length
    pieces: list[Piece] = [
        (ball((girth, 1.02 * girth, length), (0, girth, 0)), "main"),
        (solids.tube([(0, 0.36, 0.7 * length), (0, 0.3, 0.7 * length + 0.36)], [0.24, 0.09]), "main"),
        (ball((0.09, 0.08, 0.08), (0, 0.31, 0.7 * length + 0.46), 12), "pink"),
        (
            solids.tube(
                [
                    (0, 0.2, end),
                    (0.06, 0.1, end - 0.25),
                    (0.16, 0.14, end - 0.4),
                    (0.12, 0.22 + tail, end - 0.52),
                ],
                [0.08, 0.07, 0.065, 0.05],
            ),
            "pink",
        ),
    ]
    pieces += pair((ear, ear, 0.07), (0.17 + 0.45 * ear, 0.48 + 0.75 * ear, 0.62 * length), "main")
    pieces += pair(
        (0.72 * ear, 0.72 * ear, 0.05), (0.18 + 0.45 * ear, 0.48 + 0.75 * ear, 0.62 * length + 0.05), "pink"
    )
    for z in (0.55, -0.5):
        pieces += pair((0.1, 0.07, 0.16), (0.7 * girth, 0.06, z * length), "pink")
    return pieces + eyes(0.13, 0.45, 0.7 * length + 0.21, 0.06)


def _bear(length: float, leg: float, girth: float, head: float) -> list[Piece]:
    back, half = leg + 0.7 * girth, 0.5 * length
    face, front = back + 0.22, half + 0.42
    pieces: list[Piece] = [
        (solids.tube([(0, back, -half), (0, back + 0.06, half)], [girth, 0.98 * girth], 16), "main"),
        (ball((head, 0.95 * head, 0.9 * head), (0, face, front)), "main"),
        (ball((0.55 * head, 0.45 * head, 0.6 * head), (0, face - 0.3 * head, front + 0.8 * head)), "second"),
        (ball((0.11, 0.08, 0.08), (0, face - 0.08 * head, front + 1.32 * head), 12), "black"),
        (ball((0.1, 0.1, 0.1), (0, back + 0.1, -half - girth)), "main"),
    ]
    pieces += legs(0.58 * girth, half, -half, leg, 0.17, "main", "main")
    pieces += pair((0.15, 0.15, 0.09), (0.78 * head, face + 0.8 * head, front - 0.03), "main")
    pieces += pair((0.09, 0.09, 0.05), (0.79 * head, face + 0.8 * head, front + 0.03), "second")
    return pieces + eyes(0.42 * head, face + 0.22 * head, front + 0.8 * head, 0.15 * head)


def _elephant(length: float, leg: float, girth: float, ear: float) -> list[Piece]:
    back, half = leg + 0.75 * girth, 0.5 * length
    face, front = back + 0.2, half + 0.34
    pieces: list[Piece] = [
        (solids.tube([(0, back, -half), (0, back + 0.04, half)], girth, 18), "main"),
        (ball((0.36, 0.4, 0.36), (0, face, front)), "main"),
        (
            solids.tube(
                [
                    (0, face - 0.08, front + 0.22),
                    (0, face - 0.36, front + 0.46),
                    (0, face - 0.72, front + 0.48),
                    (0, face - 0.86, front + 0.68),
                ],
                [0.2, 0.16, 0.13, 0.11],
            ),
            "main",
        ),
        (solids.tube([(0, back + 0.1, -half - girth), (0, back - 0.4, -half - girth - 0.1)], 0.06), "main"),
    ]
    pieces += legs(0.58 * girth, half, -half, leg, 0.19, "main", "white")
    pieces += limbs(
        [
            (0.2, face - 0.2, front + 0.2),
            (0.25, face - 0.36, front + 0.42),
            (0.25, face - 0.32, front + 0.62),
        ],
        [0.08, 0.07, 0.05],
        "white",
    )
    for side in (-1, 1):
        turn = solids.rotation_about("y", side * 30.0)
        for radius, paint, ahead in ((ear, "main", 0.0), (0.75 * ear, "second", 0.045)):
            flap = solids.ellipsoid((0.9 * radius, 1.1 * radius, 0.07), 16).rotated(turn)
            pieces.append((flap.moved((side * (0.3 + 0.65 * ear), face + 0.03, front - 0.15 + ahead)), paint))
    return pieces + eyes(0.24, face + 0.1, front + 0.27, 0.06)


def _giraffe(length: float, leg: float, girth: float, neck: float) -> list[Piece]:
    half = 0.5 * length
    rear, chest = (0.0, leg + 0.12, -half), (0.0, leg + 0.22, half)
    nape = (0.0, leg + 0.25 + neck, half + 0.36 * neck)
    face, front = nape[1] + 0.06, nape[2]
    pieces: list[Piece] = [
        (solids.tube([rear, chest], [girth, 1.1 * girth], 16), "main"),
        (solids.tube([chest, nape], [0.22, 0.15], 14), "main"),
        (solids.tube([(0, face, front), (0, face - 0.12, front + 0.34)], [0.18, 0.13]), "main"),
        (ball((0.14, 0.12, 0.1), (0, face - 0.15, front + 0.42)), "beige"),
        (solids.tube([(0, leg + 0.2, -half - girth), (0, leg - 0.25, -half - girth - 0.1)], 0.05), "main"),
        (ball((0.08, 0.13, 0.08), (0, leg - 0.32, -half - girth - 0.11), 12), "second"),
    ]
    pieces += legs(0.6 * girth, half, -half, leg, 0.1, "main", "second")
    pieces += limbs([(0.09, face + 0.1, front - 0.04), (0.1, face + 0.3, front - 0.08)], 0.05, "second")
    pieces += pair((0.14, 0.07, 0.06), (0.24, face + 0.12, front - 0.08), "main", -20.0)
    body = [(0.05, 80.0, 0.15), (0.5, 95.0, 0.16), (0.95, 75.0, 0.15), (0.3, 35.0, 0.14), (0.75, 30.0, 0.14)]
    throat = [(0.3, 90.0, 0.12), (0.52, 60.0, 0.1), (0.62, 125.0, 0.1), (0.8, 85.0, 0.1), (0.38, 20.0, 0.1)]
    for side in (-1, 1):
        places = [(along, side * around, size) for along, around, size in body]
        pieces += spots_on_tube((rear, chest), (girth, 1.1 * girth), places, "second")
        places = [(along, side * around, size) for along, around, size in throat]
        pieces += spots_on_tube((chest, nape), (0.22, 0.15), places, "second")
    return pieces + eyes(0.13, face + 0.04, front + 0.12, 0.05)


def _lion(length: float, leg: float, girth: float, mane: float) -> list[Piece]:
    back, half = leg + 0.7 * girth, 0.5 * length
    face, front, head = back + 0.35, half + 0.3, 0.28
    pieces: list[Piece] = [
        (solids.tube([(0, back, -half), (0, back + 0.05, half)], [0.9 * girth, girth], 16), "main"),
        (ball((mane, mane, 0.26), (0, face - 0.03, front - 0.1)), "second"),
        (ball((head, head, head), (0, face, front + 0.1)), "main"),
        (ball((0.17, 0.13, 0.15), (0, face - 0.1, front + 0.34)), "white"),
        (ball((0.08, 0.06, 0.06), (0, face - 0.02, front + 0.47), 12), "black"),
        (
            solids.tube(
                [(0, back, -half - 0.15), (0, back - 0.05, -half - 0.5), (0, back + 0.25, -half - 0.65)], 0.06
            ),
            "main",
        ),
        (ball((0.12, 0.16, 0.12), (0, back + 0.36, -half - 0.67)), "second"),
    ]
    for angle in np.radians(np.arange(0.0, 360.0, 36.0)):
        at = (0.85 * mane * np.sin(angle), face - 0.03 + 0.85 * mane * np.cos(angle), front - 0.08)
        pieces.append((ball((0.15, 0.15, 0.15), at, 10), "second"))
    pieces += legs(0.6 * girth, half, -half, leg, 0.12, "main", "main")
    pieces += pair((0.1, 0.1, 0.07), (0.25, face + 0.27, front + 0.1), "main")
    return pieces + eyes(0.12, face + 0.08, front + 0.34, 0.05)


CLASSES: dict[str, ThingClass] = {
    "cat": ThingClass(
        _cat,
        {
            "girth": (0.27, 0.33),
            "height": (0.85, 1.0),
            "head": (0.29, 0.34),
            "ear": (0.24, 0.32),
            "tail": (0.2, 0.4),
        },
        natural=("orange", "gray", "black", "white", "brown", "beige"),
        second=("white", "beige"),
    ),
    "dog": ThingClass(
        _dog,
        {
            "length": (0.75, 0.95),
            "leg": (0.42, 0.56),
            "girth": (0.26, 0.31),
            "head": (0.27, 0.32),
            "ear": (0.2, 0.27),
        },
        natural=("beige", "white", "brown", "gray", "black", "orange"),
        second=("brown", "black"),
    ),
    "rabbit": ThingClass(
        _rabbit,
        {"girth": (0.31, 0.37), "length": (0.42, 0.5), "head": (0.26, 0.3), "ear": (0.32, 0.42)},
        natural=("white", "gray", "brown", "beige", "black"),
        second=("white", "beige"),
    ),
    "mouse": ThingClass(
        _mouse,
        {"girth": (0.31, 0.36), "length": (0.48, 0.56), "ear": (0.21, 0.27), "tail": (0.0, 0.15)},
        natural=("gray", "white", "brown", "beige"),
    ),
    "bear": ThingClass(
        _bear,
        {"length": (0.6, 0.8), "leg": (0.42, 0.55), "girth": (0.38, 0.45), "head": (0.31, 0.36)},
        natural=("brown", "black", "white"),
        second=("beige", "orange"),
    ),
    "elephant": ThingClass(
        _elephant,
        {"length": (0.55, 0.75), "leg": (0.55, 0.7), "girth": (0.42, 0.5), "ear": (0.36, 0.46)},
        natural=("gray",),
        second=("pink", "gray", "beige"),
    ),
    "giraffe": ThingClass(
        _giraffe,
        {"length": (0.5, 0.65), "leg": (0.85, 1.05), "girth": (0.25, 0.3), "neck": (0.85, 1.1)},
        natural=("yellow", "orange"),
        second=("brown",),
    ),
    "lion": ThingClass(
        _lion,
        {"length": (0.75, 0.95), "leg": (0.45, 0.58), "girth": (0.26, 0.31), "mane": (0.38, 0.45)},
        natural=("yellow", "orange", "beige"),
        second=("brown",),
    ),
}
