"""Craft on water and in the air."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid
from threedgen.datasets.things.thing_class import ThingClass

Point = tuple[float, float, float]


def _box(size: Point, at: Point, paint: str = "main") -> Piece:
    return solids.box(size).moved(at), paint


def _ball(radii: Point, at: Point, paint: str = "main", segments: int = 18) -> Piece:
    return solids.ellipsoid(radii, segments).moved(at), paint


def _side(outline: list[tuple[float, float]], thickness: float, paint: str = "main") -> Piece:
    """An upright plate in the plane x = 0 with a convex outline of points (y, z)."""
    return solids.prism(np.array(outline), thickness), paint


def _along(solid: Solid) -> Solid:
    """An upright solid, laid along z with its top towards +Z."""
    return solid.rotated(solids.rotation_about("x", 90.0))


def _loft(lower: Float[np.ndarray, "P 3"], upper: Float[np.ndarray, "P 3"]) -> Solid:
    """The solid with flat faces between two closed lines of as many points, each around its own middle."""
    triangles = []
    for a, b, c, d in zip(lower, np.roll(lower, -1, 0), np.roll(upper, -1, 0), upper, strict=True):
        triangles += [(a, b, c), (a, c, d), (lower.mean(axis=0), b, a), (upper.mean(axis=0), d, c)]
    corners = np.array(triangles)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if np.einsum("ti,ti->", corners[:, 0], normals) < 0.0:  # six times its volume
        corners, normals = corners[:, ::-1], -normals
    normals = np.repeat(normals / np.linalg.norm(normals, axis=1, keepdims=True), 3, axis=0)
    return Solid(corners.reshape(-1, 3), normals, np.arange(3 * len(corners)).reshape(-1, 3))


def _wing(
    root: tuple[float, float], tip: tuple[float, float], x: float, y: float, rise: float
) -> list[Solid]:
    """Two mirrored wings. root, tip: z of the rear and of the front edge at x = 0 and at x. rise: of the tips."""
    wings = []
    for side in (-1.0, 1.0):
        corners = [
            (0.0, y, root[0]),
            (side * x, y + rise, tip[0]),
            (side * x, y + rise, tip[1]),
            (0.0, y, root[1]),
        ]
        outline = np.array(corners)
        wings.append(_loft(outline - (0.0, 0.035, 0.0), outline - (0.0, -0.035, 0.0)))
    return wings


def _hull(length: float, width: float, height: float, sheer: float) -> list[Piece]:
    """A hull with a pointed bow and a deck. sheer: how much the bow is higher than the stern."""
    z = np.array([-0.5, -0.5, -0.1, 0.2, 0.38, 0.5, 0.38, 0.2, -0.1])
    x = np.array([-0.40, 0.40, 0.5, 0.42, 0.22, 0.0, -0.22, -0.42, -0.5])
    rim = np.column_stack([width * x, height + sheer * np.clip(2.0 * z, 0.0, 1.0) ** 2, length * z])
    keel = rim * (0.66, 0.0, 0.84) - (0.0, 0.0, 0.02 * length)
    deck = rim * (0.82, 1.0, 0.84)
    return [
        (_loft(keel, rim), "main"),
        (_loft(deck - (0.0, 0.06, 0.0), deck - (0.0, -0.012, 0.0)), "beige"),
    ]


def _boat(length: float, width: float, cabin: float, sheer: float) -> list[Piece]:
    """A little ship with a wheelhouse and a funnel. cabin: the height of the wheelhouse."""
    height = 0.36
    pieces = _hull(length, width, height, sheer)
    wide, deep, middle = 0.56 * width, 0.34 * length, -0.08 * length
    top = height + cabin
    pieces.append(_box((wide, cabin + 0.1, deep), (0.0, height + 0.5 * cabin - 0.05, middle), "second"))
    pieces.append(_box((wide + 0.12, 0.08, deep + 0.14), (0.0, top + 0.02, middle)))
    window = 0.40 * cabin
    for z in (-0.25, 0.25):
        pieces.append(
            _box((wide + 0.03, window, 0.30 * deep), (0.0, top - 0.38 * cabin, middle + z * deep), "blue")
        )
    pieces.append(_box((0.74 * wide, window, deep + 0.03), (0.0, top - 0.38 * cabin, middle), "blue"))
    funnel = solids.cylinder(0.11, 0.34, 16)
    band = solids.cylinder(0.115, 0.10, 16)
    pieces.append((funnel.moved((0.0, top + 0.16, middle - 0.06)), "red"))
    pieces.append((band.moved((0.0, top + 0.30, middle - 0.06)), "black"))
    return pieces


def _sailboat(length: float, width: float, mast: float, sail: float) -> list[Piece]:
    """sail: the length of the foot of the mainsail, over the length of the boat."""
    height = 0.24
    pieces = _hull(length, width, height, 0.08)
    z, foot = 0.08 * length, height + 0.16
    top = height + mast
    pieces.append((solids.tube([(0.0, 0.1, z), (0.0, top, z)], 0.045, sides=10), "brown"))
    boom = [(0.0, foot, z), (0.0, foot, z - sail * length - 0.04)]
    pieces.append((solids.tube(boom, 0.04, sides=10), "brown"))
    pieces.append(_side([(foot, z), (top - 0.02, z), (foot, z - sail * length)], 0.07, "second"))
    pieces.append(
        _side([(foot - 0.02, z + 0.07), (top - 0.25, z + 0.05), (foot - 0.08, 0.46 * length)], 0.07, "second")
    )
    pieces.append(_side([(top + 0.14, z + 0.02), (top - 0.03, z + 0.02), (top + 0.06, z - 0.24)], 0.06))
    return pieces


def _airplane(length: float, body: float, span: float, sweep: float) -> list[Piece]:
    """body: the radius of the fuselage. span: of one wing. sweep: how far back the tips are."""
    half = 0.5 * length
    stations = half * np.array([-0.98, -0.6, -0.25, 0.6, 0.8, 0.93])
    heights = body * np.array([0.5, 0.2, 0.0, 0.0, -0.08, -0.2])
    girth = body * np.array([0.25, 0.75, 1.0, 1.0, 0.85, 0.5])
    path = np.column_stack([np.zeros(6), heights, stations])
    pieces: list[Piece] = [(solids.tube(path, girth, sides=18), "main")]
    pieces += [
        (w, "main") for w in _wing((-0.24, 0.34), (-sweep - 0.10, 0.14 - sweep), span, -0.3 * body, 0.10)
    ]
    rear = -half
    tail = _wing((rear + 0.02, rear + 0.26), (rear - 0.06, rear + 0.06), 0.38 * span, 0.45 * body, 0.04)
    pieces += [(w, "second") for w in tail]
    fin = [
        (0.3 * body, rear + 0.02),
        (0.4 + body, rear - 0.08),
        (0.4 + body, rear + 0.10),
        (0.3 * body, rear + 0.38),
    ]
    pieces.append(_side(fin, 0.08, "second"))
    for side in (-1.0, 1.0):
        x, z = 0.42 * side * span, 0.22 - 0.42 * sweep
        engine = [(x, -0.3 * body - 0.08, z - 0.14), (x, -0.3 * body - 0.08, z + 0.12)]
        pieces.append((solids.tube(engine, [0.075, 0.10], sides=14), "second"))
        intake = _along(solids.cylinder(0.075, 0.04, 14))
        pieces.append((intake.moved((x, -0.3 * body - 0.08, z + 0.21)), "black"))
    for z in np.linspace(-0.32, 0.52, 7) * half:
        pieces.append(_box((1.98 * body, 0.34 * body, 0.06), (0.0, 0.25 * body, z), "blue"))
    return [*pieces, _ball((0.66 * body, 0.36 * body, 0.18), (0.0, 0.48 * body, 0.78 * half), "black")]


def _helicopter(cabin: float, boom: float, rotor: float, height: float) -> list[Piece]:
    """cabin: its half length. boom: the length of the tail. rotor: its radius. height: half of the cabin's."""
    wide = 0.9 * height
    pieces = [_ball((wide, height, cabin), (0.0, 0.0, 0.0), segments=22)]
    pieces.append(
        _ball((0.90 * wide, 0.80 * height, 0.72 * cabin), (0.0, 0.10 * height, 0.35 * cabin), "glass", 20)
    )
    end = -cabin - boom
    path = [(0.0, 0.3 * height, -0.5 * cabin), (0.0, 0.42 * height, end)]
    pieces.append((solids.tube(path, [0.5 * height, 0.09], sides=14), "main"))
    base = 0.42 * height
    fin = [(base - 0.16, end + 0.02), (base + 0.34, end - 0.16), (base + 0.34, end + 0.0), (base, end + 0.24)]
    pieces += [_side(fin, 0.09, "second"), _box((0.50, 0.06, 0.16), (0.0, base, end + 0.22), "second")]
    for turn in (20.0, 110.0):
        blade = solids.box((0.05, 0.44, 0.08)).rotated(solids.rotation_about("x", turn))
        pieces.append((blade.moved((0.09, base + 0.16, end - 0.02)), "black"))
    pieces.append((solids.cylinder(0.08, 0.36, 12).moved((0.0, height + 0.06, 0.0)), "gray"))
    for turn in (45.0, -45.0):
        blade = solids.box((2.0 * rotor, 0.06, 0.17)).rotated(solids.rotation_about("y", turn))
        pieces.append((blade.moved((0.0, height + 0.22, 0.0)), "black"))
    ground = -height - 0.16
    for side in (-1.0, 1.0):
        x = 0.85 * side * wide
        skid = [(x, ground, -0.85 * cabin), (x, ground, 0.75 * cabin), (x, ground + 0.10, cabin)]
        pieces.append((solids.tube(skid, 0.05, sides=10), "gray"))
        for z in (-0.4, 0.4):
            strut = [(x, ground, z * cabin), (0.5 * x, -0.6 * height, z * cabin)]
            pieces.append((solids.tube(strut, 0.05, sides=8), "gray"))
    return pieces


def _rocket(height: float, radius: float, nose: float, fin: float) -> list[Piece]:
    """height: of the body below its nose. fin: how far the fins reach beyond the body."""
    r, h = radius, height
    body = np.array(
        [[0.0, 0.0], [0.72 * r, 0.0], [0.95 * r, 0.3 * h], [r, 0.55 * h], [0.86 * r, h], [0.0, h]]
    )
    tip = np.array(
        [[0.0, 0.0], [0.87 * r, 0.0], [0.68 * r, 0.4 * nose], [0.38 * r, 0.75 * nose], [0.0, nose]]
    )
    pieces: list[Piece] = [
        (solids.lathe(body, 22), "main"),
        (solids.lathe(tip, 22).moved((0.0, h - 0.005, 0.0)), "second"),
        (solids.cylinder(0.97 * r, 0.09, 22).moved((0.0, 0.88 * h, 0.0)), "second"),
        (solids.frustum(0.70 * r, 0.45 * r, 0.20, 18).moved((0.0, -0.08, 0.0)), "gray"),
    ]
    edge = r + fin
    outline = [(0.34 * h, 0.7 * r), (0.02 * h, edge), (-0.16, edge), (0.06 * h, 0.4 * r)]
    for turn in (45.0, 135.0, 225.0, 315.0):
        plate = solids.prism(np.array(outline), 0.10).rotated(solids.rotation_about("y", turn))
        pieces.append((plate, "second"))
    for y, size in ((0.68 * h, 0.50 * r), (0.42 * h, 0.34 * r)):
        frame = _along(solids.cylinder(size, 0.12, 18))
        pane = _along(solids.cylinder(0.7 * size, 0.16, 18))
        pieces += [(frame.moved((0.0, y, 0.94 * r)), "gray"), (pane.moved((0.0, y, 0.94 * r)), "blue")]
    return pieces


def _submarine(length: float, radius: float, tower: float, window: float) -> list[Piece]:
    """tower: the height of the tower above the hull. window: the radius of the portholes."""
    half, top = 0.5 * length, radius + tower
    path = half * np.array([[0, 0, -0.92], [0, 0, -0.55], [0, 0, -0.1], [0, 0, 0.45], [0, 0, 0.62]])
    girth = radius * np.array([0.25, 0.72, 1.0, 1.0, 0.9])
    pieces: list[Piece] = [(solids.tube(path, girth, sides=20), "main")]
    upper = solids.cylinder(1.0, tower + 0.2, 20).stretched((0.13, 1.0, 0.28))
    pieces.append((upper.moved((0.0, top - 0.5 * tower - 0.1, 0.10)), "main"))
    scope = [(0.0, top - 0.1, 0.02), (0.0, top + 0.26, 0.02), (0.0, top + 0.28, 0.16)]
    pieces.append((solids.tube(scope, 0.05, sides=10), "gray"))
    for z in (-0.18, 0.20, 0.58):
        glass = solids.cylinder(window, 2.0 * radius + 0.03, 14).rotated(solids.rotation_about("z", 90.0))
        ring = solids.cylinder(1.45 * window, 2.0 * radius + 0.005, 14).rotated(
            solids.rotation_about("z", 90.0)
        )
        pieces += [
            (ring.moved((0.0, 0.05, z * half)), "second"),
            (glass.moved((0.0, 0.05, z * half)), "glass"),
        ]
    rear = -0.90 * half
    pieces.append(_box((0.78 * radius * 2, 0.07, 0.20), (0.0, 0.0, rear + 0.12), "second"))
    pieces.append(_box((0.07, 0.78 * radius * 2, 0.20), (0.0, 0.0, rear + 0.12), "second"))
    pieces.append((_along(solids.cylinder(0.06, 0.24, 12)).moved((0.0, 0.0, rear - 0.10)), "gray"))
    for turn in (45.0, 135.0):
        blade = solids.box((0.13, 1.1 * radius, 0.06)).rotated(solids.rotation_about("z", turn))
        pieces.append((blade.moved((0.0, 0.0, rear - 0.17)), "gray"))
    return pieces


def _balloon(radius: float, height: float, basket: float, gap: float) -> list[Piece]:
    """height: of the envelope over its width. basket: its width. gap: between the envelope and the basket."""
    angle = np.radians(np.linspace(-58.0, 90.0, 10))
    wall = radius * np.column_stack([np.cos(angle), height * np.sin(angle)])
    mouth = np.array([0.30 * radius, -1.22 * height * radius])
    wall = np.concatenate([[mouth], wall])
    wall[-1, 0] = 0.0
    envelope = solids.lathe(np.concatenate([[[0.0, mouth[1]]], wall]), 24)
    pieces: list[Piece] = [(envelope, "main")]
    for turn in np.arange(6) * np.pi / 3.0 + np.pi / 6.0:
        line = np.column_stack([wall[:, 0] * np.sin(turn), wall[:, 1], wall[:, 0] * np.cos(turn)])[:-1]
        girth = 0.22 * wall[:-1, 0] + 0.01
        line[:, [0, 2]] *= 0.83
        pieces.append((solids.tube(line, girth, sides=10), "second"))
    rim = mouth[1] - gap
    pieces.append(_box((basket, 0.85 * basket, basket), (0.0, rim - 0.425 * basket, 0.0), "brown"))
    pieces.append(_box((basket + 0.06, 0.07, basket + 0.06), (0.0, rim, 0.0), "beige"))
    for x in (-0.45, 0.45):
        for z in (-0.45, 0.45):
            rope = [(x * basket, rim, z * basket), (0.5 * x * radius, mouth[1] + 0.04, 0.5 * z * radius)]
            pieces.append((solids.tube(rope, 0.03, sides=8), "brown"))
    return pieces


CLASSES: dict[str, ThingClass] = {
    "boat": ThingClass(
        _boat,
        {"length": (1.50, 1.80), "width": (0.62, 0.74), "cabin": (0.34, 0.46), "sheer": (0.12, 0.22)},
        natural=("red", "blue", "green", "black", "orange", "white"),
        second=("white", "beige", "yellow"),
    ),
    "sailboat": ThingClass(
        _sailboat,
        {"length": (1.25, 1.50), "width": (0.46, 0.56), "mast": (1.30, 1.55), "sail": (0.42, 0.50)},
        natural=("blue", "red", "brown", "white", "green"),
        second=("white", "beige", "yellow", "red"),
    ),
    "airplane": ThingClass(
        _airplane,
        {"length": (1.75, 2.05), "body": (0.18, 0.22), "span": (0.85, 1.05), "sweep": (0.24, 0.40)},
        natural=("white", "gray", "yellow", "red", "blue"),
        second=("blue", "red", "orange", "green", "gray"),
    ),
    "helicopter": ThingClass(
        _helicopter,
        {"cabin": (0.46, 0.56), "boom": (0.46, 0.60), "rotor": (0.72, 0.84), "height": (0.34, 0.40)},
        natural=("red", "yellow", "green", "blue", "white", "orange"),
        second=("white", "gray", "black", "red"),
    ),
    "rocket": ThingClass(
        _rocket,
        {"height": (1.15, 1.40), "radius": (0.27, 0.33), "nose": (0.42, 0.55), "fin": (0.22, 0.30)},
        natural=("white", "gray", "yellow", "blue"),
        second=("red", "blue", "orange", "green"),
    ),
    "submarine": ThingClass(
        _submarine,
        {"length": (1.65, 1.95), "radius": (0.29, 0.35), "tower": (0.22, 0.32), "window": (0.08, 0.10)},
        natural=("yellow", "gray", "black", "blue", "green"),
        second=("red", "white", "black", "gray"),
    ),
    "hot air balloon": ThingClass(
        _balloon,
        {"radius": (0.70, 0.80), "height": (0.95, 1.10), "basket": (0.34, 0.42), "gap": (0.12, 0.22)},
        natural=("red", "blue", "orange", "yellow", "purple", "green"),
        second=("yellow", "white", "orange", "blue"),
        front=False,
    ),
}
