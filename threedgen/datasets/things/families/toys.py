"""Toys."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid
from threedgen.datasets.things.families.animals import ball, eyes, horns, limbs, pair
from threedgen.datasets.things.thing_class import ThingClass


def _teddy_bear(belly: float, head: float, ear: float, limb: float) -> list[Piece]:
    """Sits, with its feet towards +Z."""
    face = 1.72 * belly + 0.75 * head
    pieces: list[Piece] = [
        (ball((belly, 1.05 * belly, 0.9 * belly), (0, belly, 0), 22), "main"),
        (ball((0.68 * belly, 0.72 * belly, 0.5 * belly), (0, 0.95 * belly, 0.48 * belly)), "second"),
        (ball((1.05 * head, 0.95 * head, 0.92 * head), (0, face, 0.05), 20), "main"),
        (ball((0.48 * head, 0.38 * head, 0.4 * head), (0, face - 0.28 * head, 0.85 * head)), "second"),
        (ball((0.17 * head, 0.13 * head, 0.12 * head), (0, face - 0.12 * head, 1.22 * head), 12), "black"),
        (ball((0.08, 0.08, 0.08), (0, face - 0.95 * head, 0.75 * head), 12), "red"),
    ]
    pieces += pair((0.13, 0.1, 0.07), (0.15, face - 0.95 * head, 0.72 * head), "red", 80.0)
    pieces += pair((ear, ear, 0.1), (0.85 * head, face + 0.75 * head, 0), "main")
    pieces += pair((0.6 * ear, 0.6 * ear, 0.06), (0.85 * head, face + 0.75 * head, 0.07), "second")
    pieces += limbs([(0.75 * belly, 1.55 * belly, 0.1), (1.35 * belly, 0.95 * belly, 0.3)], limb, "main")
    pieces += limbs([(0.5 * belly, limb, 0.3), (0.85 * belly, 1.1 * limb, 0.75)], 1.1 * limb, "main")
    pieces += pair((1.15 * limb, 1.3 * limb, 0.1), (0.88 * belly, 1.3 * limb, 0.85), "main")
    pieces += pair((0.75 * limb, 0.85 * limb, 0.06), (0.89 * belly, 1.3 * limb, 0.92), "second")
    return pieces + eyes(0.4 * head, face + 0.15 * head, 0.86 * head, 0.13 * head)


def _doll(head: float, dress: float, leg: float, plait: float) -> list[Piece]:
    """A rag doll with a large head, plaits of the second paint and a dress of the main paint."""
    chest = leg + 0.62
    face = chest + 0.85 * head
    skirt = solids.frustum(dress, 0.2, 0.55, 22).moved((0, leg + 0.3, 0)).stretched((1.0, 1.0, 0.85))
    pieces: list[Piece] = [
        (skirt, "main"),
        (ball((0.24, 0.2, 0.2), (0, chest - 0.08, 0)), "main"),
        (
            solids.torus(dress - 0.02, 0.06, 22, 8).stretched((1.0, 1.0, 0.85)).moved((0, leg + 0.05, 0)),
            "white",
        ),
        (solids.torus(0.19, 0.07, 18, 8).moved((0, chest + 0.03, 0)), "white"),
        (ball((head, 0.95 * head, 0.92 * head), (0, face, 0), 20), "beige"),
        (ball((1.08 * head, 0.95 * head, head), (0, face + 0.22 * head, -0.18 * head), 20), "second"),
        (ball((0.3 * head, 0.08 * head, 0.1 * head), (0, face - 0.42 * head, 0.8 * head), 10), "red"),
    ]
    pieces += pair((0.16 * head, 0.14 * head, 0.1), (0.52 * head, face - 0.2 * head, 0.7 * head), "pink")
    knot = (1.08 * head, face - 0.05)
    pieces += limbs([(*knot, -0.02), (knot[0] + 0.14, face - plait, 0.02)], [0.13, 0.11], "second")
    pieces += pair((0.12, 0.12, 0.12), (knot[0] + 0.01, knot[1] + 0.06, 0), "main")
    pieces += limbs([(0.2, chest - 0.08, 0), (0.36, chest - 0.14, 0.02)], 0.13, "main")
    pieces += limbs([(0.36, chest - 0.14, 0.02), (0.56, chest - 0.22, 0.06)], 0.1, "beige")
    pieces += limbs([(0.16, 0.14, 0), (0.16, leg + 0.1, 0)], 0.11, "white")
    pieces += pair((0.13, 0.11, 0.2), (0.16, 0.1, 0.06), "black")
    return pieces + eyes(0.38 * head, face + 0.1 * head, 0.84 * head, 0.13 * head)


def _toy_train(boiler: float, length: float, cabin: float, funnel: float) -> list[Piece]:
    """A chunky steam engine."""
    half, floor = 0.5 * length, 0.3
    axis = floor + 0.1 + boiler
    lying = solids.rotation_about("x", 90.0)
    back = -half + 0.27
    pieces: list[Piece] = [
        (solids.box((0.62, 0.16, length)).moved((0, floor, 0)), "second"),
        (solids.cylinder(boiler, length - 0.5, 24).rotated(lying).moved((0, axis, 0.22)), "main"),
        (solids.cylinder(1.06 * boiler, 0.1, 24).rotated(lying).moved((0, axis, half - 0.02)), "black"),
        (solids.cylinder(0.12, 0.1, 16).rotated(lying).moved((0, axis, half + 0.05)), "headlight"),
        (solids.box((0.68, cabin, 0.52)).moved((0, floor + 0.5 * cabin, back)), "main"),
        (solids.box((0.8, 0.1, 0.68)).moved((0, floor + cabin, back)), "second"),
        (solids.box((0.7, 0.28, 0.3)).moved((0, floor + cabin - 0.26, back)), "glass"),
        (solids.box((0.46, 0.24, 0.54)).moved((0, floor + cabin - 0.24, back)), "glass"),
        (
            solids.frustum(0.1, 0.19, funnel, 18).moved((0, axis + boiler + 0.4 * funnel, half - 0.22)),
            "black",
        ),
        (ball((0.13, 0.16, 0.13), (0, axis + boiler, 0.08)), "yellow"),
        (
            solids.prism(np.array([[0.08, half], [0.34, half], [0.08, half + 0.24]]), 0.56),
            "second",
        ),
    ]
    wheel = solids.rotation_about("z", 90.0)
    for z, radius in ((back, 0.25), (0.12, 0.18), (half - 0.2, 0.18)):
        for side in (-1, 1):
            rim = solids.cylinder(radius, 0.14, 20).rotated(wheel)
            hub = solids.cylinder(0.45 * radius, 0.04, 14).rotated(wheel)
            pieces.append((rim.moved((side * 0.33, radius, z)), "black"))
            pieces.append((hub.moved((side * 0.41, radius, z)), "yellow"))
    return pieces


def _ball(panels: float, tilt: float, cap: float) -> list[Piece]:
    """A beach ball with a panel of each paint for each whole of `panels`. cap: degrees from its poles."""
    count = 2 * int(panels)
    whole = solids.sphere(0.8, 48)
    middles = whole.vertices[whole.faces].mean(axis=1)
    sector = np.floor((np.arctan2(middles[:, 0], middles[:, 2]) / (2.0 * np.pi) + 1.0) * count)
    heights = np.abs(whole.vertices[whole.faces, 1])  # a whole band of latitude is in the cap or not
    band = 0.5 * (heights.min(axis=1) + heights.max(axis=1))
    main = (sector % 2 == 0) | (band > 0.8 * np.cos(np.radians(cap)))
    lean = solids.rotation_about("x", tilt) @ solids.rotation_about("z", 20.0)
    return [
        (Solid(whole.vertices, whole.normals, whole.faces[chosen]).rotated(lean), paint)
        for chosen, paint in ((main, "main"), (~main, "second"))
    ]


def _rocking_horse(length: float, girth: float, neck: float, rocker: float) -> list[Piece]:
    half, back = 0.5 * length, 0.98
    top, front = back + neck, half + 0.3
    angle = np.radians(np.linspace(-46.0, 46.0, 9))
    rail: list[tuple[float, float, float]] = [
        (0.27, 0.1 + rocker * (1.0 - np.cos(a)), rocker * np.sin(a)) for a in angle
    ]
    pieces: list[Piece] = [
        (solids.tube([(0, back, -half), (0, back, half)], girth, 16), "main"),
        (solids.tube([(0, back, half), (0, top, front)], [0.22, 0.15], 14), "main"),
        (solids.tube([(0, top + 0.03, front), (0, top - 0.2, front + 0.3)], [0.17, 0.12], 14), "main"),
        (
            solids.tube(
                [(0, back + 0.1, -half - 0.18), (0, back, -half - 0.4), (0, back - 0.32, -half - 0.46)], 0.09
            ),
            "black",
        ),
        (
            solids.cylinder(1.1 * girth, 0.36, 20)
            .rotated(solids.rotation_about("x", 90.0))
            .moved((0, back, 0)),
            "second",
        ),
        (solids.box((0.62, 0.09, 0.14)).moved((0, rail[1][1], rail[1][2])), "second"),
        (solids.box((0.62, 0.09, 0.14)).moved((0, rail[-2][1], rail[-2][2])), "second"),
        (solids.tube([(-0.28, top - 0.06, front), (0.28, top - 0.06, front)], 0.055, 10), "second"),
    ]
    for along in np.linspace(0.15, 1.0, 5):
        at = (0.0, back + 0.12 + along * (neck + 0.02), half - 0.18 + along * (front - half))
        pieces.append((ball((0.08, 0.16, 0.11), at, 12), "black"))
    pieces += limbs(rail, 0.085, "second")
    pieces += limbs([(0.14, back, 0.8 * half), rail[6]], 0.09, "main")
    pieces += limbs([(0.14, back, -0.8 * half), rail[2]], 0.09, "main")
    pieces += horns(0.07, 0.2, (0.1, top + 0.1, front - 0.02), "main", 8.0)
    return pieces + eyes(0.14, top, front + 0.14, 0.05)


def _balloon(width: float, height: float, string: float, sway: float) -> list[Piece]:
    knot = -height - 0.1
    steps = np.linspace(0.0, 1.0, 8)
    cord = np.column_stack([sway * np.sin(7.0 * steps), knot - string * steps, 0.0 * steps])
    taper = solids.frustum(0.06, 0.42 * width, 0.34 * height, 20).moved((0, -0.93 * height, 0))
    return [
        (solids.ellipsoid((width, height, width), 24), "main"),
        (taper, "main"),
        (solids.cone(0.13, 0.14, 14).moved((0, knot - 0.02, 0)), "main"),
        (solids.tube(cord, 0.05, 8), "second"),
    ]


def _toy_block_tower(size: float, turn: float, shrink: float, shift: float) -> list[Piece]:
    """Three blocks with discs on their sides, and a roof."""
    pieces: list[Piece] = []
    floor, edge = 0.0, size
    for index, paint in enumerate(("main", "second", "yellow")):
        spin, at = (
            solids.rotation_about("y", (-1) ** index * turn),
            ((-1) ** index * shift, floor + 0.5 * edge, 0.0),
        )
        pieces.append((solids.box((edge, edge, edge)).rotated(spin).moved(at), paint))
        disc = solids.cylinder(0.3 * edge, edge + 0.03, 18)
        for axis in ("x", "z"):
            lying = disc.rotated(solids.rotation_about(axis, 90.0)).rotated(spin)
            pieces.append((lying.moved(at), "white"))
        floor, edge = floor + edge, shrink * edge
    roof = solids.prism(np.array([[0.0, -0.55 * edge], [0.6 * edge, 0.0], [0.0, 0.55 * edge]]), edge)
    pieces.append((roof.moved((shift, floor, 0.0)), "main"))
    return pieces


CLASSES: dict[str, ThingClass] = {
    "teddy bear": ThingClass(
        _teddy_bear,
        {"belly": (0.38, 0.45), "head": (0.33, 0.38), "ear": (0.13, 0.17), "limb": (0.14, 0.17)},
        natural=("brown", "beige", "white", "pink"),
        second=("beige", "white"),
    ),
    "doll": ThingClass(
        _doll,
        {"head": (0.31, 0.37), "dress": (0.38, 0.46), "leg": (0.34, 0.44), "plait": (0.4, 0.52)},
        natural=("pink", "blue", "red", "purple", "green"),
        second=("yellow", "orange", "brown"),
    ),
    "toy train": ThingClass(
        _toy_train,
        {"boiler": (0.25, 0.29), "length": (1.3, 1.5), "cabin": (0.85, 0.98), "funnel": (0.28, 0.38)},
        natural=("red", "blue", "green"),
        second=("blue", "yellow", "black"),
    ),
    "ball": ThingClass(
        _ball,
        {"panels": (2.0, 4.9), "tilt": (10.0, 40.0), "cap": (13.0, 24.0)},
        natural=("red", "blue", "green", "orange"),
        second=("white", "yellow"),
        front=False,
    ),
    "rocking horse": ThingClass(
        _rocking_horse,
        {"length": (0.68, 0.8), "girth": (0.23, 0.27), "neck": (0.46, 0.56), "rocker": (0.95, 1.1)},
        natural=("brown", "white", "beige"),
        second=("red", "blue", "green"),
    ),
    "balloon": ThingClass(
        _balloon,
        {"width": (0.52, 0.6), "height": (0.62, 0.72), "string": (0.6, 0.85), "sway": (0.03, 0.08)},
        natural=("red", "blue", "yellow", "green", "pink", "purple"),
        second=("white", "gray"),
        front=False,
    ),
    "toy block tower": ThingClass(
        _toy_block_tower,
        {"size": (0.7, 0.8), "turn": (5.0, 16.0), "shrink": (0.8, 0.95), "shift": (0.02, 0.07)},
        natural=("red", "blue", "green"),
        second=("blue", "green", "orange"),
        front=False,
    ),
}
