"""Reptiles, frogs and fish."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.things.families.animals import ball, eyes, limbs, pair, spots_on_ellipsoid
from threedgen.datasets.things.thing_class import ThingClass


def _turtle(width: float, length: float, dome: float, head: float) -> list[Piece]:
    floor = 0.2
    arc = np.radians(np.linspace(0.0, 90.0, 8))
    shell = solids.lathe(np.column_stack([np.append(0.0, np.cos(arc)), np.append(0.0, np.sin(arc))]), 24)
    rim = solids.torus(1.0, 0.1, 24, 8).stretched((width, 0.9, length))
    pieces: list[Piece] = [
        (shell.stretched((width, dome, length)).moved((0, floor, 0)), "second"),
        (rim.moved((0, floor + 0.02, 0)), "second"),
        (ball((0.85 * width, 0.12, 0.9 * length), (0, floor - 0.02, 0)), "beige"),
        (solids.tube([(0, 0.26, 0.8 * length), (0, 0.42, length + 0.2)], [0.15, 0.16]), "main"),
        (ball((head, 0.9 * head, 1.1 * head), (0, 0.48, length + 0.26)), "main"),
        (solids.tube([(0, 0.18, -length), (0, 0.12, -length - 0.22)], [0.1, 0.05]), "main"),
    ]
    plates = [(0.0, 90.0, 0.17), *((60.0 * index, 42.0, 0.17) for index in range(6))]
    pieces += spots_on_ellipsoid((0, floor, 0), (width, dome, length), plates, "main")
    for z in (0.62, -0.62):
        pieces += limbs(
            [(0.7 * width, 0.2, z * length), (1.05 * width, 0.1, 1.15 * z * length)], 0.13, "main"
        )
    return pieces + eyes(0.65 * head, 0.48 + 0.3 * head, length + 0.26 + 0.7 * head, 0.22 * head)


def _snake(coil: float, thickness: float, rise: float) -> list[Piece]:
    """Coiled up in two turns, with its head raised, and with rings of the second paint."""
    turn = np.radians(np.linspace(0.0, 760.0, 33))
    radius = coil * np.linspace(1.0, 0.62, 33)
    height = thickness * (1.0 + np.linspace(0.0, 2.9, 33))
    path = np.column_stack([-radius * np.sin(turn), height, -radius * np.cos(turn)])
    top = float(height[-1])
    neck = np.array(
        [(0.12 * coil, top + 0.25, -0.1), (0.0, top + 0.5 + rise, 0.02), (0.0, top + 0.6 + rise, 0.2)]
    )
    path = np.concatenate([path, neck])
    girth = thickness * np.concatenate([np.linspace(0.35, 1.0, 8), np.ones(25), [0.9, 0.8, 0.8]])
    face, front = top + 0.62 + rise, 0.3
    pieces: list[Piece] = [
        (solids.tube(path, girth), "main"),
        (ball((1.3 * thickness, 0.85 * thickness, 1.7 * thickness), (0, face, front)), "main"),
    ]
    for index in range(3, 35, 3):
        along = path[index + 1] - path[index - 1] if index < 35 else path[index] - path[index - 1]
        step = 0.045 * along / np.linalg.norm(along)
        ring = solids.tube([path[index] - step, path[index], path[index] + step], 1.07 * girth[index], 10)
        pieces.append((ring, "second"))
    tongue = front + 1.6 * thickness
    pieces.append((solids.tube([(0, face - 0.04, tongue), (0, face - 0.06, tongue + 0.2)], 0.035), "red"))
    return pieces + eyes(0.85 * thickness, face + 0.45 * thickness, front + 0.7 * thickness, 0.06)


def _frog(width: float, length: float, height: float, eye: float) -> list[Piece]:
    pieces: list[Piece] = [
        (ball((width, height, length), (0, 0.36, 0)), "main"),
        (ball((0.85 * width, 0.8 * height, 0.8 * length), (0, 0.27, 0.12)), "second"),
        (ball((0.95 * width, 0.24, 0.36), (0, 0.55, 0.55 * length)), "main"),
    ]
    lip = [
        (np.sin(a) * 0.9 * width, 0.52, 0.53 * length + 0.35 * np.cos(a)) for a in np.linspace(-1.2, 1.2, 9)
    ]
    pieces.append((solids.tube(lip, 0.035, 8), "black"))
    pieces += pair((eye, eye, eye), (0.6 * width, 0.76, 0.5 * length), "main")
    pieces += pair((0.8 * eye, 0.8 * eye, 0.6 * eye), (0.62 * width, 0.78, 0.5 * length + 0.6 * eye), "white")
    pieces += eyes(0.62 * width, 0.78, 0.5 * length + 1.05 * eye, 0.42 * eye)
    back = [(180.0, 75.0, 0.1), (135.0, 45.0, 0.09), (225.0, 45.0, 0.09), (180.0, 25.0, 0.1)]
    pieces += spots_on_ellipsoid((0, 0.36, 0), (width, height, length), back, "second")
    pieces += pair((0.19, 0.24, 0.4), (0.98 * width, 0.27, -0.3 * length), "main", 20.0)
    pieces += pair((0.17, 0.07, 0.3), (1.12 * width, 0.06, 0.1), "main")
    pieces += limbs([(0.75 * width, 0.4, 0.4 * length), (0.9 * width, 0.1, 0.75 * length)], 0.11, "main")
    return pieces + pair((0.15, 0.06, 0.17), (0.9 * width, 0.06, 0.85 * length), "main")


def _fin(polygon: list[tuple[float, float]], thickness: float) -> solids.Solid:
    """An upright fin in the plane x = 0. polygon: (y, z), convex."""
    return solids.prism(np.array(polygon), thickness)


def _fish(length: float, height: float, width: float, tail: float) -> list[Piece]:
    end = -0.85 * length
    pieces: list[Piece] = [
        (solids.ellipsoid((width, height, length), 24), "main"),
        (_fin([(0, end + 0.15), (0.12, end - 0.02), (tail, end - 0.5), (0.05, end - 0.36)], 0.12), "second"),
        (
            _fin([(0, end + 0.15), (-0.12, end - 0.02), (-tail, end - 0.5), (-0.05, end - 0.36)], 0.12),
            "second",
        ),
        (
            _fin(
                [
                    (0.8 * height, 0.5 * length),
                    (1.3 * height, 0.1 * length),
                    (1.35 * height, -0.4 * length),
                    (0.6 * height, -0.6 * length),
                ],
                0.12,
            ),
            "second",
        ),
        (_fin([(-0.8 * height, 0.2), (-1.3 * height, -0.2), (-0.7 * height, -0.3)], 0.12), "second"),
        (ball((0.12, 0.1, 0.1), (0, -0.06, 0.95 * length), 12), "second"),
        (ball((0.13, 0.035, 0.1), (0, -0.06, 0.97 * length), 12), "black"),
    ]
    for side in (-1, 1):
        wing = solids.ellipsoid((0.06, 0.13, 0.24), 14).rotated(solids.rotation_about("y", -side * 35.0))
        pieces.append((wing.moved((side * (width + 0.04), -0.12, 0.0)), "second"))
    eye = (0.68 * width, 0.3 * height, 0.62 * length)
    pieces += pair((0.1, 0.13, 0.13), eye, "white")
    return pieces + eyes(eye[0] + 0.05, eye[1], eye[2] + 0.04, 0.085)


def _shark(length: float, girth: float, fin: float, tail: float) -> list[Piece]:
    path = [(0.0, 0.0, z * length) for z in (-1.0, -0.7, -0.35, 0.0, 0.35, 0.65, 0.9)]
    girths = girth * np.array([0.3, 0.5, 0.82, 1.0, 1.0, 0.82, 0.45])
    belly = solids.tube(path[1:], 0.9 * girths[1:], 18).moved((0, -0.2 * girth, 0.0))
    end = -length
    back = [(0.5 * girth, 0.32), (girth + fin, -0.2), (girth + 0.9 * fin, -0.28), (0.5 * girth, -0.22)]
    upper = [
        (-0.05, end + 0.2),
        (0.1, end + 0.1),
        (tail, end - 0.38),
        (0.8 * tail, end - 0.42),
        (0.0, end - 0.1),
    ]
    pieces: list[Piece] = [
        (solids.tube(path, girths, 18), "main"),
        (belly, "white"),
        (_fin(back, 0.15), "main"),
        (_fin(upper, 0.15), "main"),
        (_fin([(-0.75 * y, z) for y, z in upper], 0.15), "main"),
    ]
    mouth = [
        (0.62 * girth * np.sin(a), -0.5 * girth, 0.6 * length + 0.72 * girth * np.cos(a))
        for a in np.linspace(-1.2, 1.2, 9)
    ]
    pieces.append((solids.tube(mouth, 0.04, 8), "black"))
    for side in (-1, 1):
        wing = _fin([(0, 0.22), (0, -0.15), (0.45, -0.3), (0.5, -0.2)], 0.13)
        wing = wing.rotated(solids.rotation_about("z", -side * 115.0))
        pieces.append((wing.moved((side * 0.6 * girth, -0.1, 0.25)), "main"))
        for z in (0.3, 0.4, 0.5):
            slit = solids.box((0.06, 0.13, 0.03)).moved(
                (side * 0.98 * girth * (1.18 - 0.45 * z), 0.02, z * length)
            )
            pieces.append((slit, "black"))
    return pieces + eyes(0.66 * girth, 0.32 * girth, 0.7 * length, 0.065)


CLASSES: dict[str, ThingClass] = {
    "turtle": ThingClass(
        _turtle,
        {"width": (0.52, 0.6), "length": (0.58, 0.68), "dome": (0.38, 0.48), "head": (0.19, 0.23)},
        natural=("green",),
        second=("brown", "beige"),
    ),
    "snake": ThingClass(
        _snake,
        {"coil": (0.5, 0.6), "thickness": (0.14, 0.17), "rise": (0.0, 0.15)},
        natural=("green", "brown", "yellow", "red"),
        second=("yellow", "black", "white"),
    ),
    "frog": ThingClass(
        _frog,
        {"width": (0.42, 0.5), "length": (0.45, 0.53), "height": (0.27, 0.33), "eye": (0.15, 0.19)},
        natural=("green",),
        second=("yellow", "beige", "white"),
    ),
    "fish": ThingClass(
        _fish,
        {"length": (0.7, 0.8), "height": (0.36, 0.46), "width": (0.22, 0.28), "tail": (0.34, 0.44)},
        natural=("orange", "blue", "yellow", "red"),
        second=("yellow", "red", "white"),
    ),
    "shark": ThingClass(
        _shark,
        {"length": (0.75, 0.86), "girth": (0.33, 0.38), "fin": (0.28, 0.36), "tail": (0.45, 0.58)},
        natural=("gray", "blue"),
    ),
}
