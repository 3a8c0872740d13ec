"""Vessels that hold drinks and other liquids; their spouts are at +Z and their handles at -Z."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid, rotation_about
from threedgen.datasets.things.families.fruit import around, turned
from threedgen.datasets.things.thing_class import ThingClass


def _handle(z: float, y: float, reach: float, height: float, thickness: float) -> Solid:
    """A half ring in the plane (y, z) whose two ends are at z, reaching towards -Z if reach is negative."""
    angle = np.radians(np.linspace(-90.0, 90.0, 9))
    arc = np.column_stack([0.0 * angle, y + 0.5 * height * np.sin(angle), z + reach * np.cos(angle)])
    return solids.tube(arc, thickness, 10)


def _bow(width: float, height: float, y: float, thickness: float) -> Solid:
    """An arch in the plane (x, y), with both its ends at height y."""
    angle = np.radians(np.linspace(0.0, 180.0, 13))
    arc = np.column_stack([0.5 * width * np.cos(angle), y + height * np.sin(angle), 0.0 * angle])
    return solids.tube(arc, thickness, 10)


def _teapot(width: float, height: float, spout: float, handle: float) -> list[Piece]:
    corners = [
        (0.0, -0.46),
        (0.32, -0.46),
        (0.36, -0.42),
        (0.66, -0.15),
        (0.60, 0.25),
        (0.26, 0.44),
        (0.0, 0.44),
    ]
    pieces: list[Piece] = [(turned(corners).stretched((width, height, width)), "main")]
    lid = turned([(0.0, -0.05), (0.32, -0.05), (0.32, 0.04), (0.18, 0.14), (0.0, 0.14)])
    pieces.append((lid.moved((0.0, 0.40 * height, 0.0)), "second"))
    pieces.append((solids.sphere(0.11, 14).moved((0.0, 0.40 * height + 0.20, 0.0)), "second"))
    line = [(0.0, -0.14, 0.45), (0.0, -0.05, 0.75), (0.0, 0.14, 0.90), (0.0, 0.36, 0.80 + spout)]
    pieces.append((solids.tube(line, [0.19, 0.15, 0.11, 0.09]), "main"))
    pieces.append((_handle(-0.52 * width, 0.02, -handle, 0.52 * height, 0.08), "second"))
    return pieces


def _cup(width: float, height: float, handle: float, saucer: float) -> list[Piece]:
    """A teacup with tea on a saucer. The handle is at +Z."""
    outer = [(0.0, 0.0), (0.30, 0.0), (0.34, 0.05), (0.52, 0.3), (0.58, height)]
    body = turned([*outer, (0.51, height), (0.46, 0.35), (0.0, 0.3)])
    pieces: list[Piece] = [(body.stretched((width, 1.0, width)).moved((0.0, 0.04, 0.0)), "main")]
    pieces.append((solids.cylinder(0.49 * width, 0.06, 24).moved((0.0, height - 0.10, 0.0)), "brown"))
    pieces.append((_handle(0.46 * width, 0.55 * height, handle, 0.55 * height, 0.07), "main"))
    plate = turned(
        [(0.0, -0.06), (0.4, -0.06), (0.85, 0.06), (0.90, 0.12), (0.84, 0.13), (0.4, 0.04), (0.0, 0.04)]
    )
    pieces.append((plate.stretched((saucer, 1.0, saucer)), "second"))
    return pieces


def _bottle(width: float, height: float, neck: float) -> list[Piece]:
    """A bottle of lemonade with a waist, a label and a cap."""
    body = [(0.0, 0.0), (0.28, 0.0), (0.34, 0.04), (0.34, 0.42), (0.28, 0.5), (0.28, 0.6), (0.34, 0.70)]
    body += [(0.34, 0.95), (0.27, 1.12), (0.14, 1.24), (0.13, 1.24 + neck), (0.0, 1.24 + neck)]
    pieces: list[Piece] = [(turned(body).stretched((width, height, width)), "main")]
    label = solids.cylinder(0.345 * width, 0.32 * height, 24).moved((0.0, 0.82 * height, 0.0))
    pieces.append((label, "second"))
    cap = solids.cylinder(0.165 * width, 0.14, 18).moved((0.0, (1.24 + neck) * height, 0.0))
    return [*pieces, (cap, "second")]


def _wine_bottle(width: float, height: float, shoulder: float) -> list[Piece]:
    """A slender bottle with a label at the front, a foil and a cork."""
    body = [(0.0, 0.0), (0.26, 0.0), (0.30, 0.03), (0.30, shoulder), (0.27, shoulder + 0.12)]
    body += [(0.12, shoulder + 0.24), (0.10, shoulder + 0.3), (0.10, 1.45), (0.0, 1.45)]
    pieces: list[Piece] = [(turned(body).stretched((width, height, width)), "main")]
    ring = solids.lathe(np.array([[0.302, 0.18], [0.302, 0.62 * shoulder + 0.14]]), 36)
    front = ring.vertices[ring.faces].mean(axis=1)[:, 2] > -0.10
    label = Solid(ring.vertices, ring.normals, ring.faces[front])
    pieces.append((label.stretched((width, height, width)), "white"))
    foil = solids.cylinder(0.125 * width, 0.30 * height, 18).moved((0.0, 1.36 * height, 0.0))
    pieces.append((foil, "second"))
    pieces.append((solids.cylinder(0.09 * width, 0.16, 14).moved((0.0, 1.55 * height, 0.0)), "beige"))
    return pieces


def _vase(width: float, height: float, neck: float, lip: float) -> list[Piece]:
    outer = [
        (0.0, 0.0),
        (0.28, 0.0),
        (0.28, 0.08),
        (0.50, 0.42),
        (0.48, 0.72),
        (neck, 0.98),
        (neck, 1.1),
        (lip, 1.3),
    ]
    inner = [(lip - 0.07, 1.3), (neck - 0.08, 1.1), (neck - 0.08, 0.9), (0.0, 0.85)]
    pieces: list[Piece] = [(turned([*outer, *inner]).stretched((width, height, width)), "main")]
    band = solids.torus(0.475 * width, 0.04, 28, 8)
    pieces += [(band.moved((0.0, y * height, 0.0)), "second") for y in (0.36, 0.68)]
    bead = solids.ellipsoid((0.08, 0.10, 0.05), 10).moved((0.0, 0.52 * height, 0.475 * width))
    pieces += [(solid, "second") for solid in around(bead, 10)]
    return pieces


def _pot(width: float, height: float, handle: float, lid: float) -> list[Piece]:
    """A cooking pot with a lid and two handles, at -X and +X."""
    body = turned([(0.0, 0.0), (0.5, 0.0), (0.60, 0.06), (0.60, height), (0.56, height), (0.0, height)])
    pieces: list[Piece] = [(body.stretched((width, 1.0, width)), "main")]
    pieces.append((solids.torus(0.60 * width, 0.045, 28, 8).moved((0.0, height, 0.0)), "gray"))
    cover = turned([(0.57, 0.0), (0.57, 0.04), (0.40, 0.9), (0.15, 1.0), (0.0, 1.0)])
    pieces.append((cover.stretched((width, lid, width)).moved((0.0, height, 0.0)), "main"))
    pieces.append((solids.cylinder(0.05, 0.12, 12).moved((0.0, height + lid + 0.03, 0.0)), "second"))
    knob = solids.ellipsoid((0.13, 0.08, 0.13), 14)
    pieces.append((knob.moved((0.0, height + lid + 0.10, 0.0)), "second"))
    for side in (-1.0, 1.0):
        turn = rotation_about("z", -90.0 * side)
        grip = _bow(0.36, handle, 0.0, 0.065).rotated(rotation_about("y", 90.0)).rotated(turn)
        pieces.append((grip.moved((side * 0.58 * width, 0.76 * height, 0.0)), "second"))
    return pieces


def _bucket(width: float, height: float, taper: float, bow: float) -> list[Piece]:
    bottom = 0.5 * taper
    profile = [[0.0, 0.0], [bottom, 0.0], [0.5, height], [0.44, height], [bottom - 0.06, 0.06], [0.0, 0.06]]
    pieces: list[Piece] = [(solids.lathe(np.array(profile), 28), "main")]
    pieces.append((solids.torus(0.485, 0.045, 28, 8).moved((0.0, height, 0.0)), "main"))
    hoop = solids.torus(bottom + 0.02, 0.035, 28, 8).moved((0.0, 0.10 * height, 0.0))
    pieces += [(hoop, "main"), (_bow(1.06, bow, 0.90 * height, 0.045), "second")]
    ear = solids.sphere(0.085, 12)
    pieces += [(ear.moved((side * 0.51, 0.88 * height, 0.0)), "second") for side in (-1.0, 1.0)]
    grip = solids.cylinder(0.075, 0.30, 12).rotated(rotation_about("z", 90.0))
    pieces.append((grip.moved((0.0, 0.90 * height + bow, 0.0)), "second"))
    return [(solid.stretched((width, 1.0, width)), paint) for solid, paint in pieces]


def _bowl(width: float, height: float, foot: float) -> list[Piece]:
    """A bowl with a foot and a band below its rim; its inside has the second colour."""
    outer = [
        (0.0, 0.0),
        (foot, 0.0),
        (foot, 0.10),
        (0.62, 0.22),
        (0.78, 0.9 * height),
        (0.80, height),
        (0.76, height),
    ]
    pieces: list[Piece] = [(turned(outer), "main")]
    inside = turned([(0.76, height), (0.70, 0.8 * height), (0.5, 0.26), (0.0, 0.20)])
    pieces.append((inside, "second"))
    pieces.append((solids.torus(0.765, 0.05, 32, 8).moved((0.0, 0.94 * height, 0.0)), "second"))
    return [(solid.stretched((width, 1.0, width)), paint) for solid, paint in pieces]


def _wine_glass(width: float, height: float, stem: float) -> list[Piece]:
    """A glass on a stem, the lower part of which is full of wine of the main colour."""
    foot = turned(
        [(0.0, 0.0), (0.36, 0.0), (0.36, 0.05), (0.10, 0.10), (0.06, 0.2), (0.06, stem), (0.0, stem)]
    )
    wine = turned([(0.05, 0.0), (0.22, 0.02), (0.40, 0.16), (0.43, 0.42), (0.41, 0.52), (0.0, 0.52)])
    rim = turned([(0.44, 0.42), (0.42, 0.55), (0.35, 0.90), (0.31, 0.90), (0.38, 0.6), (0.38, 0.50)])
    lift = (0.0, stem - 0.02, 0.0)
    pieces: list[Piece] = [(foot, "glass"), (wine.stretched((1.0, height, 1.0)).moved(lift), "main")]
    pieces.append((rim.stretched((1.0, height, 1.0)).moved(lift), "glass"))
    return [(solid.stretched((width, 1.0, width)), paint) for solid, paint in pieces]


def _barrel(width: float, height: float, bulge: float) -> list[Piece]:
    """An upright barrel of staves with four hoops."""
    t = np.linspace(-1.0, 1.0, 9)
    ring = width * (0.40 + bulge * (1.0 - t**2))
    half = 0.5 * height
    profile = np.column_stack([ring, half * t])
    ends = [[0.0, -half + 0.08], [ring[0] - 0.06, -half + 0.08], [ring[0] - 0.06, -half]]
    pieces: list[Piece] = [
        (
            turned([*map(tuple, ends), *map(tuple, profile), (ring[0] - 0.06, half), (0.0, half - 0.04)], 1),
            "main",
        )
    ]
    crack = solids.tube(np.column_stack([0.0 * t, half * t, ring - 0.005])[1:-1], 0.018, 6)
    pieces += [(solid, "black") for solid in around(crack, 12, 15.0)]
    for y in (-0.82, -0.38, 0.38, 0.82):
        radius = width * (0.40 + bulge * (1.0 - y**2)) + 0.02
        slope = -np.sign(y) * width * bulge * 0.20 * abs(y)
        hoop = np.array([[radius - slope, -0.06], [radius + slope, 0.06]])
        pieces.append((solids.lathe(hoop, 28).moved((0.0, half * y, 0.0)), "second"))
    return pieces


def _kettle(width: float, height: float, bow: float, spout: float) -> list[Piece]:
    """A kettle for the stove: a squat body, a short spout and a handle above the lid."""
    body = turned([(0.0, 0.0), (0.60, 0.0), (0.66, 0.08), (0.52, 0.40), (0.30, 0.60), (0.0, 0.62)])
    pieces: list[Piece] = [(body.stretched((width, height, width)), "main")]
    base = solids.cylinder(0.60 * width, 0.06, 24).moved((0.0, 0.0, 0.0))
    pieces.append((base, "second"))
    line = [
        (0.0, 0.24 * height, 0.42 * width),
        (0.0, 0.40 * height, 0.72),
        (0.0, 0.62 * height, 0.80 + spout),
    ]
    pieces.append((solids.tube(line, [0.19, 0.14, 0.09]), "main"))
    pieces.append((solids.sphere(0.10, 14).moved((0.0, 0.66 * height, 0.0)), "second"))
    grip = _bow(0.92 * width, bow, 0.44 * height, 0.075).rotated(rotation_about("y", 90.0))
    return [*pieces, (grip, "second")]


def _jug(width: float, height: float, handle: float, lip: float) -> list[Piece]:
    outer = [(0.0, 0.0), (0.34, 0.0), (0.46, 0.10), (0.46, 0.45), (0.30, 0.80), (0.30, 0.95), (0.38, 1.15)]
    inner = [(0.32, 1.15), (0.24, 0.95), (0.24, 0.85), (0.0, 0.8)]
    body = turned([*outer, *inner])
    vertices = body.vertices.copy()
    # The rim is pulled out towards +Z into a lip.
    pull = np.clip((vertices[:, 1] - 0.85) / 0.3, 0.0, 1.0) * np.clip(vertices[:, 2] / 0.38, 0.0, 1.0) ** 2
    vertices[:, 2] += lip * pull
    vertices[:, 1] += 0.4 * lip * pull
    shape = Solid(vertices, body.normals, body.faces).stretched((width, height, width))
    pieces: list[Piece] = [(shape, "main")]
    pieces.append((_handle(-0.32 * width, 0.68 * height, -handle, 0.62 * height, 0.08), "main"))
    band = solids.torus(0.445 * width, 0.04, 28, 8)
    pieces += [(band.moved((0.0, y * height, 0.0)), "second") for y in (0.20, 0.42)]
    return pieces


CLASSES: dict[str, ThingClass] = {
    "teapot": ThingClass(
        _teapot,
        {"width": (0.92, 1.08), "height": (0.90, 1.10), "spout": (0.12, 0.22), "handle": (0.30, 0.40)},
        natural=("white", "blue", "brown", "red", "green"),
        second=("blue", "white", "yellow", "red"),
    ),
    "cup": ThingClass(
        _cup,
        {"width": (0.92, 1.08), "height": (0.58, 0.70), "handle": (0.26, 0.34), "saucer": (0.92, 1.05)},
        natural=("white", "blue", "red", "yellow"),
        second=("blue", "white", "yellow", "red"),
    ),
    "bottle": ThingClass(
        _bottle,
        {"width": (0.90, 1.12), "height": (0.90, 1.08), "neck": (0.14, 0.22)},
        natural=("green", "cyan", "blue", "brown"),
        second=("white", "red", "yellow", "blue"),
        front=False,
    ),
    "wine bottle": ThingClass(
        _wine_bottle,
        {"width": (0.92, 1.15), "height": (0.95, 1.10), "shoulder": (0.72, 0.88)},
        natural=("green", "black", "brown"),
        second=("red", "yellow", "black"),
    ),
    "vase": ThingClass(
        _vase,
        {"width": (0.88, 1.1), "height": (0.95, 1.12), "neck": (0.18, 0.24), "lip": (0.32, 0.42)},
        natural=("blue", "white", "red", "orange", "green"),
        second=("white", "yellow", "blue", "black"),
        front=False,
    ),
    "pot": ThingClass(
        _pot,
        {"width": (0.92, 1.1), "height": (0.54, 0.72), "handle": (0.18, 0.24), "lid": (0.14, 0.22)},
        natural=("gray", "red", "blue", "black", "green"),
        second=("black", "brown"),
        front=False,
    ),
    "bucket": ThingClass(
        _bucket,
        {"width": (0.92, 1.05), "height": (0.85, 1.0), "taper": (0.66, 0.78), "bow": (0.36, 0.50)},
        natural=("gray", "blue", "red", "yellow", "green"),
        second=("black", "white", "gray"),
        front=False,
    ),
    "bowl": ThingClass(
        _bowl,
        {"width": (0.92, 1.08), "height": (0.60, 0.76), "foot": (0.30, 0.38)},
        natural=("blue", "white", "red", "brown", "green"),
        second=("white", "blue", "yellow"),
        front=False,
    ),
    "wine glass": ThingClass(
        _wine_glass,
        {"width": (0.92, 1.1), "height": (0.90, 1.08), "stem": (0.50, 0.66)},
        natural=("red", "yellow", "pink", "purple"),
        recolored=False,
        front=False,
    ),
    "barrel": ThingClass(
        _barrel,
        {"width": (0.95, 1.15), "height": (1.1, 1.3), "bulge": (0.10, 0.15)},
        natural=("brown", "orange", "beige"),
        second=("gray", "black"),
        front=False,
    ),
    "kettle": ThingClass(
        _kettle,
        {"width": (0.92, 1.05), "height": (0.90, 1.12), "bow": (0.46, 0.58), "spout": (0.10, 0.18)},
        natural=("gray", "red", "black", "white", "blue"),
        second=("black", "brown"),
    ),
    "jug": ThingClass(
        _jug,
        {"width": (0.90, 1.08), "height": (0.92, 1.08), "handle": (0.32, 0.42), "lip": (0.16, 0.24)},
        natural=("white", "blue", "yellow", "brown", "green"),
        second=("blue", "white", "red", "brown"),
    ),
}
