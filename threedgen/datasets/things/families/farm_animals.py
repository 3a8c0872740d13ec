"""Farm animals and birds."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.things.families.animals import (
    ball,
    eyes,
    horns,
    legs,
    limbs,
    pair,
    spots_on_ellipsoid,
    spots_on_tube,
)
from threedgen.datasets.things.thing_class import ThingClass


def _horse(length: float, leg: float, girth: float, neck: float) -> list[Piece]:
    back, half = leg + 0.75 * girth, 0.5 * length
    top, front = back + neck, half + 0.32
    pieces: list[Piece] = [
        (solids.tube([(0, back, -half), (0, back, half)], [girth, girth], 16), "main"),
        (solids.tube([(0, back, half + 0.02), (0, top, front)], [0.23, 0.16], 14), "main"),
        (solids.tube([(0, top + 0.04, front), (0, top - 0.26, front + 0.36)], [0.17, 0.12], 14), "main"),
        (ball((0.13, 0.12, 0.11), (0, top - 0.3, front + 0.41)), "beige"),
        (
            solids.tube(
                [(0, back + 0.12, -half - 0.2), (0, back, -half - 0.42), (0, back - 0.5, -half - 0.5)],
                [0.08, 0.12, 0.07],
            ),
            "second",
        ),
        (solids.tube([(0, top + 0.16, front + 0.1), (0, top + 0.2, front - 0.08)], [0.07, 0.09]), "second"),
    ]
    for along in np.linspace(0.1, 1.0, 5):
        at = (0.0, back + 0.12 + along * (neck + 0.02), half - 0.19 + along * (front - half))
        pieces.append((ball((0.08, 0.17, 0.11), at, 12), "second"))
    pieces += legs(0.58 * girth, half, -half, leg, 0.1, "main", "black")
    pieces += horns(0.07, 0.22, (0.1, top + 0.12, front - 0.02), "main", 8.0)
    return pieces + eyes(0.14, top - 0.01, front + 0.15, 0.05)


def _cow(length: float, leg: float, girth: float, horn: float) -> list[Piece]:
    back, half = leg + 0.7 * girth, 0.5 * length
    face, front = back + 0.3, half + 0.42
    ends, radii = ((0.0, back, -half), (0.0, back + 0.02, half)), (girth, girth)
    pieces: list[Piece] = [
        (solids.tube(list(ends), girth, 18), "main"),
        (solids.tube([(0, back + 0.05, half), (0, face - 0.02, front - 0.1)], 0.22), "main"),
        (solids.tube([(0, face + 0.06, front), (0, face - 0.16, front + 0.2)], [0.24, 0.19], 14), "main"),
        (ball((0.23, 0.16, 0.15), (0, face - 0.22, front + 0.3)), "pink"),
        (ball((0.2, 0.16, 0.2), (0, back - girth, -half + 0.1)), "pink"),
        (solids.tube([(0, back + 0.15, -half - girth), (0, leg - 0.1, -half - girth - 0.1)], 0.05), "main"),
        (ball((0.08, 0.14, 0.08), (0, leg - 0.15, -half - girth - 0.1), 12), "second"),
        (ball((0.16, 0.14, 0.16), (0.12, face + 0.15, front + 0.02), 14), "second"),
    ]
    places = [
        (0.15, 60.0, 0.24),
        (0.75, 80.0, 0.2),
        (0.85, -50.0, 0.22),
        (0.3, -85.0, 0.23),
        (1.15, 10.0, 0.15),
    ]
    pieces += spots_on_tube(ends, radii, [*places, (-0.3, -30.0, 0.18), (0.5, 5.0, 0.15)], "second")
    pieces += legs(0.58 * girth, half, -half, leg, 0.12, "main", "black")
    pieces += horns(0.075, horn, (0.15, face + 0.2, front - 0.05), "beige", 35.0)
    pieces += pair((0.16, 0.08, 0.06), (0.32, face + 0.1, front - 0.05), "second", 15.0)
    pieces += pair((0.04, 0.05, 0.03), (0.1, face - 0.2, front + 0.43), "black", segments=10)
    return pieces + eyes(0.13, face + 0.07, front + 0.21, 0.055)


def _pig(length: float, leg: float, girth: float, ear: float) -> list[Piece]:
    back, half = leg + 0.75 * girth, 0.5 * length
    face, front = back + 0.12, half + 0.36
    snout = solids.cylinder(0.16, 0.22, 18).rotated(solids.rotation_about("x", 90.0))
    turn = np.radians(np.linspace(0.0, 450.0, 12))
    curl = np.column_stack(
        [
            0.09 * np.sin(turn),
            back + 0.16 + 0.09 * np.cos(turn),
            -half - 0.8 * girth - np.linspace(0.0, 0.28, 12),
        ]
    )
    pieces: list[Piece] = [
        (solids.tube([(0, back, -half), (0, back, half)], [girth, 0.97 * girth], 18), "main"),
        (ball((0.34, 0.32, 0.3), (0, face, front)), "main"),
        (snout.moved((0, face - 0.06, front + 0.32)), "second"),
        (solids.tube(curl, 0.05, 8), "second"),
    ]
    pieces += pair((0.04, 0.055, 0.03), (0.06, face - 0.06, front + 0.42), "black", segments=10)
    pieces += legs(0.55 * girth, half, -half, leg, 0.13, "main", "second")
    pieces += horns(0.15, ear, (0.2, face + 0.22, front + 0.02), "second", 22.0, 0.45)
    return pieces + eyes(0.16, face + 0.12, front + 0.24, 0.05)


def _sheep(length: float, leg: float, girth: float, head: float) -> list[Piece]:
    back, half = leg + 0.7 * girth, 0.5 * length
    face, front = back + 0.2, half + 0.5
    pieces: list[Piece] = [(solids.tube([(0, back, -half), (0, back, half)], girth, 14), "main")]
    for along in (-1.35, -0.7, 0.0, 0.7, 1.35):
        reach = 0.55 * girth if abs(along) > 1.0 else 0.85 * girth
        for angle in np.radians(np.arange(0.0, 360.0, 60.0) + 30.0 * (along in (-0.7, 0.7))):
            at = (reach * np.sin(angle), back + reach * np.cos(angle), along * (half + 0.08))
            pieces.append((ball((0.2, 0.2, 0.2), at, 10), "main"))
    pieces += [
        (
            solids.tube([(0, face, front - 0.15), (0, face - 0.12, front + 0.16)], [head, 0.75 * head], 14),
            "second",
        ),
        (ball((0.22, 0.16, 0.18), (0, face + 0.85 * head, front - 0.12), 14), "main"),
        (ball((0.1, 0.13, 0.1), (0, back + 0.12, -half - girth - 0.05), 12), "main"),
    ]
    pieces += legs(0.5 * girth, half, -half, leg, 0.1, "second", "second")
    pieces += pair((0.17, 0.075, 0.07), (head + 0.1, face + 0.05, front - 0.1), "second", 20.0)
    pieces += pair((0.06, 0.06, 0.05), (0.12, face + 0.07, front + 0.13), "white", segments=10)
    return pieces + eyes(0.13, face + 0.07, front + 0.18, 0.035)


def _feet(x: float, z: float, height: float, paint: str) -> list[Piece]:
    """Two legs of a bird with broad feet on the ground y = 0."""
    feet = pair((0.12, 0.05, 0.18), (x, 0.05, z + 0.07), paint)
    return feet + limbs([(x, 0.06, z), (x, height, z)], 0.06, paint)


def _chicken(girth: float, length: float, neck: float, comb: float, tail: float) -> list[Piece]:
    middle = 0.3 + girth
    top, front = middle + neck, 0.62 * length
    beak = solids.cone(0.1, 0.24, 14).rotated(solids.rotation_about("x", 90.0))
    pieces: list[Piece] = [
        (ball((0.9 * girth, girth, length), (0, middle, 0)), "main"),
        (solids.tube([(0, middle + 0.05, 0.5 * length), (0, top, front)], [0.25, 0.17], 14), "main"),
        (ball((0.2, 0.2, 0.2), (0, top + 0.04, front)), "main"),
        (beak.moved((0, top + 0.02, front + 0.27)), "orange"),
        (ball((0.07, 0.13, 0.07), (0, top - 0.15, front + 0.19), 12), "red"),
    ]
    for z, size in ((0.14, 0.8), (0.0, 1.0), (-0.13, 0.8)):
        pieces.append((ball((0.065, size * comb, 0.085), (0, top + 0.2, front + z), 12), "red"))
    for angle in (20.0, 45.0, 70.0):
        feather = solids.ellipsoid((0.09, tail, 0.14), 14).moved((0, 0.75 * tail, 0))
        feather = feather.rotated(solids.rotation_about("x", -angle))
        pieces.append((feather.moved((0, middle + 0.1, -0.72 * length)), "second"))
    for side in (-1, 1):
        wing = solids.ellipsoid((0.1, 0.2, 0.32), 16).rotated(solids.rotation_about("x", 15.0))
        pieces.append((wing.moved((side * 0.86 * girth, middle + 0.03, -0.08)), "second"))
    pieces += _feet(0.16, 0.0, 0.45, "orange")
    return pieces + eyes(0.14, top + 0.08, front + 0.13, 0.05)


def _duck(girth: float, length: float, neck: float, head: float) -> list[Piece]:
    middle = girth + 0.1
    top, front = middle + neck, 0.55 * length
    pieces: list[Piece] = [
        (ball((girth, 0.85 * girth, length), (0, middle, 0)), "main"),
        (solids.tube([(0, middle, 0.5 * length), (0, top, front)], [0.24, 0.18], 14), "main"),
        (ball((head, head, head), (0, top + 0.05, front)), "main"),
        (ball((0.17, 0.05, 0.24), (0, top + 0.02, front + head + 0.1), 16), "orange"),
        (ball((0.14, 0.045, 0.18), (0, top - 0.05, front + head + 0.06), 16), "orange"),
        (
            solids.tube(
                [(0, middle + 0.1, -0.7 * length), (0, middle + 0.38, -1.12 * length)], [0.22, 0.07], 14
            ),
            "main",
        ),
    ]
    for side in (-1, 1):
        wing = solids.ellipsoid((0.1, 0.22, 0.38), 16).rotated(solids.rotation_about("x", 15.0))
        pieces.append((wing.moved((side * 0.93 * girth, middle + 0.08, -0.1)), "second"))
    pieces += pair((0.15, 0.05, 0.22), (0.2, 0.05, 0.25), "orange")
    pieces += limbs([(0.2, 0.06, 0.18), (0.2, 0.3, 0.12)], 0.07, "orange")
    return pieces + eyes(0.55 * head, top + 0.05 + 0.35 * head, front + 0.72 * head, 0.055)


def _bird(girth: float, length: float, head: float, tail: float) -> list[Piece]:
    """A songbird that stands, with its wings folded."""
    middle, slope = 0.62, solids.rotation_about("x", -28.0)
    face, front = middle + 0.4, 0.34
    body = solids.ellipsoid((girth, girth, length), 20).rotated(slope)
    belly = solids.ellipsoid((0.85 * girth, 0.85 * girth, 0.85 * length), 18).rotated(slope)
    feather = solids.box((0.26, 0.08, tail)).moved((0, 0, -0.5 * tail)).rotated(slope)
    beak = solids.cone(0.09, 0.26, 14).rotated(solids.rotation_about("x", 90.0))
    pieces: list[Piece] = [
        (body.moved((0, middle, 0)), "main"),
        (belly.moved((0, middle - 0.07, 0.09)), "second"),
        (feather.moved((0, middle - 0.16, -0.72 * length)), "main"),
        (ball((head, head, head), (0, face, front)), "main"),
        (beak.moved((0, face - 0.02, front + head + 0.08)), "orange"),
    ]
    for side in (-1, 1):
        wing = solids.ellipsoid((0.08, 0.19, 0.42), 16).rotated(slope)
        pieces.append((wing.moved((side * 0.95 * girth, middle - 0.02, -0.14)), "main"))
        tip = solids.ellipsoid((0.075, 0.13, 0.26), 14).rotated(slope)
        pieces.append((tip.moved((side * 0.98 * girth, middle - 0.12, -0.36)), "black"))
    pieces += _feet(0.14, 0.02, 0.45, "orange")
    return pieces + eyes(0.6 * head, face + 0.25 * head, front + 0.7 * head, 0.06)


def _owl(girth: float, height: float, eye: float, tuft: float) -> list[Piece]:
    face = height - 0.3
    beak = solids.cone(0.08, 0.2, 12).rotated(solids.rotation_about("x", 130.0))
    pieces: list[Piece] = [
        (ball((girth, 0.5 * height, 0.85 * girth), (0, 0.5 * height, 0), 22), "main"),
        (ball((0.95 * girth, 0.34, 0.8 * girth), (0, face, 0.02), 20), "main"),
        (ball((0.75 * girth, 0.36 * height, 0.7 * girth), (0, 0.4 * height, 0.2 * girth)), "second"),
        (beak.moved((0, face - 0.08, 0.84 * girth)), "orange"),
        (
            solids.box((0.3, 0.3, 0.1))
            .rotated(solids.rotation_about("x", 30.0))
            .moved((0, 0.14, -0.75 * girth)),
            "main",
        ),
    ]
    pieces += pair((eye, eye, 0.12), (0.92 * eye, face + 0.03, 0.66 * girth), "white")
    pieces += pair((0.5 * eye, 0.5 * eye, 0.06), (0.88 * eye, face + 0.03, 0.66 * girth + 0.1), "black")
    pieces += pair((0.13, 0.36, 0.27), (0.95 * girth, 0.48 * height, -0.03), "main", 8.0)
    pieces += horns(0.15, tuft, (0.55 * girth, face + 0.18, 0.05), "main", 20.0, 0.7)
    back = [
        (150.0, 15.0, 0.09),
        (180.0, 0.0, 0.09),
        (210.0, 15.0, 0.09),
        (165.0, -25.0, 0.09),
        (195.0, -25.0, 0.09),
    ]
    pieces += spots_on_ellipsoid((0, 0.5 * height, 0), (girth, 0.5 * height, 0.85 * girth), back, "second")
    front = [(-22.0, 10.0, 0.06), (22.0, 10.0, 0.06), (0.0, -12.0, 0.06)]
    breast = (0.75 * girth, 0.36 * height, 0.7 * girth)
    pieces += spots_on_ellipsoid((0, 0.4 * height, 0.2 * girth), breast, front, "main")
    return pieces + pair((0.13, 0.08, 0.16), (0.17, 0.06, 0.6 * girth), "orange")


def _penguin(girth: float, height: float, head: float, flipper: float) -> list[Piece]:
    face = height + 0.45 * head
    beak = solids.cone(0.1, 0.26, 14).rotated(solids.rotation_about("x", 90.0))
    pieces: list[Piece] = [
        (ball((girth, 0.55 * height, 0.9 * girth), (0, 0.54 * height, 0), 22), "main"),
        (ball((0.82 * girth, 0.47 * height, 0.75 * girth), (0, 0.48 * height, 0.22 * girth), 20), "white"),
        (ball((head, 0.95 * head, head), (0, face, 0.02)), "main"),
        (beak.moved((0, face - 0.1 * head, head + 0.1)), "orange"),
        (
            solids.cone(0.15, 0.26, 12)
            .rotated(solids.rotation_about("x", -110.0))
            .moved((0, 0.16, -0.9 * girth)),
            "main",
        ),
    ]
    pieces += pair((0.4 * head, 0.45 * head, 0.2), (0.38 * head, face + 0.02, 0.86 * head - 0.1), "white")
    pieces += eyes(0.4 * head, face + 0.15 * head, 0.92 * head, 0.055)
    pieces += pair((0.09, flipper, 0.2), (1.05 * girth, 0.62 * height, 0.0), "main", -22.0)
    return pieces + pair((0.17, 0.07, 0.25), (0.2, 0.06, 0.5 * girth), "orange")


CLASSES: dict[str, ThingClass] = {
    "horse": ThingClass(
        _horse,
        {"length": (0.75, 0.95), "leg": (0.62, 0.75), "girth": (0.26, 0.31), "neck": (0.5, 0.62)},
        natural=("brown", "white", "gray", "beige"),
        second=("black",),
    ),
    "cow": ThingClass(
        _cow,
        {"length": (0.7, 0.85), "leg": (0.45, 0.56), "girth": (0.36, 0.42), "horn": (0.2, 0.28)},
        natural=("white", "beige"),
        second=("black", "brown"),
    ),
    "pig": ThingClass(
        _pig,
        {"length": (0.55, 0.7), "leg": (0.3, 0.4), "girth": (0.36, 0.44), "ear": (0.22, 0.3)},
        natural=("pink",),
        second=("pink", "beige"),
    ),
    "sheep": ThingClass(
        _sheep,
        {"length": (0.5, 0.62), "leg": (0.38, 0.48), "girth": (0.34, 0.4), "head": (0.19, 0.23)},
        natural=("white", "beige", "gray"),
        second=("black", "beige", "brown"),
    ),
    "chicken": ThingClass(
        _chicken,
        {
            "girth": (0.33, 0.39),
            "length": (0.46, 0.54),
            "neck": (0.48, 0.58),
            "comb": (0.12, 0.15),
            "tail": (0.24, 0.3),
        },
        natural=("white", "brown", "beige", "orange"),
        second=("white", "brown", "black"),
    ),
    "duck": ThingClass(
        _duck,
        {"girth": (0.34, 0.4), "length": (0.54, 0.64), "neck": (0.46, 0.58), "head": (0.23, 0.28)},
        natural=("yellow", "white"),
        second=("yellow", "white"),
    ),
    "bird": ThingClass(
        _bird,
        {"girth": (0.28, 0.33), "length": (0.48, 0.56), "head": (0.22, 0.26), "tail": (0.4, 0.5)},
        natural=("blue", "red", "yellow", "brown", "green"),
        second=("white", "orange", "yellow"),
    ),
    "owl": ThingClass(
        _owl,
        {"girth": (0.4, 0.47), "height": (1.05, 1.2), "eye": (0.17, 0.2), "tuft": (0.24, 0.32)},
        natural=("brown", "white", "gray"),
        second=("beige", "white"),
    ),
    "penguin": ThingClass(
        _penguin,
        {"girth": (0.38, 0.45), "height": (0.9, 1.05), "head": (0.27, 0.31), "flipper": (0.3, 0.36)},
        natural=("black", "blue", "gray"),
    ),
}
