"""Small things of a household: what is worn, carried, kept and lit."""

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


def _umbrella(width: float, height: float, stick: float, hook: float) -> list[Piece]:
    """An open umbrella with gores of two colours, upright, whose hook bends to +Z."""
    angle = np.radians(np.linspace(12.0, 90.0, 9))
    outer = np.column_stack([width * np.cos(angle), height * np.sin(angle)])
    inner = np.column_stack([0.97 * outer[:, 0], 0.94 * outer[:, 1]])[::-1]
    canopy = solids.lathe(np.concatenate([inner[1:], outer]), 32)
    middle = canopy.vertices[canopy.faces].mean(axis=1)
    gore = np.floor(np.degrees(np.arctan2(middle[:, 0], middle[:, 2])) / 45.0).astype(int) % 2
    pieces: list[Piece] = [
        (Solid(canopy.vertices, canopy.normals, canopy.faces[gore == index]), paint)
        for index, paint in enumerate(("main", "second"))
    ]
    pieces.append((solids.tube([(0.0, height + 0.08, 0.0), (0.0, height - stick, 0.0)], 0.055, 10), "gray"))
    turn = np.radians(np.linspace(180.0, 360.0, 9))
    bend = np.column_stack([0.0 * turn, height - stick + hook * np.sin(turn), hook + hook * np.cos(turn)])
    line = np.concatenate([[[0.0, height - stick + 0.2, 0.0]], bend])
    return [*pieces, (solids.tube(line, 0.08, 10), "brown")]


def _hat(brim: float, crown: float, flare: float, curl: float) -> list[Piece]:
    """A top hat with a band."""
    plate = turned(
        [(0.0, 0.0), (0.5 * brim, -0.02), (0.9 * brim, 0.02), (brim, curl), (0.96 * brim, curl + 0.05)]
    )
    upper = turned([(0.96 * brim, curl + 0.05), (0.85 * brim, 0.10), (0.5 * brim, 0.07), (0.0, 0.07)])
    pieces: list[Piece] = [
        (plate.stretched((0.9, 1.0, 1.0)), "main"),
        (upper.stretched((0.9, 1.0, 1.0)), "main"),
    ]
    top = 0.46 * flare
    body = solids.lathe(np.array([[0.46, 0.0], [0.44, 0.5 * crown], [top, crown], [0.0, crown]]), 28)
    pieces.append((body, "main"))
    band = solids.lathe(
        np.array([[0.475, 0.08], [0.465, 0.08 + 0.26 * crown], [0.44, 0.08 + 0.26 * crown]]), 28
    )
    return [*pieces, (band, "second")]


def _key(bow: float, length: float, thickness: float, tooth: float) -> list[Piece]:
    """An old key in the plane (y, z): the ring at the top and the teeth at +Z."""
    ring = solids.torus(bow, thickness, 24, 12).rotated(rotation_about("z", 90.0))
    pieces: list[Piece] = [(ring, "main")]
    start = -bow
    shaft = solids.tube([(0.0, start, 0.0), (0.0, start - length, 0.0)], 0.85 * thickness)
    pieces.append((shaft, "main"))
    collar = solids.cylinder(1.35 * thickness, 0.12, 16)
    pieces += [(collar.moved((0.0, start - y, 0.0)), "main") for y in (0.10, 0.28)]
    for y, reach in ((0.02, 1.0), (0.30, 0.75)):
        size = (1.2 * thickness, 0.17, tooth * reach + thickness)
        pieces.append(_box(size, (0.0, start - length + y, 0.5 * size[2]), "main"))
    return pieces


def _candle(width: float, height: float, dish: float, drip: float) -> list[Piece]:
    """A burning candle in a holder, with a ring to hold it at -Z."""
    plate = turned(
        [(0.0, -0.06), (0.4, -0.06), (0.58, 0.06), (0.62, 0.14), (0.56, 0.14), (0.42, 0.0), (0.0, 0.0)]
    )
    pieces: list[Piece] = [(plate.stretched((dish, 1.0, dish)), "second")]
    pieces.append((solids.cylinder(1.22 * width, 0.24, 20).moved((0.0, 0.08, 0.0)), "second"))
    ring = solids.torus(0.16, 0.06, 20, 10).rotated(rotation_about("z", 90.0))
    pieces.append((ring.moved((0.0, 0.12, -0.62 * dish - 0.08)), "second"))
    pieces.append((solids.cylinder(width, height, 20).moved((0.0, 0.5 * height, 0.0)), "main"))
    pieces.append((solids.torus(0.86 * width, 0.05, 20, 8).moved((0.0, height - 0.01, 0.0)), "main"))
    for index in range(5):
        low = height - drip * (1.0, 0.55, 0.8, 0.45, 0.7)[index]
        line = [(0.0, height - 0.02, 0.96 * width), (0.0, low, 0.98 * width)]
        pieces.append((solids.tube(line, 0.055, 8).rotated(rotation_about("y", 72.0 * index)), "main"))
    pieces.append((solids.tube([(0.0, height, 0.0), (0.0, height + 0.10, 0.0)], 0.03, 6), "black"))
    flame = turned([(0.0, 0.0), (0.08, 0.0), (0.15, 0.12), (0.07, 0.32), (0.0, 0.46)], 2, 16)
    pieces.append((flame.moved((0.0, height + 0.07, 0.0)), "orange"))
    glow = solids.ellipsoid((0.09, 0.11, 0.15), 12)
    return [*pieces, (glow.moved((0.0, height + 0.19, 0.0)), "yellow")]


def _handbag(width: float, height: float, depth: float, handle: float) -> list[Piece]:
    """A bag with a flap and a golden clasp at +Z, and an arched handle."""
    low, high = 0.5 * depth, 0.30 * depth
    profile = np.array([[0.0, -low], [0.0, low], [height, high], [height, -high]])
    pieces: list[Piece] = [(solids.prism(profile, 0.9 * width), "main")]
    for side in (-1.0, 1.0):
        slant = solids.cylinder(1.0, 1.0, 20).stretched((0.12 * width, 0.97 * height, 0.92 * low))
        pieces.append((slant.moved((side * 0.45 * width, 0.485 * height, 0.0)), "main"))
    slope = (low - high) / height
    y0, y1 = 0.48 * height, height + 0.03
    z0, z1 = low - slope * y0, high
    flap = np.array([[y0, z0 - 0.02], [y0, z0 + 0.05], [y1, z1 + 0.05], [y1, z1 - 0.02]])
    pieces.append((solids.prism(flap, 0.86 * width), "second"))
    pieces.append(_box((0.90 * width, 0.06, 2.0 * high + 0.08), (0.0, height, 0.0), "second"))
    pieces.append(_box((0.18, 0.18, 0.08), (0.0, y0 + 0.03, z0 + 0.05), "yellow"))
    angle = np.radians(np.linspace(0.0, 180.0, 13))
    arc = np.column_stack([0.30 * width * np.cos(angle), height + handle * np.sin(angle), 0.0 * angle])
    pieces.append((solids.tube(arc, 0.055, 10), "second"))
    return pieces + _both(solids.sphere(0.085, 12), (0.30 * width, height + 0.03, 0.0), "yellow")


def _shoe(length: float, width: float, ankle: float, sole: float) -> list[Piece]:
    """A sports shoe whose tip is at +Z, with a white sole and white laces."""
    half = 0.5 * length
    front, back = half - 0.5 * width, -half + 0.42 * width
    pieces: list[Piece] = []
    for radius, z in ((0.54 * width, front), (0.46 * width, back)):
        pieces.append((solids.cylinder(radius, sole, 24).moved((0.0, 0.5 * sole, z)), "white"))
    waist = np.array(
        [[-0.46 * width, back], [0.46 * width, back], [0.54 * width, front], [-0.54 * width, front]]
    )
    plate = solids.prism(waist, sole).rotated(rotation_about("z", -90.0))
    pieces.append((plate.moved((0.0, 0.5 * sole, 0.0)), "white"))
    w = 0.5 * width
    path = [(0.0, sole + 0.02, front), (0.0, sole + 0.07, 0.12), (0.0, sole + 0.12, back + 0.04)]
    pieces.append((solids.tube(path, [0.94 * w, 0.92 * w, 0.88 * w], 20), "main"))
    shaft = solids.frustum(0.94, 0.84, ankle, 20).stretched((w, 1.0, 1.15 * w))
    pieces.append((shaft.moved((0.0, sole + 0.5 * ankle, back + 0.06)), "main"))
    collar = solids.torus(0.80, 0.16, 24, 10).stretched((w, 0.4, 1.15 * w))
    pieces.append((collar.moved((0.0, sole + ankle, back + 0.06)), "second"))
    mouth = solids.cylinder(0.78, 0.03, 20).stretched((w, 1.0, 1.15 * w))
    pieces.append((mouth.moved((0.0, sole + ankle + 0.02, back + 0.06)), "black"))
    pieces.append(
        (solids.ellipsoid((0.96 * w, 0.55 * w, 0.5 * w), 16).moved((0.0, sole, front + 0.42 * w)), "white")
    )
    low, high = np.array([sole + 0.98 * w, 0.30 * half]), np.array([sole + ankle - 0.10, back + 1.12 * w])
    for t in (0.0, 0.33, 0.66, 1.0):
        y, z = low + t * (high - low)
        lace = [(-0.55 * w, y - 0.10, z), (0.0, y + 0.02, z + 0.02), (0.55 * w, y - 0.10, z)]
        pieces.append((solids.tube(lace, 0.042, 8), "white"))
    stripe = [(0.0, sole + 0.08, -0.02 * half), (0.0, sole + 0.30, -0.30 * half)]
    return pieces + _both(solids.tube(stripe, 0.07, 8), (0.90 * w, 0.0, 0.0), "second")


def _gift(width: float, height: float, ribbon: float, bow: float) -> list[Piece]:
    """A box with a lid, a ribbon across and a bow of four loops."""
    pieces: list[Piece] = [_box((width, height, width), (0.0, 0.5 * height, 0.0), "main")]
    lid = height - 0.08
    pieces.append(_box((1.10 * width, 0.22, 1.10 * width), (0.0, lid, 0.0), "main"))
    for size in ((ribbon, 1.0), (1.0, ribbon)):
        x, z = (ribbon if s == ribbon else width + 0.03 for s in size)
        pieces.append(_box((x, height, z), (0.0, 0.5 * height, 0.0), "second"))
        x, z = (ribbon if s == ribbon else 1.10 * width + 0.03 for s in size)
        pieces.append(_box((x, 0.25, z), (0.0, lid, 0.0), "second"))
    loop = solids.torus(bow, 0.06, 20, 8).rotated(rotation_about("z", 90.0)).stretched((1.9, 0.75, 1.25))
    loop = loop.moved((0.0, 0.0, 1.15 * bow)).rotated(rotation_about("x", -22.0))
    top = (0.0, lid + 0.15, 0.0)
    pieces += [(solid.moved(top), "second") for solid in around(loop, 4, 45.0)]
    return [*pieces, (solids.sphere(0.12, 14).moved((0.0, lid + 0.22, 0.0)), "second")]


def _crown(width: float, band: float, spike: float) -> list[Piece]:
    """A golden crown with eight points, jewels and a velvet cap."""
    wall = [[0.50, 0.0], [0.56, band], [0.51, band], [0.44, 0.0], [0.50, 0.0]]
    pieces: list[Piece] = [(solids.lathe(np.array(wall), 32), "main")]
    tooth = solids.cone(0.21, spike, 12).stretched((1.0, 1.0, 0.32)).rotated(rotation_about("x", 10.0))
    pieces += [(s, "main") for s in around(tooth.moved((0.0, band + 0.5 * spike - 0.03, 0.565)), 8)]
    ball = solids.sphere(0.075, 12).moved((0.0, band + spike + 0.02, 0.60))
    pieces += [(solid, "main") for solid in around(ball, 8)]
    for y, radius in ((0.03, 0.50), (band, 0.555)):
        pieces.append((solids.torus(radius, 0.05, 32, 8).moved((0.0, y, 0.0)), "main"))
    gem = solids.ellipsoid((0.075, 0.085, 0.05), 10).moved((0.0, 0.52 * band, 0.54))
    for index, solid in enumerate(around(gem, 8)):
        pieces.append((solid, ("second", "blue")[index % 2]))
    cap = solids.ellipsoid((0.50, band + 0.25 * spike, 0.50), 20)
    top = Solid(cap.vertices, cap.normals, cap.faces[cap.vertices[cap.faces].mean(axis=1)[:, 1] > 0.0])
    pieces.append((top.moved((0.0, 0.02, 0.0)), "second"))
    return [(solid.stretched((width, 1.0, width)), paint) for solid, paint in pieces]


def _treasure_chest(width: float, depth: float, height: float, opening: float) -> list[Piece]:
    """An open chest full of gold, with its hinge at -Z and a lock at +Z."""
    pieces: list[Piece] = [_box((width, height, depth), (0.0, 0.5 * height, 0.0), "main")]
    strap = solids.box((0.13, height + 0.03, depth + 0.06))
    pieces += _both(strap, (0.36 * width, 0.5 * height, 0.0), "second")
    for y in (0.05, height - 0.03):
        pieces.append(_box((width + 0.05, 0.10, depth + 0.05), (0.0, y, 0.0), "second"))
    pieces.append(_box((0.24, 0.26, 0.08), (0.0, 0.78 * height, 0.5 * depth + 0.03), "second"))
    pieces.append(_box((0.07, 0.12, 0.04), (0.0, 0.76 * height, 0.5 * depth + 0.07), "black"))
    heap = solids.ellipsoid((0.44 * width, 0.22, 0.44 * depth), 16)
    pieces.append((heap.moved((0.0, height, 0.0)), "yellow"))
    coin = solids.cylinder(0.09, 0.04, 12)
    for index in range(18):
        t, ring = 137.5 * index, np.sqrt((index + 0.5) / 18.0)
        x, z = ring * 0.40 * width * np.sin(np.radians(t)), ring * 0.38 * depth * np.cos(np.radians(t))
        tipped = coin.rotated(rotation_about("x", 35.0)).rotated(rotation_about("y", t))
        pieces.append((tipped.moved((x, height + 0.05 + 0.18 * np.sqrt(1.0 - 0.8 * ring**2), z)), "yellow"))
    for x, z, paint in ((-0.25, 0.22, "red"), (0.22, 0.26, "blue"), (0.02, 0.05, "green")):
        gem = solids.sphere(0.085, 8)
        pieces.append((gem.moved((x * width, height + 0.20 - 0.3 * z, z * depth)), paint))
    arch = np.radians(np.linspace(0.0, 180.0, 13))
    lid: list[Piece] = []
    for scale, wide, paint in ((1.0, width, "main"), (1.06, 0.13, "second")):
        profile = 0.5 * depth * scale * np.column_stack([0.8 * np.sin(arch), np.cos(arch)])
        shell = solids.prism(profile, wide)
        lid += [(shell, paint)] if paint == "main" else _both(shell, (0.36 * width, 0.0, 0.0), paint)
    lid.append(_box((width + 0.05, 0.08, depth + 0.05), (0.0, 0.02, 0.0), "second"))
    lid.append(_box((0.9 * width, 0.05, 0.85 * depth), (0.0, -0.01, 0.0), "black"))
    hinge = (0.0, height, -0.5 * depth)
    turn = rotation_about("x", -opening)
    return pieces + [(s.moved((0.0, 0.0, 0.5 * depth)).rotated(turn).moved(hinge), paint) for s, paint in lid]


def _trash_can(width: float, height: float, taper: float, lid: float) -> list[Piece]:
    """A ribbed can with a lid and two handles."""
    bottom = taper * 0.5
    body = solids.frustum(bottom, 0.5, height, 24).moved((0.0, 0.5 * height, 0.0))
    rib = solids.tube([(0.0, 0.08, bottom + 0.01), (0.0, height - 0.08, 0.5)], 0.045, 6)
    pieces: list[Piece] = [(body, "main")] + [(solid, "main") for solid in around(rib, 14)]
    for y, ring in ((0.03, bottom), (height - 0.06, 0.5)):
        pieces.append((solids.torus(ring, 0.06, 28, 8).moved((0.0, y, 0.0)), "main"))
    cover = turned([(0.0, 0.0), (0.60, 0.0), (0.60, 0.10), (0.40, 0.10 + 0.8 * lid), (0.0, 0.10 + lid)])
    pieces.append((cover.moved((0.0, height, 0.0)), "second"))
    angle = np.radians(np.linspace(0.0, 180.0, 9))
    bow = np.column_stack([0.18 * np.cos(angle), 0.16 * np.sin(angle), 0.0 * angle])
    pieces.append((solids.tube(bow, 0.055, 8).moved((0.0, height + lid + 0.08, 0.0)), "second"))
    for side in (-1.0, 1.0):
        grip = (
            solids.tube(bow, 0.05, 8)
            .rotated(rotation_about("x", 90.0))
            .rotated(rotation_about("y", side * 90.0))
        )
        pieces.append((grip.moved((side * 0.47, 0.72 * height, 0.0)), "second"))
    return [(solid.stretched((width, 1.0, width)), paint) for solid, paint in pieces]


def _telescope(length: float, width: float, tilt: float, legs: float) -> list[Piece]:
    """A telescope on a tripod, which looks up towards +Z."""
    half = 0.5 * length
    tube = [(solids.cylinder(width, 0.75 * length, 20).moved((0.0, 0.10, 0.0)), "main")]
    tube.append((solids.cylinder(1.22 * width, 0.28, 20).moved((0.0, half, 0.0)), "second"))
    tube.append((solids.cylinder(1.02 * width, 0.02, 20).moved((0.0, half + 0.14, 0.0)), "glass"))
    tube.append((solids.cylinder(1.08 * width, 0.08, 20).moved((0.0, 0.0, 0.0)), "second"))
    tube.append((solids.cylinder(0.62 * width, 0.30, 16).moved((0.0, -0.30 * length, 0.0)), "second"))
    tube.append((solids.cylinder(0.78 * width, 0.12, 16).moved((0.0, -0.30 * length - 0.18, 0.0)), "black"))
    turn = rotation_about("x", 90.0 - tilt)
    pieces: list[Piece] = [(solid.rotated(turn), paint) for solid, paint in tube]
    pieces.append((solids.sphere(0.15, 14).moved((0.0, -width - 0.03, 0.0)), "black"))
    leg = solids.tube([(0.0, -width - 0.02, 0.0), (0.0, -width - legs, 0.62 * legs)], [0.07, 0.06], 8)
    return pieces + [(solid, "brown") for solid in around(leg, 3, 60.0)]


CLASSES: dict[str, ThingClass] = {
    "umbrella": ThingClass(
        _umbrella,
        {"width": (0.82, 0.98), "height": (0.46, 0.60), "stick": (1.1, 1.3), "hook": (0.13, 0.17)},
        natural=("red", "blue", "yellow", "purple", "black"),
        second=("white", "yellow", "blue"),
    ),
    "hat": ThingClass(
        _hat,
        {"brim": (0.74, 0.88), "crown": (0.60, 0.78), "flare": (0.95, 1.10), "curl": (0.05, 0.12)},
        natural=("black", "brown", "gray", "white"),
        second=("red", "white", "blue", "yellow"),
        front=False,
    ),
    "key": ThingClass(
        _key,
        {"bow": (0.28, 0.34), "length": (0.95, 1.15), "thickness": (0.09, 0.11), "tooth": (0.26, 0.34)},
        natural=("yellow", "gray", "brown"),
    ),
    "candle": ThingClass(
        _candle,
        {"width": (0.20, 0.25), "height": (0.75, 1.0), "dish": (0.85, 1.0), "drip": (0.30, 0.42)},
        natural=("white", "red", "beige", "pink"),
        second=("yellow", "gray", "brown"),
    ),
    "handbag": ThingClass(
        _handbag,
        {"width": (0.95, 1.15), "height": (0.62, 0.76), "depth": (0.42, 0.52), "handle": (0.38, 0.48)},
        natural=("brown", "red", "black", "pink"),
        second=("black", "brown", "beige", "white"),
    ),
    "shoe": ThingClass(
        _shoe,
        {"length": (1.25, 1.45), "width": (0.46, 0.54), "ankle": (0.40, 0.50), "sole": (0.12, 0.17)},
        natural=("red", "blue", "black", "gray", "green"),
        second=("white", "yellow", "black"),
    ),
    "gift": ThingClass(
        _gift,
        {"width": (0.90, 1.1), "height": (0.72, 1.0), "ribbon": (0.18, 0.24), "bow": (0.17, 0.21)},
        natural=("red", "blue", "green", "purple", "pink"),
        second=("yellow", "white", "red"),
        front=False,
    ),
    "crown": ThingClass(
        _crown,
        {"width": (0.92, 1.08), "band": (0.24, 0.32), "spike": (0.36, 0.50)},
        natural=("yellow", "gray", "orange"),
        second=("red", "purple", "green"),
        recolored=False,
        front=False,
    ),
    "treasure chest": ThingClass(
        _treasure_chest,
        {"width": (1.1, 1.3), "depth": (0.70, 0.82), "height": (0.48, 0.58), "opening": (60.0, 85.0)},
        natural=("brown", "red", "black"),
        second=("gray", "orange", "black"),
    ),
    "trash can": ThingClass(
        _trash_can,
        {"width": (0.92, 1.08), "height": (1.0, 1.2), "taper": (0.78, 0.92), "lid": (0.10, 0.18)},
        natural=("gray", "green", "blue"),
        second=("black", "gray"),
        front=False,
    ),
    "telescope": ThingClass(
        _telescope,
        {"length": (1.4, 1.65), "width": (0.17, 0.21), "tilt": (20.0, 38.0), "legs": (0.85, 1.0)},
        natural=("white", "blue", "red", "black"),
        second=("black", "yellow", "gray"),
    ),
}
