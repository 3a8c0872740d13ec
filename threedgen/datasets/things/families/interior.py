"""Furniture and what stands on it."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid, rotation_about
from threedgen.datasets.things.families.fruit import around, turned
from threedgen.datasets.things.thing_class import ThingClass

_Point = tuple[float, float, float]


def _box(size: _Point, at: _Point, paint: str) -> Piece:
    return (solids.box(size).moved(at), paint)


def _both(solid: Solid, at: _Point, paint: str) -> list[Piece]:
    """A solid that is mirrored in itself, at x and at -x."""
    return [(solid.moved((side * at[0], at[1], at[2])), paint) for side in (-1.0, 1.0)]


def _cushion(size: _Point, at: _Point, paint: str) -> Piece:
    """A box whose edges along x and z are bevelled."""
    y, z = 0.5 * size[1], 0.5 * size[2]
    b = 0.35 * min(y, z)
    outline = [
        [-y, -z + b],
        [-y + b, -z],
        [y - b, -z],
        [y, -z + b],
        [y, z - b],
        [y - b, z],
        [-y + b, z],
        [-y, z - b],
    ]
    return (solids.prism(np.array(outline), size[0]).moved(at), paint)


def _lamp(shade: float, height: float, base: float, slope: float) -> list[Piece]:
    """A lamp for a table: a round foot, a column and a conical shade with a bulb in it."""
    foot = turned([(0.0, 0.0), (0.9, 0.0), (1.0, 0.06), (0.5, 0.18), (0.25, 0.3), (0.0, 0.3)])
    pieces: list[Piece] = [(foot.stretched((base, 1.0, base)), "second")]
    pieces.append((solids.ellipsoid((0.20, 0.24, 0.20), 16).moved((0.0, 0.42, 0.0)), "second"))
    top = height + 0.04
    pieces.append((solids.cylinder(0.075, top, 14).moved((0.0, 0.5 * top, 0.0)), "second"))
    low, high = height - 0.52, height + 0.08
    wall = [
        [shade, low],
        [slope * shade, high],
        [slope * shade - 0.04, high],
        [shade - 0.04, low],
        [shade, low],
    ]
    pieces.append((solids.lathe(np.array(wall), 28), "main"))
    disc = solids.cylinder(slope * shade, 0.03, 24).moved((0.0, high - 0.04, 0.0))
    pieces += [(disc, "main"), (solids.sphere(0.14, 14).moved((0.0, low + 0.2, 0.0)), "headlight")]
    return pieces


def _bed(width: float, length: float, head: float, cover: float) -> list[Piece]:
    """A double bed whose head is at -Z, with a blanket, two pillows and a wooden frame."""
    half = 0.5 * length
    pieces = [_box((width, 0.20, length), (0.0, 0.27, 0.0), "second")]
    pieces.append(_box((width + 0.08, head, 0.11), (0.0, 0.5 * head, -half), "second"))
    pieces.append(_box((width + 0.08, 0.52, 0.10), (0.0, 0.26, half), "second"))
    pieces.append(_box((0.94 * width, 0.20, 0.97 * length), (0.0, 0.46, 0.0), "white"))
    depth = cover * length
    pieces.append(_cushion((width + 0.03, 0.30, depth), (0.0, 0.47, half - 0.05 - 0.5 * depth), "main"))
    pieces.append(_cushion((width + 0.04, 0.31, 0.16), (0.0, 0.47, half - 0.02 - depth), "white"))
    pillow = solids.ellipsoid((0.23 * width, 0.10, 0.18), 16)
    return pieces + _both(pillow, (0.24 * width, 0.62, -half + 0.28), "white")


def _upholstered(width: float, depth: float, arm: float, back: float, seats: int) -> list[Piece]:
    """An armchair or a sofa: body, arms with round tops, a back with cushions, short wooden feet."""
    inside = width - 2.0 * arm
    pieces = [_box((width - 0.1, 0.26, depth), (0.0, 0.25, 0.0), "main")]
    high = 0.62
    panel = solids.box((arm, high - 0.12, depth))
    roll = solids.cylinder(0.62 * arm, depth + 0.02, 18).rotated(rotation_about("x", 90.0))
    x = 0.5 * (width - arm)
    pieces += _both(panel, (x, 0.12 + 0.5 * (high - 0.12), 0.0), "main")
    pieces += _both(roll, (x, high, 0.0), "main")
    rear = -0.5 * depth + 0.10
    pieces.append(_cushion((width - 0.4 * arm, back - 0.12, 0.22), (0.0, 0.06 + 0.5 * back, rear), "main"))
    each = inside / seats
    for index in range(seats):
        middle = (index - 0.5 * (seats - 1)) * each
        size = (0.96 * each, 0.16, depth - 0.20)
        pieces.append(_cushion(size, (middle, 0.45, 0.13), "main"))
        pieces.append(
            _cushion(
                (0.92 * each, back - 0.60, 0.16), (middle, 0.5 + 0.5 * (back - 0.55), rear + 0.16), "second"
            )
        )
    foot = solids.frustum(0.06, 0.09, 0.16, 10)
    for z in (-0.40 * depth, 0.40 * depth):
        pieces += _both(foot, (0.5 * width - 0.13, 0.06, z), "brown")
    return pieces


def _sofa(width: float, depth: float, arm: float, back: float) -> list[Piece]:
    return _upholstered(width, depth, arm, back, 3)


def _armchair(width: float, depth: float, arm: float, back: float) -> list[Piece]:
    return _upholstered(width, depth, arm, back, 1)


def _stool(seat: float, height: float, splay: float, thickness: float) -> list[Piece]:
    """A bar stool: a round padded seat on four legs with a ring for the feet."""
    pad = turned([(0.0, 0.0), (0.9, 0.0), (1.0, 0.5), (0.85, 1.0), (0.0, 1.0)]).stretched((seat, 0.17, seat))
    pieces: list[Piece] = [(pad.moved((0.0, height, 0.0)), "main")]
    pieces.append((solids.cylinder(0.92 * seat, 0.06, 24).moved((0.0, height, 0.0)), "second"))
    top, bottom = 0.66 * seat, 0.66 * seat + splay
    leg = solids.tube([(0.0, height, top), (0.0, 0.0, bottom)], thickness, 10)
    pieces += [(solid, "second") for solid in around(leg, 4, 45.0)]
    ring = solids.torus(top + 0.66 * splay, 0.8 * thickness, 24, 10)
    return [*pieces, (ring.moved((0.0, 0.34 * height, 0.0)), "second")]


def _bench(width: float, depth: float, back: float, slat: float) -> list[Piece]:
    """A park bench: slats on two iron sides with arm rests, the back at -Z."""
    pieces: list[Piece] = []
    seat = 0.45
    for z in (-0.33, 0.0, 0.33):
        pieces.append(_box((width, 0.08, 0.27 * depth), (0.0, seat, z * depth), "main"))
    lean = rotation_about("x", -12.0)
    for y in (0.24, 0.62, 1.0):
        board = solids.box((width, slat, 0.08)).moved((0.0, y * back - 0.5 * slat, 0.0)).rotated(lean)
        pieces.append((board.moved((0.0, seat, -0.46 * depth)), "main"))
    post = solids.box((0.11, back + 0.05, 0.10)).moved((0.0, 0.5 * back, -0.07)).rotated(lean)
    pieces += _both(post.moved((0.0, seat, -0.46 * depth)), (0.40 * width, 0.0, 0.0), "second")
    for z in (-0.42, 0.40):
        pieces += _both(solids.box((0.12, seat, 0.12)), (0.40 * width, 0.5 * seat, z * depth), "second")
    pieces += _both(solids.box((0.12, 0.09, 0.95 * depth)), (0.40 * width, seat - 0.08, 0.0), "second")
    x = 0.5 * width - 0.05
    pieces += _both(solids.box((0.11, 0.09, 0.95 * depth)), (x, seat + 0.30, -0.02), "second")
    return pieces + _both(solids.box((0.11, 0.34, 0.11)), (x, seat + 0.14, 0.38 * depth), "second")


def _book(width: float, height: float, opening: float, pages: float) -> list[Piece]:
    """An open book, which stands upright with its pages towards +Z and its back towards -Z."""
    pieces: list[Piece] = []
    for side in (-1.0, 1.0):
        turn = rotation_about("y", -side * opening)
        half: list[Piece] = [_box((width, height, 0.07), (side * 0.5 * width, 0.0, 0.0), "main")]
        sheet = (0.93 * width, 0.92 * height, pages)
        half.append(_box(sheet, (side * 0.47 * width, 0.0, 0.03 + 0.5 * pages), "white"))
        for row in range(6):
            wide = 0.66 * width if row != 5 else 0.40 * width
            x = side * 0.48 * width - 0.5 * (0.66 * width - wide)
            y = height * (0.32 - 0.125 * row)
            half.append(_box((wide, 0.055, 0.02), (x, y, 0.035 + pages), "gray"))
        emblem = _box(
            (0.5 * width, 0.16 * height, 0.02), (side * 0.5 * width, 0.18 * height, -0.04), "second"
        )
        pieces += [(solid.rotated(turn), paint) for solid, paint in [*half, emblem]]
    spine = solids.cylinder(0.085, height, 14)
    return [*pieces, (spine.moved((0.0, 0.0, -0.01)), "main")]


def _clock(radius: float, depth: float, bell: float, feet: float) -> list[Piece]:
    """An alarm clock with two bells, which shows ten past ten."""
    round_about = rotation_about("x", 90.0)
    pieces: list[Piece] = [(solids.cylinder(radius, depth, 28).rotated(round_about), "main")]
    rim = solids.torus(radius - 0.02, 0.075, 32, 10).rotated(round_about)
    pieces += [(rim.moved((0.0, 0.0, z)), "main") for z in (-0.5 * depth, 0.5 * depth)]
    face = 0.5 * depth + 0.01
    dial = solids.cylinder(0.90 * radius, 0.03, 28).rotated(round_about)
    pieces.append((dial.moved((0.0, 0.0, face)), "white"))
    for hour in range(12):
        size = (0.07, 0.14 if hour % 3 == 0 else 0.08, 0.03)
        tick = solids.box(size).moved((0.0, 0.74 * radius, face + 0.015))
        pieces.append((tick.rotated(rotation_about("z", 30.0 * hour)), "black"))
    for angle, reach, thick in ((55.0, 0.40, 0.055), (-55.0, 0.56, 0.04)):
        a = np.radians(angle)
        end = (-reach * radius * np.sin(a), reach * radius * np.cos(a), face + 0.04)
        pieces.append((solids.tube([(0.0, 0.0, face + 0.04), end], thick, 8), "black"))
    pieces.append((solids.sphere(0.07, 12).moved((0.0, 0.0, face + 0.05)), "red"))
    cap = turned([(0.0, -0.3), (1.0, -0.3), (1.0, 0.0), (0.75, 0.5), (0.0, 0.7)], 2, 18).stretched(
        (bell, bell, bell)
    )
    for side in (-1.0, 1.0):
        tip = cap.moved((0.0, radius + 0.14, 0.0)).rotated(rotation_about("z", side * 34.0))
        post = solids.tube([(0.0, 0.9 * radius, 0.0), (0.0, radius + 0.1, 0.0)], 0.05, 8)
        pieces += [(tip, "second"), (post.rotated(rotation_about("z", side * 34.0)), "second")]
        foot = solids.tube([(0.0, -0.9 * radius, 0.0), (0.0, -radius - feet, 0.0)], [0.08, 0.07], 8)
        pieces.append((foot.rotated(rotation_about("z", side * 32.0)), "second"))
    pieces.append((solids.tube([(0.0, radius, 0.0), (0.0, radius + 0.2, 0.0)], [0.05, 0.08], 8), "black"))
    return pieces


def _television(width: float, height: float, depth: float, antenna: float) -> list[Piece]:
    """An old television set on four legs, with a screen, knobs and two aerials."""
    front = 0.5 * depth
    pieces = [_box((width, height, depth), (0.0, 0.0, 0.0), "main")]
    pieces.append(_box((0.70 * width, 0.66 * height, 0.3), (0.0, 0.02, -front - 0.08), "black"))
    pieces.append(_box((0.92 * width, 0.88 * height, 0.04), (0.0, 0.0, front + 0.01), "black"))
    screen = solids.ellipsoid((1.0, 1.0, 0.10), 20).stretched((0.42 * width, 0.32 * height, 1.0))
    pieces.append(_box((0.74 * width, 0.55 * height, 0.06), (0.0, 0.10 * height, front + 0.02), "glass"))
    pieces.append((screen.moved((0.0, 0.10 * height, front - 0.02)), "glass"))
    knob = solids.cylinder(0.065, 0.12, 14).rotated(rotation_about("x", 90.0))
    for x in (0.12, 0.32):
        pieces += _both(knob, (x * width, -0.32 * height, front + 0.05), "second")
    rod = solids.tube([(0.0, 0.0, 0.0), (0.62 * antenna, antenna, 0.0)], 0.045, 8)
    for side in (0.0, 180.0):
        turn = rotation_about("y", side)
        pieces.append((rod.rotated(turn).moved((0.0, 0.5 * height, 0.0)), "gray"))
        ball = solids.sphere(0.075, 10).moved((0.62 * antenna, antenna, 0.0)).rotated(turn)
        pieces.append((ball.moved((0.0, 0.5 * height, 0.0)), "gray"))
    pieces.append((solids.ellipsoid((0.18, 0.10, 0.16), 14).moved((0.0, 0.5 * height, 0.0)), "black"))
    leg = solids.frustum(0.05, 0.08, 0.26, 10)
    for z in (-0.35, 0.35):
        pieces += _both(leg, (0.38 * width, -0.5 * height - 0.10, z * depth), "second")
    return pieces


def _desk(width: float, depth: float, height: float, chest: float) -> list[Piece]:
    """A desk with drawers on both sides of the place for the knees, which is at +Z."""
    pieces = [_box((width, 0.10, depth), (0.0, height, 0.0), "main")]
    x, wide, deep = 0.5 * width - 0.5 * chest - 0.04, chest, depth - 0.10
    pieces += _both(solids.box((wide, height, deep)), (x, 0.5 * height, 0.0), "main")
    pieces.append(_box((width - 0.2, 0.36 * height, 0.06), (0.0, 0.80 * height, -0.5 * deep + 0.05), "main"))
    for row in range(3):
        y = height * (0.20 + 0.29 * row)
        pieces += _both(solids.box((0.84 * wide, 0.24 * height, 0.06)), (x, y, 0.5 * deep), "second")
        pieces += _both(solids.sphere(0.055, 10), (x, y, 0.5 * deep + 0.06), "black")
    pieces.append(_box((width - 2.4 * chest, 0.14, 0.06), (0.0, height - 0.12, 0.5 * deep - 0.03), "second"))
    return pieces


CLASSES: dict[str, ThingClass] = {
    "lamp": ThingClass(
        _lamp,
        {"shade": (0.48, 0.58), "height": (1.15, 1.4), "base": (0.30, 0.38), "slope": (0.50, 0.70)},
        natural=("yellow", "white", "beige", "red", "blue"),
        second=("brown", "black", "white", "gray"),
        front=False,
    ),
    "bed": ThingClass(
        _bed,
        {"width": (1.0, 1.2), "length": (1.4, 1.65), "head": (0.80, 1.0), "cover": (0.58, 0.70)},
        natural=("blue", "red", "green", "purple", "pink"),
        second=("brown", "white", "black"),
    ),
    "sofa": ThingClass(
        _sofa,
        {"width": (1.75, 2.05), "depth": (0.72, 0.86), "arm": (0.20, 0.26), "back": (0.90, 1.05)},
        natural=("red", "brown", "blue", "gray", "green"),
        second=("white", "yellow", "beige", "black"),
    ),
    "armchair": ThingClass(
        _armchair,
        {"width": (0.95, 1.12), "depth": (0.80, 0.92), "arm": (0.20, 0.25), "back": (1.05, 1.25)},
        natural=("green", "brown", "red", "blue", "gray"),
        second=("white", "yellow", "beige", "black"),
    ),
    "stool": ThingClass(
        _stool,
        {"seat": (0.32, 0.40), "height": (0.85, 1.05), "splay": (0.10, 0.18), "thickness": (0.06, 0.075)},
        natural=("red", "black", "brown", "white", "blue"),
        second=("brown", "gray", "black", "white"),
        front=False,
    ),
    "bench": ThingClass(
        _bench,
        {"width": (1.5, 1.8), "depth": (0.52, 0.62), "back": (0.55, 0.68), "slat": (0.14, 0.18)},
        natural=("brown", "green", "beige", "white"),
        second=("black", "gray"),
    ),
    "book": ThingClass(
        _book,
        {"width": (0.72, 0.84), "height": (0.98, 1.15), "opening": (18.0, 32.0), "pages": (0.09, 0.14)},
        natural=("red", "blue", "green", "brown", "black"),
        second=("yellow", "white", "black"),
    ),
    "clock": ThingClass(
        _clock,
        {"radius": (0.54, 0.60), "depth": (0.28, 0.38), "bell": (0.19, 0.23), "feet": (0.12, 0.18)},
        natural=("red", "blue", "yellow", "black", "green"),
        second=("gray", "yellow", "black"),
    ),
    "television": ThingClass(
        _television,
        {"width": (1.15, 1.3), "height": (0.82, 0.95), "depth": (0.48, 0.60), "antenna": (0.42, 0.55)},
        natural=("brown", "red", "gray", "black", "orange"),
        second=("yellow", "white", "gray"),
    ),
    "desk": ThingClass(
        _desk,
        {"width": (1.5, 1.75), "depth": (0.66, 0.80), "height": (0.76, 0.90), "chest": (0.40, 0.48)},
        natural=("brown", "white", "beige", "gray"),
        second=("beige", "white", "brown"),
    ),
}
