"""Hand tools, upright, with their working edge towards +Z."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid
from threedgen.datasets.things.thing_class import ThingClass

Point = tuple[float, float, float]


def _box(size: Point, at: Point, paint: str = "main") -> Piece:
    return solids.box(size).moved(at), paint


def _side(outline: list[tuple[float, float]], thickness: float, paint: str) -> Piece:
    """An upright plate in the plane x = 0 with a convex outline of points (y, z)."""
    return solids.prism(np.array(outline), thickness), paint


def _front(outline: list[tuple[float, float]], depth: float) -> Solid:
    """A convex outline of points (x, y), extruded along z and centred on z = 0."""
    return solids.prism(np.array(outline)[:, ::-1], depth).rotated(solids.rotation_about("y", 90.0))


def _along(solid: Solid) -> Solid:
    """An upright solid, laid along z with its top towards +Z."""
    return solid.rotated(solids.rotation_about("x", 90.0))


def _rod(low: float, high: float, radius: float, paint: str, sides: int = 14) -> Piece:
    """An upright round rod in the middle, between two heights."""
    return solids.cylinder(radius, high - low, sides).moved((0.0, 0.5 * (low + high), 0.0)), paint


def _hammer(height: float, handle: float, head: float, face: float) -> list[Piece]:
    """handle: its radius. head: half the length of the head. face: the radius of the striking face."""
    shaft = [(0.0, handle, 0.0), (0.0, 0.35 * height, 0.0), (0.0, 0.55 * height, 0.0), (0.0, height, 0.0)]
    girth = handle * np.array([1.15, 1.1, 0.8, 0.8])
    pieces: list[Piece] = [(solids.tube(shaft, girth, sides=14), "main")]
    pieces.append((solids.tube(shaft[:2], 1.28 * handle, sides=14), "second"))
    pieces.append(_box((1.5 * face, 1.6 * face, 0.30), (0.0, height, 0.02), "gray"))
    neck, poll = _along(solids.cylinder(0.78 * face, 0.34, 18)), _along(solids.cylinder(face, 0.18, 18))
    pieces.append((neck.moved((0.0, height, 0.24)), "gray"))
    pieces.append((poll.moved((0.0, height, head - 0.09)), "gray"))
    for x in (-0.5, 0.5):
        curve = [(0.8, 0.1, 0.0), (0.95, 0.08, -0.20), (1.1, -0.04, -0.40), (1.15, -0.22, -0.54)]
        line = [(x * face * wide, height + y, z * head / 0.5) for wide, y, z in curve]
        pieces.append((solids.tube(line, [0.09, 0.085, 0.07, 0.045], sides=10), "gray"))
    return pieces


def _screwdriver(handle: float, radius: float, shaft: float, tip: float) -> list[Piece]:
    """handle, shaft: lengths. radius: of the handle. tip: the width of the blade."""
    h, r = handle, radius
    wall = [
        [0.0, 0.0],
        [0.62 * r, 0.0],
        [0.72 * r, 0.12 * h],
        [r, 0.22 * h],
        [r, 0.85 * h],
        [0.72 * r, h],
        [0.0, h],
    ]
    pieces: list[Piece] = [(solids.lathe(np.array(wall), 18), "main")]
    for turn in np.arange(6) * np.pi / 3.0:
        x, z = 0.92 * r * np.sin(turn), 0.92 * r * np.cos(turn)
        pieces.append((solids.tube([(x, 0.30 * h, z), (x, 0.80 * h, z)], 0.26 * r, sides=8), "second"))
    pieces.append(_rod(-0.06, 0.03, 0.75 * r, "black"))
    pieces.append(_rod(-shaft, 0.0, 0.075, "gray"))
    blade = [
        (-0.07, 0.02 - shaft),
        (0.07, 0.02 - shaft),
        (0.5 * tip, -shaft - 0.10),
        (0.5 * tip, -shaft - 0.24),
    ]
    outline = [*blade, (-0.5 * tip, -shaft - 0.24), (-0.5 * tip, -shaft - 0.10)]
    return [*pieces, (_front(outline, 0.07), "gray")]


def _axe(height: float, blade: float, reach: float, handle: float) -> list[Piece]:
    """blade: the length of the edge. reach: how far it is from the handle. handle: its thickness."""
    bend = [(0.0, 0.02, -0.06), (0.0, 0.30 * height, 0.02), (0.0, 0.7 * height, 0.0), (0.0, height, 0.0)]
    girth = handle * np.array([1.3, 0.95, 0.9, 0.95])
    pieces: list[Piece] = [(solids.tube(bend, girth, sides=12), "second")]
    y = height - 0.14
    back, low, high = -0.16, y - 0.5 * blade, y + 0.5 * blade - 0.04
    socket = [(y - 0.13, back), (y + 0.13, back), (y + 0.13, 0.12), (y - 0.13, 0.12)]
    pieces.append(_side(socket, 0.24, "main"))
    cheek = [(y + 0.12, 0.08), (high, reach - 0.06), (y, reach), (low, reach - 0.06), (y - 0.12, 0.08)]
    pieces.append(_side(cheek, 0.13, "main"))
    edge = [
        (high, reach - 0.08),
        (high + 0.02, reach),
        (y, reach + 0.09),
        (low - 0.02, reach),
        (low, reach - 0.08),
    ]
    pieces.append(_side(edge, 0.08, "hub"))
    return pieces


def _shovel(height: float, width: float, blade: float, handle: float) -> list[Piece]:
    """height: of the handle above the blade. width, blade: of the blade and its height. handle: its radius."""
    half = 0.5 * width
    outline = [(-half, 0.0), (half, 0.0), (half, -0.62 * blade), (0.5 * half, -0.9 * blade), (0.0, -blade)]
    plate = _front([*outline, (-0.5 * half, -0.9 * blade), (-half, -0.62 * blade)], 0.08)
    pieces: list[Piece] = [(plate, "gray")]
    for x in (-half + 0.03, half - 0.03):
        pieces.append((solids.tube([(x, -0.02, 0.05), (x, -0.60 * blade, 0.05)], 0.055, sides=10), "gray"))
    pieces.append(
        (solids.tube([(0.03 - half, -0.03, 0.0), (half - 0.03, -0.03, 0.0)], 0.06, sides=10), "gray")
    )
    pieces.append(
        (solids.tube([(0.0, -0.45 * blade, 0.02), (0.0, 0.20, 0.0)], [0.05, 0.10], sides=12), "gray")
    )
    lean = solids.rotation_about("x", -14.0)
    pieces = [(solid.rotated(lean), paint) for solid, paint in pieces]
    pieces.append(_rod(0.10, height, handle, "main"))
    top, wide = height + 0.26, 0.19
    for x in (-wide, wide):
        pieces.append(
            (solids.tube([(0.0, height - 0.04, 0.0), (x, height + 0.10, 0.0), (x, top, 0.0)], 0.06), "main")
        )
    return [*pieces, (solids.tube([(-wide - 0.03, top, 0.0), (wide + 0.03, top, 0.0)], 0.075), "second")]


def _saw(length: float, height: float, taper: float, grip: float) -> list[Piece]:
    """length, height: of the blade. taper: its height at the tip over that at the grip. grip: a radius."""
    tip = taper * height
    pieces = [_side([(0.0, 0.0), (height, 0.0), (tip, length), (0.0, length)], 0.08, "hub")]
    count = 9
    step = length / count
    for index in range(count):
        z = index * step
        pieces.append(_side([(0.01, z), (0.01, z + step), (-0.10, z + 0.6 * step)], 0.08, "gray"))
    ring = (
        solids.torus(grip, 0.10, 20, 12)
        .rotated(solids.rotation_about("z", 90.0))
        .stretched((1.0, 1.25, 0.95))
    )
    pieces.append((ring.moved((0.0, 0.5 * height + 0.02, -grip - 0.02)), "main"))
    pieces.append(_box((0.18, 0.9 * height, 0.18), (0.0, 0.5 * height, 0.02)))
    for y in (0.30 * height, 0.70 * height):
        bolt = solids.cylinder(0.05, 0.22, 12).rotated(solids.rotation_about("z", 90.0))
        pieces.append((bolt.moved((0.0, y, 0.03)), "yellow"))
    return pieces


def _wrench(length: float, width: float, jaw: float, thickness: float) -> list[Piece]:
    """A spanner, flat to the front: open jaws at the top, a ring at the foot. jaw: their radius."""
    pieces = [_box((width, length, 0.8 * thickness), (0.0, 0.0, 0.0))]
    pieces.append(_box((0.5 * width, 0.7 * length, thickness), (0.0, 0.0, 0.0), "second"))
    flat = (1.0, 1.0, 0.5 * thickness / 0.10)
    ring = solids.torus(0.72 * jaw, 0.10, 24, 10).rotated(solids.rotation_about("x", 90.0)).stretched(flat)
    pieces.append((ring.moved((0.0, -0.5 * length - 0.6 * jaw, 0.0)), "main"))
    foot = 0.5 * length - 0.08
    base = [
        (-0.5 * width, 0.0),
        (0.5 * width, 0.0),
        (1.15 * jaw, 0.32),
        (0.9 * jaw, 0.42),
        (-0.9 * jaw, 0.42),
    ]
    pieces.append((_front([*base, (-1.15 * jaw, 0.32)], thickness).moved((0.0, foot, 0.0)), "main"))
    for side in (-1.0, 1.0):
        prong = [(0.42, 0.34), (1.15, 0.30), (1.28, 0.52), (1.0, 0.86), (0.52, 0.76)]
        outline = [(side * x * jaw, y) for x, y in prong]
        pieces.append((_front(outline, thickness).moved((0.0, foot, 0.0)), "main"))
    return pieces


def _brush(width: float, handle: float, bristles: float, depth: float) -> list[Piece]:
    """A flat paint brush with its bristles, wet with paint, at the top. handle, bristles: lengths."""
    half = 0.5 * width
    neck = [(0.0, 0.0, 0.0), (0.0, 0.25 * handle, 0.0), (0.0, 0.55 * handle, 0.0), (0.0, handle, 0.0)]
    girth = np.array([0.10, 0.115, 0.085, 0.10])
    pieces: list[Piece] = [(solids.tube(neck, girth, sides=14), "second")]
    shoulder = [
        (-0.10, handle - 0.16),
        (0.10, handle - 0.16),
        (half - 0.03, handle + 0.10),
        (0.03 - half, handle + 0.10),
    ]
    pieces.append((_front(shoulder, 0.8 * depth), "second"))
    pieces.append(_box((width, 0.22, depth), (0.0, handle + 0.16, 0.0), "gray"))
    low = handle + 0.26
    top = low + bristles
    hair = _box((width - 0.04, 0.5 * bristles, 0.9 * depth), (0.0, low + 0.2 * bristles, 0.0), "beige")
    middle = low + 0.36 * bristles
    wet = [(-half, middle), (half, middle), (half - 0.02, top - 0.08), (0.7 * half, top), (-0.7 * half, top)]
    return [*pieces, hair, (_front([*wet, (0.02 - half, top - 0.08)], depth), "main")]


CLASSES: dict[str, ThingClass] = {
    "hammer": ThingClass(
        _hammer,
        {"height": (1.15, 1.35), "handle": (0.11, 0.13), "head": (0.46, 0.54), "face": (0.15, 0.18)},
        natural=("brown", "red", "yellow", "blue", "orange"),
        second=("black", "brown", "red"),
    ),
    "screwdriver": ThingClass(
        _screwdriver,
        {"handle": (0.72, 0.86), "radius": (0.17, 0.21), "shaft": (0.78, 0.96), "tip": (0.17, 0.23)},
        natural=("red", "yellow", "orange", "blue", "green"),
        second=("black", "gray", "yellow"),
        front=False,
    ),
    "axe": ThingClass(
        _axe,
        {"height": (1.20, 1.40), "blade": (0.54, 0.68), "reach": (0.44, 0.54), "handle": (0.095, 0.115)},
        natural=("gray", "red", "black", "blue"),
        second=("brown", "yellow", "orange"),
    ),
    "shovel": ThingClass(
        _shovel,
        {"height": (0.85, 1.05), "width": (0.58, 0.70), "blade": (0.66, 0.80), "handle": (0.075, 0.095)},
        natural=("brown", "red", "yellow", "green", "blue"),
        second=("black", "brown", "red"),
    ),
    "saw": ThingClass(
        _saw,
        {"length": (1.10, 1.35), "height": (0.40, 0.50), "taper": (0.35, 0.50), "grip": (0.20, 0.24)},
        natural=("brown", "orange", "red", "yellow", "black"),
    ),
    "wrench": ThingClass(
        _wrench,
        {"length": (0.85, 1.10), "width": (0.20, 0.25), "jaw": (0.24, 0.29), "thickness": (0.16, 0.20)},
        natural=("gray", "red", "blue", "black"),
        second=("white", "black", "gray"),
        front=False,
    ),
    "paint brush": ThingClass(
        _brush,
        {"width": (0.44, 0.54), "handle": (0.72, 0.90), "bristles": (0.44, 0.54), "depth": (0.20, 0.24)},
        natural=("blue", "red", "green", "yellow", "white", "purple"),
        second=("brown", "beige", "red", "black"),
        front=False,
    ),
}
