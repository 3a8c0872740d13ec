"""Buildings, from houses to wells."""

from __future__ import annotations

import itertools

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid
from threedgen.datasets.things.thing_class import ThingClass

Point = tuple[float, float, float]


def _box(size: Point, at: Point, paint: str = "main") -> Piece:
    return solids.box(size).moved(at), paint


def _turned(pieces: list[Piece], degrees: float) -> list[Piece]:
    """The pieces, rotated about the vertical axis."""
    rotation = solids.rotation_about("y", degrees)
    return [(solid.rotated(rotation), paint) for solid, paint in pieces]


def _moved(pieces: list[Piece], z: float) -> list[Piece]:
    return [(solid.moved((0.0, 0.0, z)), paint) for solid, paint in pieces]


def _front(outline: list[tuple[float, float]], depth: float) -> Solid:
    """A convex outline of points (x, y), extruded along z and centred on z = 0."""
    swapped = np.array(outline)[:, ::-1]
    return solids.prism(swapped, depth).rotated(solids.rotation_about("y", 90.0))


def _arch(
    width: float, height: float, z: float, paint: str, depth: float = 0.06, y: float = 0.0
) -> list[Piece]:
    """A door or window with a round top that stands at the height y in a wall at z."""
    radius = 0.5 * width
    disc = solids.cylinder(radius, depth, 18).rotated(solids.rotation_about("x", 90.0))
    return [
        _box((width, height - radius, depth), (0.0, y + 0.5 * (height - radius), z), paint),
        (disc.moved((0.0, y + height - radius, z)), paint),
    ]


def _gable(width: float, depth: float, y: float, rise: float) -> list[Piece]:
    """A roof in the second paint whose ridge runs along z, on a wall of width x depth, and its gables."""
    over = 0.5 * width + 0.10
    slope = rise / (0.5 * width)
    low = y - 0.10 * slope
    roof = _front(
        [(-over, low), (-over, low + 0.10), (0.0, y + rise + 0.10), (over, low + 0.10), (over, low)], 1.0
    )
    wall = _front([(0.04 - 0.5 * width, low), (0.5 * width - 0.04, low), (0.0, y + rise - 0.10)], 1.0)
    return [
        (roof.stretched((1.0, 1.0, depth + 0.10)), "second"),
        (wall.stretched((1.0, 1.0, depth + 0.13)), "main"),
    ]


def _window(width: float, height: float, at: Point, through: float) -> list[Piece]:
    """A window with a frame in the front and in the back of a wall that is `through` deep, about the point `at`."""
    return [
        _box((width + 0.08, height + 0.08, through + 0.03), at, "white"),
        _box((width, height, through + 0.06), at, "blue"),
    ]


def _house(width: float, depth: float, height: float, roof: float) -> list[Piece]:
    pieces = [_box((width, height, depth), (0.0, 0.5 * height, 0.0))]
    pieces += _turned(_gable(depth, width, height, roof), 90.0)
    front = 0.5 * depth
    pieces.append(_box((0.26, 0.46, 0.06), (0.0, 0.23, front), "brown"))
    pieces.append(_box((0.06, 0.06, 0.10), (0.07, 0.23, front), "yellow"))
    for x in (-0.31 * width, 0.31 * width):
        pieces += _window(0.20, 0.22, (x, 0.56 * height, 0.0), depth)
    side = _turned(_window(0.24, 0.22, (0.0, 0.56 * height, 0.0), width), 90.0)
    chimney = _box((0.18, 0.50, 0.18), (0.28 * width, height + 0.62 * roof, -0.16 * depth), "brown")
    return [*pieces, *side, chimney]


def _merlons(radius: float, y: float, count: int, size: float) -> list[Piece]:
    block = _box((size, 1.1 * size, 0.8 * size), (0.0, y + 0.5 * size, radius - 0.3 * size))
    return [piece for turn in np.arange(count) * 360.0 / count for piece in _turned([block], turn)]


def _castle(width: float, wall: float, tower: float, radius: float) -> list[Piece]:
    """wall, tower: heights of the walls and of the towers. radius: of the towers."""
    half = 0.5 * width
    pieces = [_box((width, wall, width), (0.0, 0.5 * wall, 0.0))]
    for turn in (0.0, 90.0, 180.0, 270.0):
        row = [_box((0.12, 0.14, 0.12), (x * half, wall + 0.05, half - 0.06)) for x in (-0.4, 0.0, 0.4)]
        pieces += _turned(row, turn)
    keep = tower + 0.10
    pieces.append(_box((0.42 * width, keep, 0.42 * width), (0.0, 0.5 * keep, -0.08)))
    for x in (-half, half):
        for z in (-half, half):
            pieces.append((solids.cylinder(radius, tower, 18).moved((x, 0.5 * tower, z)), "main"))
            pieces.append(
                (solids.cone(1.22 * radius, 2.0 * radius, 18).moved((x, tower + radius, z)), "second")
            )
        pieces.append(_box((0.08, 0.16, 0.06), (x, 0.68 * tower, half + radius - 0.02), "black"))
    row = [
        _box((0.10, 0.12, 0.10), (x * width, keep + 0.05, 0.21 * width - 0.05)) for x in (-0.16, 0.0, 0.16)
    ]
    for turn in (0.0, 90.0, 180.0, 270.0):
        pieces += _moved(_turned(row, turn), -0.08)
    pole = [(0.0, keep - 0.05, -0.08), (0.0, keep + 0.40, -0.08)]
    pieces.append((solids.tube(pole, 0.035, sides=8), "brown"))
    pieces.append(_box((0.05, 0.17, 0.26), (0.0, keep + 0.33, -0.23), "second"))
    pieces += _arch(0.40, 0.46, half, "brown", 0.09) + _arch(0.28, 0.40, half + 0.03, "black", 0.09)
    return pieces + _arch(0.14, 0.20, 0.21 * width - 0.08, "black", y=wall + 0.12)


def _tower(height: float, radius: float, crown: float, taper: float) -> list[Piece]:
    """A round tower of stone. crown: the height of its wider top. taper: its upper radius over its lower."""
    top, wide = taper * radius, taper * radius + 0.11
    wall = [
        [0.0, 0.0],
        [radius + 0.06, 0.0],
        [radius + 0.06, 0.10],
        [radius, 0.10],
        [top, height],
        [wide, height + 0.12],
    ]
    rim = height + 0.12 + crown
    crest = [[wide, rim], [wide - 0.09, rim], [wide - 0.09, rim - 0.08], [0.0, rim - 0.08]]
    pieces: list[Piece] = [(solids.lathe(np.array(wall + crest), 22), "main")]
    pieces += _merlons(wide, rim, 8, 0.15)
    pieces += _arch(0.26, 0.42, radius, "brown", 0.10)
    for share, turn in ((0.42, 0.0), (0.78, 0.0), (0.55, 90.0), (0.70, 180.0), (0.55, 270.0), (0.30, 180.0)):
        wall_radius = radius + share * (top - radius)
        pieces += _turned(_arch(0.11, 0.20, wall_radius - 0.01, "black", y=share * height), turn)
    for turn in np.arange(6) * 60.0 + 30.0:
        pieces += _turned([_box((0.10, 0.10, 0.04), (0.0, rim - 0.5 * crown - 0.04, wide), "black")], turn)
    return pieces


def _pyramid(half: float, height: float) -> Solid:
    """A pyramid with its square base at y = 0. half: half the side of the base."""
    base = half * np.array([[1.0, 0.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
    tip = np.array([0.0, height, 0.0])
    corners = [(base[i], base[(i + 1) % 4], tip) for i in range(4)]
    corners += [(base[0], base[2], base[1]), (base[0], base[3], base[2])]
    points = np.array(corners)
    normals = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Solid(points.reshape(-1, 3), np.repeat(normals, 3, axis=0), np.arange(18).reshape(-1, 3))


def _church(width: float, depth: float, tower: float, spire: float) -> list[Piece]:
    """A nave with a tower at its front. tower: its height without its spire. spire: the height of that."""
    wall, rise = 0.50, 0.40
    nave = [_box((width, wall, depth), (0.0, 0.5 * wall, 0.0)), *_gable(width, depth, wall, rise)]
    pieces = _moved(nave, -0.5 * depth)
    side = 0.40
    pieces.append(_box((side, tower, side), (0.0, 0.5 * tower, 0.10)))
    pieces.append((_pyramid(0.5 * side + 0.06, spire).moved((0.0, tower, 0.10)), "second"))
    top = tower + spire
    pieces.append(_box((0.06, 0.30, 0.06), (0.0, top + 0.10, 0.10), "yellow"))
    pieces.append(_box((0.20, 0.06, 0.06), (0.0, top + 0.14, 0.10), "yellow"))
    face = 0.10 + 0.5 * side
    pieces += _arch(0.22, 0.36, face, "brown")
    pieces += _arch(0.14, 0.24, 0.10, "black", side + 0.05, y=tower - 0.34)
    pieces += _turned(_arch(0.14, 0.24, 0.0, "black", side + 0.05, y=tower - 0.34), 90.0)
    for z in (-0.34, -0.58, -0.82):
        window = _turned(_arch(0.15, 0.28, 0.0, "blue", width + 0.05, y=0.14), 90.0)
        pieces += _moved(window, z * depth)
    return pieces


def _lighthouse(height: float, radius: float, taper: float, lamp: float) -> list[Piece]:
    """taper: the radius at the top over that at the foot. lamp: the height of the lantern room."""
    top = taper * radius
    pieces: list[Piece] = []
    bands = 5
    for index in range(bands):
        low, high = (radius + (top - radius) * share / bands for share in (index, index + 1))
        band = solids.frustum(low, high, height / bands, 20)
        pieces.append((band.moved((0.0, (index + 0.5) * height / bands, 0.0)), ("main", "second")[index % 2]))
    pieces.append((solids.cylinder(radius + 0.14, 0.14, 20).moved((0.0, 0.0, 0.0)), "gray"))
    pieces.append((solids.cylinder(top + 0.14, 0.10, 20).moved((0.0, height + 0.03, 0.0)), "black"))
    pieces.append((solids.cylinder(0.72 * top, lamp, 18).moved((0.0, height + 0.5 * lamp, 0.0)), "yellow"))
    for turn in np.arange(6) * 60.0:
        post = _box((0.05, lamp, 0.05), (0.0, height + 0.5 * lamp, 0.76 * top), "black")
        pieces += _turned([post], turn)
    pieces.append((solids.cone(top + 0.06, 0.26, 20).moved((0.0, height + lamp + 0.12, 0.0)), "main"))
    pieces.append((solids.sphere(0.06, 10).moved((0.0, height + lamp + 0.27, 0.0)), "black"))
    pieces += _arch(0.22, 0.36, radius - 0.01, "brown", 0.10)
    for share in (0.48, 0.75):
        pieces += _arch(0.11, 0.16, radius + share * (top - radius) - 0.01, "black", y=share * height)
    return pieces


def _windmill(height: float, radius: float, sail: float, chord: float) -> list[Piece]:
    """sail: the length of a sail. chord: its width."""
    top = 0.66 * radius
    axis, front = height + 0.08, top + 0.20
    cap = np.array([[0.0, 0.0], [top + 0.07, 0.0], [0.8 * top, 0.20], [0.0, 0.36]])
    pieces: list[Piece] = [
        (solids.frustum(radius, top, height, 20).moved((0.0, 0.5 * height, 0.0)), "main"),
        (solids.lathe(cap, 20).moved((0.0, height - 0.02, 0.0)), "second"),
        _box((0.12, 0.12, front), (0.0, axis, 0.5 * front), "brown"),
        (solids.sphere(0.12, 14).moved((0.0, axis, front + 0.02)), "brown"),
    ]
    for turn in (45.0, 135.0, 225.0, 315.0):
        spar = _box((0.07, sail, 0.07), (0.0, 0.5 * sail, 0.0), "brown")
        cloth = _box((chord, 0.74 * sail, 0.05), (0.5 * chord, 0.62 * sail, 0.0), "beige")
        bars = [_box((chord, 0.05, 0.07), (0.5 * chord, y * sail, 0.0), "brown") for y in (0.27, 0.62, 0.97)]
        for solid, paint in (spar, cloth, *bars):
            placed = solid.rotated(solids.rotation_about("z", turn)).moved((0.0, axis, front))
            pieces.append((placed, paint))
    pieces += _arch(0.26, 0.42, radius - 0.03, "brown", 0.12)
    for turn in (90.0, 180.0, 270.0):
        pieces += _turned(_arch(0.16, 0.22, 0.5 * (radius + top), "black", 0.09, y=0.46 * height), turn)
    return pieces


def _barn(width: float, depth: float, wall: float, roof: float) -> list[Piece]:
    """A barn with a roof with two slopes, whose big door with white crosses is at its front."""
    half, front = 0.5 * width, 0.5 * depth
    bend, top = wall + 0.62 * roof, wall + roof
    outline = [
        (-half, 0.0),
        (-half, wall),
        (-0.62 * half, bend),
        (0.0, top),
        (0.62 * half, bend),
        (half, wall),
    ]
    pieces: list[Piece] = [(_front([*outline, (half, 0.0)], depth), "main")]
    line = [(half + 0.07, wall - 0.12), (0.64 * half, bend - 0.03), (0.0, top - 0.01)]
    for (x0, y0), (x1, y1) in (line[:2], line[1:]):
        slab = [(x0, y0), (x1, y1), (x1 - 0.02, y1 + 0.10), (x0 + 0.04, y0 + 0.10)]
        pieces.append((_front(slab, depth + 0.14), "second"))
        pieces.append((_front([(-x, y) for x, y in slab], depth + 0.14), "second"))
    side, tall = 0.52 * width, 0.86 * wall
    pieces.append(_box((side, tall, 0.05), (0.0, 0.5 * tall, front), "white"))
    for x in (-0.25 * side, 0.25 * side):
        pieces.append(_box((0.5 * side - 0.07, tall - 0.10, 0.07), (x, 0.5 * tall, front)))
        for sign in (-1.0, 1.0):
            tilt = np.degrees(np.arctan2(0.5 * side - 0.06, tall - 0.08))
            bar = solids.box((0.06, np.hypot(0.5 * side, tall) - 0.12, 0.09))
            bar = bar.rotated(solids.rotation_about("z", sign * tilt))
            pieces.append((bar.moved((x, 0.5 * tall, front)), "white"))
    pieces.append(_box((0.26, 0.26, depth + 0.05), (0.0, bend - 0.06, 0.0), "white"))
    pieces.append(_box((0.16, 0.16, depth + 0.09), (0.0, bend - 0.06, 0.0), "black"))
    for z in (-0.25 * depth, 0.25 * depth):
        pieces.append(_box((width + 0.03, 0.24, 0.24), (0.0, 0.5 * wall, z), "white"))
        pieces.append(_box((width + 0.06, 0.15, 0.15), (0.0, 0.5 * wall, z), "black"))
    return pieces


def _tent(width: float, height: float, depth: float, opening: float) -> list[Piece]:
    """opening: the width of the entrance at the ground, over the width of the tent."""
    half, front = 0.5 * width, 0.5 * depth
    gap = opening * half
    pieces: list[Piece] = [(_front([(-half, 0.0), (half, 0.0), (0.0, height)], depth), "main")]
    pieces.append(
        (_front([(-gap, 0.0), (gap, 0.0), (0.0, 0.84 * height)], 0.04).moved((0.0, 0.0, front)), "black")
    )
    for side in (-1.0, 1.0):
        flap = [
            (side * gap, 0.0),
            (side * (gap + 0.16), 0.0),
            (side * 0.06, 0.84 * height),
            (0.0, 0.84 * height),
        ]
        pieces.append((_front(flap, 0.08).moved((0.0, 0.0, front)), "second"))
    pieces.append(
        (solids.tube([(0.0, height, -front - 0.06), (0.0, height, front + 0.10)], 0.05, sides=10), "brown")
    )
    for z in (-front - 0.03, front + 0.05):
        pieces.append((solids.tube([(0.0, height - 0.02, z), (0.0, 0.03, z)], 0.035, sides=8), "brown"))
    pieces.append(_box((width + 0.16, 0.06, depth + 0.10), (0.0, 0.0, 0.0), "second"))
    for x in (-1.0, 1.0):
        for z in (-0.8, 0.8):
            rope = [(0.52 * x * half, 0.48 * height, z * front), (x * (half + 0.26), 0.02, z * front)]
            pieces.append((solids.tube(rope, 0.028, sides=6), "beige"))
    return pieces


def _igloo(radius: float, height: float, tunnel: float, length: float) -> list[Piece]:
    """height: of the dome over its radius. tunnel: half the entrance's width. length: of it beyond the dome."""
    angle = np.radians(np.linspace(0.0, 90.0, 9))
    dome = radius * np.column_stack([np.cos(angle), height * np.sin(angle)])
    dome[-1, 0] = 0.0
    pieces: list[Piece] = [(solids.lathe(np.concatenate([[[0.0, 0.0]], dome]), 24), "main")]
    levels = [0.0, 0.27, 0.52, 0.76, 0.95]
    for level in levels[1:]:
        ring = radius * np.sqrt(1.0 - level**2)
        pieces.append((solids.torus(ring, 0.02, 24, 6).moved((0.0, radius * height * level, 0.0)), "glass"))
    for row, (low, high) in enumerate(itertools.pairwise(levels)):
        rise = np.linspace(low, high, 3)
        for turn in (np.arange(8) + 0.5 * (row % 2)) * 0.25 * np.pi:
            out = radius * np.sqrt(1.0 - rise**2)
            line = np.column_stack([out * np.sin(turn), radius * height * rise, out * np.cos(turn)])
            pieces.append((solids.tube(line, 0.02, sides=5), "glass"))
    end = radius + length
    pieces += _arch(2.0 * tunnel, tunnel + 0.26, 0.5 * end, "main", end)
    pieces += _arch(2.0 * tunnel + 0.06, tunnel + 0.29, end - 0.06, "glass", 0.08)
    return pieces + _arch(1.4 * tunnel, 0.7 * tunnel + 0.24, end, "black", 0.05)


def _well(radius: float, wall: float, posts: float, roof: float) -> list[Piece]:
    """wall: the height of the round wall. posts: the height of the eaves. roof: the height of the roof."""
    pieces: list[Piece] = [
        (solids.cup(radius, wall, 0.14, 22).moved((0.0, 0.5 * wall, 0.0)), "main"),
        (solids.torus(radius - 0.06, 0.09, 22, 10).moved((0.0, wall, 0.0)), "gray"),
        (solids.cylinder(radius - 0.1, 0.05, 20).moved((0.0, 0.72 * wall, 0.0)), "blue"),
    ]
    for row, y in enumerate((0.25 * wall, 0.62 * wall)):
        for turn in np.arange(8) * 45.0 + 22.5 * row:
            pieces += _turned([_box((0.16, 0.22 * wall, 0.04), (0.0, y, radius - 0.01), "gray")], turn)
    for x in (-radius + 0.08, radius - 0.08):
        pieces.append(_box((0.11, posts, 0.11), (x, 0.5 * posts, 0.0), "brown"))
    pieces += _turned(_gable(1.5 * radius, 2.0 * radius, posts - 0.04, roof)[:1], 90.0)
    axle = wall + 0.62 * (posts - wall)
    rod = solids.cylinder(0.06, 2.0 * radius + 0.16, 12).rotated(solids.rotation_about("z", 90.0))
    pieces.append((rod.moved((0.0, axle, 0.0)), "brown"))
    pieces.append((solids.tube([(0.0, axle, 0.0), (0.0, wall + 0.1, 0.0)], 0.035, sides=8), "beige"))
    return [*pieces, (solids.frustum(0.11, 0.15, 0.22, 14).moved((0.0, wall + 0.04, 0.0)), "brown")]


CLASSES: dict[str, ThingClass] = {
    "house": ThingClass(
        _house,
        {"width": (1.20, 1.45), "depth": (0.90, 1.05), "height": (0.60, 0.75), "roof": (0.42, 0.55)},
        natural=("beige", "white", "yellow", "brown", "blue", "pink"),
        second=("red", "brown", "gray", "orange"),
    ),
    "castle": ThingClass(
        _castle,
        {"width": (1.05, 1.25), "wall": (0.46, 0.56), "tower": (0.76, 0.90), "radius": (0.19, 0.23)},
        natural=("gray", "beige", "white", "brown"),
        second=("red", "blue", "purple", "green"),
    ),
    "tower": ThingClass(
        _tower,
        {"height": (1.20, 1.50), "radius": (0.36, 0.42), "crown": (0.18, 0.26), "taper": (0.72, 0.88)},
        natural=("gray", "beige", "brown", "white"),
    ),
    "church": ThingClass(
        _church,
        {"width": (0.66, 0.78), "depth": (0.90, 1.10), "tower": (0.95, 1.12), "spire": (0.50, 0.68)},
        natural=("white", "beige", "gray", "brown"),
        second=("red", "gray", "brown", "blue"),
    ),
    "lighthouse": ThingClass(
        _lighthouse,
        {"height": (1.20, 1.50), "radius": (0.34, 0.40), "taper": (0.58, 0.70), "lamp": (0.24, 0.32)},
        natural=("red", "black", "blue"),
        second=("white",),
    ),
    "windmill": ThingClass(
        _windmill,
        {"height": (1.05, 1.25), "radius": (0.40, 0.47), "sail": (0.76, 0.90), "chord": (0.20, 0.26)},
        natural=("white", "beige", "brown", "gray", "red"),
        second=("brown", "red", "gray", "blue"),
    ),
    "barn": ThingClass(
        _barn,
        {"width": (0.95, 1.10), "depth": (1.10, 1.35), "wall": (0.46, 0.54), "roof": (0.40, 0.50)},
        natural=("red", "brown", "white", "gray"),
        second=("gray", "black", "brown", "green"),
    ),
    "tent": ThingClass(
        _tent,
        {"width": (1.15, 1.35), "height": (0.80, 0.95), "depth": (1.10, 1.35), "opening": (0.36, 0.52)},
        natural=("orange", "green", "blue", "red", "yellow"),
        second=("beige", "gray", "yellow"),
    ),
    "igloo": ThingClass(
        _igloo,
        {"radius": (0.72, 0.80), "height": (0.85, 0.98), "tunnel": (0.24, 0.30), "length": (0.22, 0.34)},
        natural=("white",),
        recolored=False,
    ),
    "well": ThingClass(
        _well,
        {"radius": (0.46, 0.54), "wall": (0.42, 0.52), "posts": (1.10, 1.25), "roof": (0.28, 0.36)},
        natural=("gray", "beige", "white", "brown"),
        second=("red", "brown", "orange"),
        front=False,
    ),
}
