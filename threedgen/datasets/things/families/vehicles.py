"""Vehicles on wheels."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid
from threedgen.datasets.things.thing_class import ThingClass

Point = tuple[float, float, float]


def _box(size: Point, at: Point, paint: str = "main") -> Piece:
    return solids.box(size).moved(at), paint


def _profile(outline: list[tuple[float, float]], width: float, paint: str = "main") -> Piece:
    """A convex outline of points (y, z), as wide as `width`."""
    return solids.prism(np.array(outline), width), paint


def _pair(piece: Piece, x: float) -> list[Piece]:
    """The piece twice, at x and at -x."""
    return [(piece[0].moved((side * x, 0.0, 0.0)), piece[1]) for side in (-1.0, 1.0)]


def _along(solid: Solid, axis: str) -> Solid:
    """An upright solid, laid along 'x' or along 'z'."""
    return solid.rotated(
        solids.rotation_about("z", -90.0) if axis == "x" else solids.rotation_about("x", 90.0)
    )


def _wheels(radius: float, width: float, x: float, zs: list[float], hub: str = "hub") -> list[Piece]:
    """Pairs of wheels with hubs on the ground, y = 0, whose tyres end at x and at -x."""
    tyre = _along(solids.cylinder(radius, width, 18), "x")
    cap = _along(solids.cylinder(0.52 * radius, width + 0.04, 14), "x")
    pieces: list[Piece] = []
    for z in zs:
        for solid, paint in ((tyre, "tyre"), (cap, hub)):
            pieces += _pair((solid.moved((0.0, radius, z)), paint), x - 0.5 * width)
    return pieces


def _pane(low: tuple[float, float], high: tuple[float, float], width: float) -> Piece:
    """A window on a slanted edge of a profile between two points (y, z), which leaves a frame."""
    a, b = np.array(low), np.array(high)
    a, b = a + 0.12 * (b - a), b - 0.12 * (b - a)
    across = 0.02 * np.array([a[1] - b[1], b[0] - a[0]]) / np.linalg.norm(b - a)
    return solids.prism(np.array([a - across, b - across, b + across, a + across]), width), "glass"


def _lamps(x: float, y: float, front: float, rear: float, size: float = 0.14) -> list[Piece]:
    lamp = (size, 0.8 * size, 0.05)
    headlights = _pair(_box(lamp, (0.0, y, front), "headlight"), x)
    return headlights + _pair(_box(lamp, (0.0, y, rear), "taillight"), x)


def _bumpers(width: float, y: float, front: float, rear: float, paint: str = "gray") -> list[Piece]:
    return [_box((width, 0.11, 0.10), (0.0, y, z), paint) for z in (front, rear)]


def _car(length: float, width: float, body: float, cabin: float) -> list[Piece]:
    half, floor = 0.5 * length, 0.13
    belt, roof = floor + body, floor + body + cabin
    outline = [
        (floor, -half),
        (floor, half),
        (belt - 0.14, half),
        (belt - 0.06, half - 0.08),
        (belt, 0.3 * half),
    ]
    pieces = [_profile([*outline, (belt, 0.06 - half), (belt - 0.10, -half)], width)]
    rear, front = -0.82 * half, 0.40 * half
    back, top = rear + 0.18, front - 0.30
    pieces.append(
        _profile([(belt - 0.02, rear), (roof, back), (roof, top), (belt - 0.02, front)], 0.86 * width)
    )
    low, high = belt + 0.03, roof - 0.06
    panes = [(low, rear + 0.11), (high, back + 0.04), (high, top - 0.01), (low, front - 0.12)]
    pieces.append(_profile(panes, 0.86 * width + 0.03, "glass"))
    pieces.append(_box((0.86 * width + 0.05, cabin, 0.07), (0.0, belt + 0.5 * cabin, 0.5 * (back + top))))
    pieces += [
        _pane((belt, front), (roof, top), 0.72 * width),
        _pane((belt, rear), (roof, back), 0.68 * width),
    ]
    pieces += _wheels(0.20, 0.17, 0.5 * width + 0.03, [-0.58 * half, 0.60 * half])
    pieces += _lamps(0.34 * width, belt - 0.16, half, -half) + _bumpers(
        0.96 * width, floor + 0.05, half, -half
    )
    return [*pieces, _box((0.30 * width, 0.10, 0.03), (0.0, belt - 0.17, half), "black")]


def _cab(width: float, depth: float, height: float, front: float, floor: float) -> list[Piece]:
    """A driver's cab with a windscreen, windows in its doors and headlights, whose front is at z = `front`."""
    top, rear, belt = floor + height, front - depth, floor + 0.48 * height
    pieces = [
        _profile([(floor, rear), (top, rear), (top, front - 0.12), (belt, front), (floor, front)], width),
        _pane((belt, front), (top, front - 0.12), 0.86 * width),
    ]
    window = [(belt + 0.04, rear + 0.12), (top - 0.08, rear + 0.12), (top - 0.08, front - 0.18)]
    pieces.append(_profile([*window, (belt + 0.04, front - 0.10)], width + 0.03, "glass"))
    pieces.append(_box((0.46 * width, 0.26 * height, 0.03), (0.0, floor + 0.27 * height, front), "black"))
    lamp = _box((0.15, 0.13, 0.05), (0.0, floor + 0.22 * height, front), "headlight")
    return [*pieces, *_pair(lamp, 0.36 * width), _box((width, 0.11, 0.08), (0.0, floor, front), "gray")]


def _truck(length: float, width: float, cab: float, cargo: float) -> list[Piece]:
    half, floor = 0.5 * length, 0.24
    box = 0.68 * length
    pieces = _cab(width, 0.52, cab, half, floor)
    pieces.append(_box((0.7 * width, 0.12, length - 0.08), (0.0, 0.26, -0.02), "black"))
    pieces.append(
        _box((width + 0.06, cargo, box), (0.0, floor + 0.08 + 0.5 * cargo, 0.5 * box - half), "second")
    )
    pieces += _pair(_box((0.14, 0.10, 0.06), (0.0, 0.26, 0.02 - half), "taillight"), 0.34 * width)
    return pieces + _wheels(0.21, 0.18, 0.5 * width + 0.02, [half - 0.30, 0.66 - half, 0.22 - half])


def _bus(length: float, width: float, height: float, stripe: float) -> list[Piece]:
    half, floor = 0.5 * length, 0.14
    top, belt = floor + height, floor + 0.48 * height
    outline = [
        (floor, -half),
        (top - 0.05, -half),
        (top, 0.06 - half),
        (top, half - 0.08),
        (top - 0.08, half),
    ]
    pieces = [_profile([*outline, (floor, half)], width)]
    glass = top - 0.10 - belt
    middle = belt + 0.5 * glass
    step = (length - 0.16) / 6
    for index in range(5):
        z = -half + 0.08 + (index + 0.5) * step
        pieces.append(_box((width + 0.03, glass, step - 0.07), (0.0, middle, z), "glass"))
    door = top - 0.10 - floor - 0.06
    pieces.append(
        _box((width + 0.03, door, step - 0.09), (0.0, floor + 0.06 + 0.5 * door, half - 0.20), "glass")
    )
    pieces.append(_box((0.86 * width, glass, 0.04), (0.0, middle, half), "glass"))
    pieces.append(_box((0.72 * width, 0.8 * glass, 0.04), (0.0, middle, -half), "glass"))
    pieces.append(_box((width + 0.02, stripe, length - 0.36), (0.0, belt - 0.09, -0.18), "second"))
    pieces += _lamps(0.34 * width, floor + 0.15, half, -half) + _bumpers(
        width, floor + 0.03, half, -half, "black"
    )
    return pieces + _wheels(0.18, 0.16, 0.5 * width + 0.02, [-0.55 * half, 0.52 * half])


def _van(length: float, width: float, height: float, slope: float) -> list[Piece]:
    half, floor = 0.5 * length, 0.14
    top, hood = floor + height, floor + 0.5 * height
    base, edge = half - 0.20, half - 0.20 - slope
    body = [(floor, -half), (top - 0.06, -half), (top, 0.06 - half), (top, edge), (hood, base), (floor, base)]
    nose = [(floor, base - 0.2), (hood + 0.03, base - 0.05), (hood - 0.06, half - 0.05), (hood - 0.14, half)]
    pieces = [_profile(body, width), _profile([*nose, (floor, half)], width)]
    pieces.append(_pane((hood, base), (top, edge), 0.84 * width))
    low, high = hood + 0.05, top - 0.10
    window = [(low, edge - 0.16), (high, edge - 0.16), (high, edge - 0.02), (low, base - 0.12)]
    pieces.append(_profile(window, width + 0.03, "glass"))
    pieces += _pair(
        _box((0.38 * width, 0.28 * height, 0.04), (0.0, hood + 0.22 * height, -half), "glass"), 0.23 * width
    )
    pieces += _lamps(0.35 * width, hood - 0.16, half, -half)
    pieces += _bumpers(0.98 * width, floor + 0.05, half, -half, "black")
    pieces.append(_box((0.36 * width, 0.10, 0.03), (0.0, hood - 0.18, half), "black"))
    pieces.append(_box((width + 0.02, 0.05, length - 0.55), (0.0, hood - 0.06, -0.14), "gray"))
    return pieces + _wheels(0.19, 0.17, 0.5 * width + 0.02, [-0.60 * half, 0.60 * half])


def _tractor(wheel: float, hood: float, cab: float, width: float) -> list[Piece]:
    """wheel: the radius of the rear wheels. hood: the length of the hood. cab: the height of the cab."""
    small, rear = 0.56 * wheel, -0.30
    base, top = 0.36, 0.78
    pieces = _wheels(wheel, 0.24, 0.5 * width + 0.10, [rear], "second")
    pieces += _wheels(small, 0.18, 0.5 * width, [hood - 0.14], "second")
    outline = [(base, -0.1), (top, -0.1), (top - 0.05, hood - 0.08), (top - 0.12, hood), (base, hood)]
    pieces.append(_profile(outline, 0.50 * width))
    pieces.append(_box((0.40 * width, 0.26, 0.04), (0.0, base + 0.16, hood), "black"))
    pieces += _pair(_box((0.10, 0.10, 0.06), (0.0, top - 0.17, hood), "headlight"), 0.17 * width)
    pieces.append(_box((0.8 * width, 0.26, 0.12), (0.0, small + 0.07, hood - 0.14), "gray"))
    pieces.append(_box((0.40 * width, 0.34, 0.60), (0.0, 0.52, rear + 0.04)))
    pieces.append(_box((width, 0.12, 0.12), (0.0, wheel, rear), "gray"))
    for turn in (-60.0, -20.0, 20.0, 60.0):
        plate = solids.box((0.26, 0.07, 0.78 * wheel)).moved((0.0, wheel + 0.03, 0.0))
        plate = plate.rotated(solids.rotation_about("x", turn)).moved((0.0, wheel, rear))
        pieces += _pair((plate, "main"), 0.5 * width - 0.05)
    floor, roof = top - 0.12, top + cab
    pieces.append(_box((0.60 * width, roof - floor, 0.50), (0.0, 0.5 * (roof + floor), rear + 0.02), "glass"))
    for z in (rear - 0.22, rear + 0.26):
        pieces += _pair(
            _box((0.09, roof - floor, 0.09), (0.0, 0.5 * (roof + floor), z), "main"), 0.29 * width
        )
    pieces.append(_box((0.70 * width, 0.10, 0.66), (0.0, roof, rear + 0.02)))
    return [
        *pieces,
        (solids.tube([(0.0, top - 0.1, 0.62 * hood), (0.0, top + 0.32, 0.62 * hood)], 0.055), "black"),
    ]


def _train(boiler: float, length: float, cab: float, chimney: float) -> list[Piece]:
    """A steam locomotive. boiler: its radius. cab: the height of the cab above the frame."""
    half, frame = 0.5 * length, 0.34
    axis, rear = frame + boiler, 0.36 * length - half
    front = half - 0.12
    shell = _along(solids.cylinder(boiler, front - rear + 0.1, 24), "z")
    box = _along(solids.cylinder(boiler + 0.03, 0.26, 24), "z")
    pieces: list[Piece] = [
        (shell.moved((0.0, axis, 0.5 * (front + rear) - 0.05)), "main"),
        (box.moved((0.0, axis, front - 0.12)), "black"),
        (_along(solids.cylinder(0.11, 0.14, 14), "z").moved((0.0, axis, front)), "headlight"),
        (
            solids.frustum(0.09, 0.15, chimney, 16).moved((0.0, axis + boiler + 0.3 * chimney, front - 0.14)),
            "black",
        ),
        (solids.ellipsoid((0.13, 0.17, 0.13), 16).moved((0.0, axis + boiler, rear + 0.20)), "yellow"),
    ]
    top, depth, width = frame + cab, rear + half, 2.0 * boiler + 0.14
    pieces.append(_box((width, cab, depth - 0.06), (0.0, frame + 0.5 * cab, 0.5 * depth - half)))
    pieces.append(_box((width + 0.14, 0.10, depth + 0.12), (0.0, top, 0.5 * depth - half), "second"))
    pieces.append(
        _box((width + 0.03, 0.30 * cab, 0.5 * depth), (0.0, top - 0.26 * cab, 0.5 * depth - half), "glass")
    )
    pane = _box((0.20, 0.26 * cab, depth - 0.03), (0.0, top - 0.20 * cab, 0.5 * depth - half), "glass")
    pieces += _pair(pane, 0.3 * width)
    pieces.append(_box((width - 0.10, 0.16, length - 0.10), (0.0, frame - 0.05, 0.0), "black"))
    pieces.append(
        _profile([(0.06, half - 0.12), (0.06, half + 0.12), (frame, half - 0.05)], 0.9 * width, "second")
    )
    wheels = _wheels(0.22, 0.14, 0.5 * width, [0.24 - half, 0.72 - half], "red")
    wheels += _wheels(0.15, 0.14, 0.5 * width, [half - 0.62, half - 0.28], "red")
    rod = _box((0.08, 0.08, 0.70), (0.0, 0.21, 0.48 - half), "gray")
    return pieces + wheels + _pair(rod, 0.5 * width + 0.02)


def _fire_truck(length: float, width: float, height: float, ladder: float) -> list[Piece]:
    """ladder: how far its tip is lifted."""
    half, floor = 0.5 * length, 0.20
    body, top = length - 0.56, floor + height
    pieces = _cab(width, 0.62, height, half, floor)
    pieces.append(_box((width, 0.86 * height, body), (0.0, floor + 0.43 * height, 0.5 * body - half)))
    pieces.append(_box((width + 0.02, 0.10, length - 0.06), (0.0, floor + 0.24 * height, -0.02), "white"))
    for z in (0.26, 0.68):
        shutter = (width + 0.03, 0.36 * height, 0.32)
        pieces.append(_box(shutter, (0.0, floor + 0.58 * height, z - half + 0.02), "gray"))
    pieces += _pair(_box((0.16, 0.09, 0.14), (0.0, top + 0.03, half - 0.30), "blue"), 0.26 * width)
    start, end = (
        np.array([0.86 * height + floor + 0.12, 0.12 - half]),
        np.array([top + 0.12 + ladder, half - 0.30]),
    )
    for x in (-0.17, 0.17):
        rail = [(x, *start), (x, *end)]
        pieces.append((solids.tube(rail, 0.05, sides=8), "white"))
    for share in np.linspace(0.06, 0.94, 8):
        y, z = start + share * (end - start)
        pieces.append(_box((0.34, 0.06, 0.06), (0.0, y, z), "white"))
    pieces.append(_box((0.30, 0.20, 0.30), (0.0, floor + 0.88 * height, 0.30 - half), "gray"))
    pieces += _pair(_box((0.14, 0.12, 0.05), (0.0, floor + 0.16, -half), "taillight"), 0.34 * width)
    return pieces + _wheels(0.21, 0.18, 0.5 * width + 0.02, [half - 0.36, 0.38 - half])


CLASSES: dict[str, ThingClass] = {
    "car": ThingClass(
        _car,
        {"length": (1.44, 1.68), "width": (0.70, 0.80), "body": (0.32, 0.38), "cabin": (0.26, 0.34)},
        natural=("red", "blue", "white", "gray", "black", "yellow", "green"),
    ),
    "truck": ThingClass(
        _truck,
        {"length": (1.75, 2.05), "width": (0.64, 0.74), "cab": (0.66, 0.78), "cargo": (0.78, 0.94)},
        natural=("blue", "red", "green", "yellow", "orange", "white"),
        second=("white", "gray", "beige", "yellow", "brown"),
    ),
    "bus": ThingClass(
        _bus,
        {"length": (1.85, 2.15), "width": (0.62, 0.70), "height": (0.68, 0.80), "stripe": (0.06, 0.10)},
        natural=("yellow", "red", "blue", "green", "white", "orange"),
        second=("black", "white", "gray"),
    ),
    "van": ThingClass(
        _van,
        {"length": (1.50, 1.75), "width": (0.66, 0.76), "height": (0.76, 0.90), "slope": (0.22, 0.32)},
        natural=("white", "blue", "gray", "red", "yellow", "green"),
    ),
    "tractor": ThingClass(
        _tractor,
        {"wheel": (0.38, 0.46), "hood": (0.62, 0.76), "cab": (0.42, 0.54), "width": (0.74, 0.86)},
        natural=("green", "red", "blue", "orange", "yellow"),
        second=("yellow", "white", "red", "gray"),
    ),
    "train": ThingClass(
        _train,
        {"boiler": (0.24, 0.29), "length": (1.50, 1.75), "cab": (0.72, 0.84), "chimney": (0.28, 0.40)},
        natural=("green", "red", "blue", "black"),
        second=("black", "gray", "yellow", "red"),
    ),
    "fire truck": ThingClass(
        _fire_truck,
        {"length": (1.75, 2.05), "width": (0.62, 0.72), "height": (0.62, 0.74), "ladder": (0.02, 0.22)},
        natural=("red",),
        recolored=False,
    ),
}
