"""People, a robot and a snowman."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.things.families.animals import ball, eyes, limbs, pair
from threedgen.datasets.things.thing_class import ThingClass


def _tone(value: float, paints: tuple[str, ...]) -> str:
    """The paint for a value in [0, 1], of which each has an equal part."""
    return paints[min(int(value * len(paints)), len(paints) - 1)]


def _skin(value: float) -> str:
    return _tone(value, ("brown", "beige", "beige", "beige"))


def _face(head: float, height: float, skin: str) -> list[Piece]:
    """A head with its middle at `height`, without hair."""
    pieces: list[Piece] = [
        (ball((0.92 * head, head, 0.92 * head), (0, height, 0), 20), skin),
        (ball((0.14 * head, 0.16 * head, 0.16 * head), (0, height - 0.1 * head, 0.95 * head), 10), skin),
        (ball((0.26 * head, 0.07 * head, 0.1 * head), (0, height - 0.45 * head, 0.78 * head), 10), "red"),
    ]
    return pieces + eyes(0.36 * head, height + 0.12 * head, 0.82 * head, 0.13 * head)


def _man(shoulder: float, leg: float, head: float, skin: float, hair: float) -> list[Piece]:
    tone, locks = _skin(skin), _tone(hair, ("gray", "brown", "black"))
    chest, waist = leg + 0.58, leg + 0.05
    face = chest + 0.14 + head
    torso = solids.frustum(0.78 * shoulder, 0.95 * shoulder, chest - waist, 20).stretched((1.0, 1.0, 0.62))
    pieces: list[Piece] = [
        (torso.moved((0, 0.5 * (chest + waist), 0)), "main"),
        (solids.tube([(-0.7 * shoulder, chest, 0), (0.7 * shoulder, chest, 0)], 0.17, 14), "main"),
        (ball((0.8 * shoulder, 0.14, 0.5 * shoulder), (0, leg + 0.04, 0)), "second"),
        (ball((0.07, 0.25, 0.07), (0, chest - 0.12, 0.55 * shoulder), 12), "second"),
        (solids.torus(0.14, 0.06, 18, 8).moved((0, chest + 0.16, 0.02)), "white"),
        (solids.cylinder(0.12, 0.3, 14).moved((0, chest + 0.2, 0)), tone),
        (ball((0.98 * head, 0.85 * head, 0.95 * head), (0, face + 0.3 * head, -0.16 * head), 20), locks),
    ]
    pieces += _face(head, face, tone)
    pieces += limbs([(0.9 * shoulder, chest, 0), (1.12 * shoulder, leg + 0.18, 0.04)], [0.145, 0.12], "main")
    pieces += pair((0.12, 0.14, 0.12), (1.15 * shoulder, leg + 0.02, 0.06), tone)
    pieces += limbs([(0.17, 0.15, 0), (0.17, leg, 0)], [0.145, 0.165], "second")
    return pieces + pair((0.15, 0.1, 0.25), (0.17, 0.09, 0.08), "black")


def _woman(skirt: float, leg: float, head: float, skin: float, hair: float) -> list[Piece]:
    """In a dress of the main paint, with long hair."""
    tone, locks = _skin(skin), _tone(hair, ("black", "brown", "orange"))
    waist, chest = leg + 0.38, leg + 0.76
    face = chest + 0.16 + head
    dress = solids.frustum(skirt, 0.19, 0.55, 22).moved((0, waist - 0.24, 0)).stretched((1.0, 1.0, 0.85))
    bodice = solids.frustum(0.19, 0.27, chest - waist + 0.02, 20).stretched((1.0, 1.0, 0.7))
    pieces: list[Piece] = [
        (dress, "main"),
        (bodice.moved((0, 0.5 * (chest + waist), 0)), "main"),
        (solids.tube([(-0.18, chest, 0), (0.18, chest, 0)], 0.14, 14), "main"),
        (solids.cylinder(0.2, 0.09, 20).stretched((1.05, 1.0, 0.85)).moved((0, waist, 0)), "second"),
        (solids.cylinder(0.1, 0.3, 14).moved((0, chest + 0.2, 0)), tone),
        (ball((1.08 * head, 0.95 * head, head), (0, face + 0.24 * head, -0.2 * head), 20), locks),
        (solids.tube([(0, face, -0.5 * head), (0, chest - 0.1, -0.26)], [head, 0.85 * head], 14), locks),
    ]
    pieces += _face(head, face, tone)
    pieces += limbs([(0.88 * head, face + 0.2 * head, -0.02), (0.95 * head, chest + 0.02, 0.0)], 0.11, locks)
    pieces += limbs([(0.27, chest - 0.02, 0), (0.45, waist - 0.12, 0.05)], [0.12, 0.1], tone)
    pieces += pair((0.12, 0.12, 0.12), (0.3, chest - 0.03, 0), "main")
    pieces += limbs([(0.15, 0.12, 0), (0.15, leg, 0)], [0.1, 0.12], tone)
    return pieces + pair((0.12, 0.09, 0.2), (0.15, 0.08, 0.06), "second")


def _child(girth: float, leg: float, head: float, skin: float, hair: float) -> list[Piece]:
    """With a large head, in a shirt, shorts and a cap."""
    tone, locks = _skin(skin), _tone(hair, ("black", "brown", "orange"))
    chest = leg + 0.42
    face = chest + 0.02 + head
    cap = ball((1.02 * head, 0.8 * head, head), (0, face + 0.38 * head, -0.1 * head), 20)
    brim = ball((0.6 * head, 0.07, 0.55 * head), (0, face + 0.5 * head, 0.95 * head))
    pieces: list[Piece] = [
        (solids.tube([(0, leg + 0.12, 0), (0, chest - 0.1, 0)], [girth, 0.88 * girth], 18), "main"),
        (ball((1.0 * girth, 0.2, 0.95 * girth), (0, leg + 0.02, 0)), "second"),
        (ball((0.98 * head, 0.9 * head, 0.9 * head), (0, face, -0.16 * head), 18), locks),
        (cap, "main"),
        (brim, "main"),
    ]
    pieces += _face(head, face, tone)
    pieces += limbs([(0.8 * girth, chest - 0.06, 0), (1.3 * girth, chest - 0.16, 0)], 0.13, "main")
    pieces += limbs([(1.2 * girth, chest - 0.14, 0), (1.75 * girth, leg + 0.02, 0.05)], 0.09, tone)
    pieces += limbs([(0.15, 0.1, 0), (0.15, leg, 0)], 0.1, tone)
    pieces += limbs([(0.15, 0.55 * leg + 0.05, 0), (0.14, leg, 0)], 0.14, "second")
    return pieces + pair((0.14, 0.1, 0.22), (0.15, 0.09, 0.06), "white")


def _robot(width: float, height: float, head: float, arm: float, leg: float) -> list[Piece]:
    depth, middle, top = 0.7 * width, leg + 0.5 * height, leg + height
    face, front = top + 0.1 + 0.4 * head, 0.36 * head
    button = solids.cylinder(0.06, 0.06, 14).rotated(solids.rotation_about("x", 90.0))
    pieces: list[Piece] = [
        (solids.box((width, height, depth)).moved((0, middle, 0)), "main"),
        (solids.box((0.72 * width, 0.5 * height, 0.06)).moved((0, middle, 0.5 * depth)), "second"),
        (solids.cylinder(0.14, 0.2, 16).moved((0, top + 0.05, 0)), "black"),
        (solids.box((head, 0.8 * head, 0.72 * head)).moved((0, face, 0)), "main"),
        (solids.box((0.55 * head, 0.1, 0.06)).moved((0, face - 0.22 * head, front)), "black"),
        (solids.cylinder(0.045, 0.28, 12).moved((0, face + 0.4 * head + 0.1, 0)), "black"),
        (solids.sphere(0.1, 14).moved((0, face + 0.4 * head + 0.26, 0)), "red"),
    ]
    for x, paint in ((-0.2, "red"), (0.0, "yellow"), (0.2, "green")):
        pieces.append((button.moved((x * width, middle + 0.06, 0.5 * depth + 0.04)), paint))
    pieces += pair((0.13 * head, 0.13 * head, 0.07), (0.24 * head, face + 0.1 * head, front), "cyan")
    pieces += eyes(0.24 * head, face + 0.1 * head, front + 0.05, 0.06 * head)
    pieces += pair((0.07, 0.13, 0.13), (0.53 * head, face, 0), "second")
    pieces += pair((0.15, 0.15, 0.15), (0.5 * width + 0.05, top - 0.14, 0), "second")
    hand = (0.5 * width + 0.14, top - 0.1 - arm, 0.18)
    pieces += limbs([(0.5 * width + 0.12, top - 0.15, 0), (hand[0], top - 0.05 - arm, 0.12)], 0.1, "main")
    pieces += pair((0.14, 0.14, 0.15), hand, "second")
    for side in (-1, 1):
        pieces.append(
            (solids.box((0.2, leg, 0.22)).moved((side * 0.26 * width, 0.5 * leg + 0.03, 0)), "main")
        )
        pieces.append((solids.box((0.28, 0.14, 0.42)).moved((side * 0.27 * width, 0.07, 0.06)), "second"))
    return pieces


def _snowman(bottom: float, middle: float, head: float, hat: float) -> list[Piece]:
    chest = 1.65 * bottom + 0.6 * middle
    face = chest + 0.75 * middle + 0.72 * head
    nose = solids.cone(0.08, 0.36, 14).rotated(solids.rotation_about("x", 90.0))
    scarf = solids.torus(0.86 * head, 0.09, 22, 10).stretched((1.0, 1.2, 1.0))
    pieces: list[Piece] = [
        (ball((bottom, 0.92 * bottom, bottom), (0, 0.85 * bottom, 0), 22), "main"),
        (ball((middle, 0.92 * middle, middle), (0, chest, 0), 22), "main"),
        (ball((head, head, head), (0, face, 0), 20), "main"),
        (nose.moved((0, face - 0.02, head + 0.12)), "orange"),
        (scarf.moved((0, face - 0.72 * head, 0)), "second"),
        (solids.box((0.17, 0.36, 0.09)).moved((0.14, face - 0.72 * head - 0.16, 0.93 * middle)), "second"),
        (solids.cylinder(1.25 * head, 0.07, 22).moved((0, face + 0.68 * head, 0)), "black"),
        (solids.cylinder(0.8 * head, hat, 22).moved((0, face + 0.68 * head + 0.5 * hat, 0)), "black"),
        (solids.cylinder(0.83 * head, 0.1, 22).moved((0, face + 0.68 * head + 0.09, 0)), "second"),
    ]
    for angle in (-8.0, 22.0):
        a = np.radians(angle)
        at = (0.0, chest + 0.92 * middle * np.sin(a), middle * np.cos(a))
        pieces.append((ball((0.06, 0.06, 0.06), at, 12), "black"))
    for x in (-0.44, -0.16, 0.16, 0.44):
        at = (x * head, face - (0.5 - 0.5 * x * x) * head, (0.86 - 0.3 * x * x) * head)
        pieces.append((ball((0.04, 0.04, 0.04), at, 10), "black"))
    reach = middle + 0.42
    pieces += limbs([(0.8 * middle, chest + 0.1, 0), (reach, chest + 0.34, 0.05)], 0.055, "brown")
    pieces += limbs([(reach - 0.1, chest + 0.28, 0.04), (reach + 0.05, chest + 0.2, 0.1)], 0.045, "brown")
    return pieces + eyes(0.36 * head, face + 0.25 * head, 0.86 * head, 0.06)


_TONES = {"skin": (0.0, 1.0), "hair": (0.0, 1.0)}

CLASSES: dict[str, ThingClass] = {
    "man": ThingClass(
        _man,
        {"shoulder": (0.33, 0.39), "leg": (0.68, 0.8), "head": (0.24, 0.28), **_TONES},
        natural=("blue", "white", "red", "green", "gray"),
        second=("black", "gray", "brown"),
    ),
    "woman": ThingClass(
        _woman,
        {"skirt": (0.4, 0.5), "leg": (0.5, 0.6), "head": (0.23, 0.27), **_TONES},
        natural=("red", "purple", "blue", "green", "pink"),
        second=("white", "black"),
    ),
    "child": ThingClass(
        _child,
        {"girth": (0.23, 0.27), "leg": (0.34, 0.42), "head": (0.34, 0.4), **_TONES},
        natural=("red", "yellow", "green", "orange"),
        second=("blue", "gray"),
    ),
    "robot": ThingClass(
        _robot,
        {
            "width": (0.7, 0.85),
            "height": (0.62, 0.78),
            "head": (0.52, 0.64),
            "arm": (0.42, 0.55),
            "leg": (0.35, 0.45),
        },
        natural=("gray", "white", "blue", "orange"),
        second=("blue", "red", "black"),
    ),
    "snowman": ThingClass(
        _snowman,
        {"bottom": (0.46, 0.54), "middle": (0.34, 0.4), "head": (0.25, 0.3), "hat": (0.28, 0.4)},
        natural=("white",),
        second=("red", "green", "blue", "purple", "yellow"),
        recolored=False,
    ),
}
