"""Food that is cooked or baked."""

from __future__ import annotations

import numpy as np

from threedgen.datasets import solids
from threedgen.datasets.shapes import Piece
from threedgen.datasets.solids import Solid, rotation_about
from threedgen.datasets.things.families.fruit import around, studs, turned
from threedgen.datasets.things.thing_class import ThingClass

_SPRINKLES = ("red", "yellow", "blue", "green", "white", "purple")


def _hamburger(width: float, bun: float, patty: float) -> list[Piece]:
    """From the bottom: bun, lettuce, patty, cheese, tomato, bun with sesame seeds."""
    base = turned([(0.0, -0.26), (0.9, -0.26), (1.04, -0.1), (1.0, 0.0), (0.0, 0.0)])
    arch = [(0.0, 0.0), (1.04, 0.0), (1.08, 0.35), (0.75, 0.9), (0.3, 1.0), (0.0, 1.0)]
    meat = turned([(0.0, 0.0), (1.04, 0.0), (1.14, 0.5), (1.04, 1.0), (0.0, 1.0)]).stretched(
        (1.0, patty, 1.0)
    )
    top = 0.10 + patty
    pieces: list[Piece] = [(base, "main"), (meat.moved((0.0, 0.06, 0.0)), "brown")]
    frill = solids.ellipsoid((0.20, 0.06, 0.16), 10)
    for index, solid in enumerate(around(frill.moved((0.0, 0.02, 1.0)), 16)):
        pieces.append((solid.moved((0.0, 0.03 * (-1) ** index, 0.0)), "green"))
    slice_of_cheese = solids.box((1.62, 0.07, 1.62)).rotated(rotation_about("y", 20.0))
    pieces.append((slice_of_cheese.moved((0.0, top - 0.03, 0.0)), "yellow"))
    pieces.append((solids.cylinder(1.02, 0.12, 24).moved((0.0, top + 0.06, 0.0)), "red"))
    lid = top + 0.11
    seeds = studs(arch, [(0.52, 12), (0.74, 10), (0.89, 6), (0.985, 3)], (0.05, 0.10, 0.06))
    for solid, paint in ((turned(arch), "main"), *((seed, "white") for seed in seeds)):
        pieces.append((solid.stretched((1.0, bun, 1.0)).moved((0.0, lid, 0.0)), paint))
    return [(solid.stretched((width, 1.0, width)), paint) for solid, paint in pieces]


def _hot_dog(length: float, bun: float, sausage: float) -> list[Piece]:
    """A sausage along x in a bun that is open at the top, with a zigzag of mustard."""
    half = 0.5 * length
    t = np.linspace(-1.0, 1.0, 9)
    line = np.column_stack([half * t, 0.12 + 0.10 * t**2, 0.0 * t])
    pieces: list[Piece] = [(solids.tube(line, sausage), "second")]
    loaf = solids.ellipsoid((0.96 * half, 1.2 * bun, bun), 20)
    for side in (-1.0, 1.0):
        roll = rotation_about("x", side * 14.0)
        pieces.append((loaf.rotated(roll).moved((0.0, 0.03, side * (0.84 * bun))), "main"))
    pieces.append((solids.ellipsoid((0.9 * half, 0.7 * bun, bun)).moved((0.0, -0.12, 0.0)), "main"))
    u = np.linspace(-0.86, 0.86, 29)
    wave = 0.6 * sausage * np.sin(np.linspace(0.0, 7.0 * np.pi, 29))
    top = 0.12 + 0.10 * u**2 + np.sqrt(sausage**2 - wave**2)
    pieces.append((solids.tube(np.column_stack([half * u, top, wave]), 0.045, 8), "yellow"))
    return pieces


def _pizza(radius: float, crust: float, salami: float, bulge: float) -> list[Piece]:
    """A whole thick pizza, which bulges so that its top shows from the side too."""
    cheese = turned([(0.0, 0.0), (0.97, 0.0), (0.97, 0.35), (0.6, 0.7), (0.3, 0.95), (0.0, 1.0)], 2, 32)
    pieces: list[Piece] = [(solids.cylinder(radius, 0.14, 32).moved((0.0, -0.05, 0.0)), "brown")]
    pieces.append((solids.torus(radius, crust, 32, 10), "orange"))
    pieces.append((cheese.stretched((radius, bulge, radius)), "main"))
    disc = turned([(1.0, -0.3), (1.0, 0.2), (0.8, 0.6), (0.0, 0.6)], 1, 16)
    disc = disc.stretched((salami, 0.10, salami))
    olive = solids.torus(0.075, 0.04, 12, 6)
    pepper = solids.ellipsoid((0.13, 0.05, 0.06), 8).rotated(rotation_about("y", 35.0))
    lean = rotation_about("x", np.degrees(np.arctan(0.62 * bulge / radius)))
    for solid, paint, count, ring, phase in (
        (disc, "red", 6, 0.68, 0.0),
        (disc, "red", 2, 0.24, 20.0),
        (olive, "black", 5, 0.50, 10.0),
        (pepper, "green", 6, 0.48, 46.0),
        (pepper, "green", 7, 0.84, 26.0),
    ):
        y = bulge * float(np.interp(ring, [0.0, 0.3, 0.6, 0.97], [0.98, 0.9, 0.7, 0.38]))
        placed = solid.rotated(lean).moved((0.0, y + 0.01, ring * radius))
        pieces += [(s, paint) for s in around(placed, count, phase)]
    return pieces


def _ice_cream(scoop: float, cone: float, drip: float) -> list[Piece]:
    """Two scoops in a wafer cone, with a cherry on top."""
    pieces: list[Piece] = []
    wafer = solids.lathe(np.array([[0.0, -cone], [0.05, -cone], [0.36, 0.0], [0.0, 0.0]]), 24)
    pieces.append((wafer, "beige"))
    for sign in (-1.0, 1.0):
        t = np.linspace(0.04, 0.96, 8)
        turn = sign * np.radians(150.0) * t
        ring = 0.36 - 0.30 * t
        line = np.column_stack([ring * np.sin(turn), -cone * t, ring * np.cos(turn)])
        pieces += [(solid, "brown") for solid in around(solids.tube(line, 0.02, 6), 4)]
    pieces.append((solids.torus(0.34, 0.07, 24, 10), "beige"))
    pieces.append((solids.sphere(scoop, 20).moved((0.0, 0.55 * scoop, 0.0)), "main"))
    frill = solids.ellipsoid((0.13, drip, 0.10), 10)
    pieces += [(s, "main") for s in around(frill.moved((0.0, 0.16, 0.92 * scoop)), 9)]
    pieces.append((solids.sphere(0.84 * scoop, 20).moved((0.0, 1.62 * scoop, 0.0)), "second"))
    frill = solids.ellipsoid((0.11, 0.75 * drip, 0.08), 10)
    pieces += [(s, "second") for s in around(frill.moved((0.0, 1.32 * scoop, 0.74 * scoop)), 8)]
    pieces.append((solids.sphere(0.11, 14).moved((0.0, 2.48 * scoop, 0.0)), "red"))
    return pieces


def _cupcake(width: float, swirl: float, wrapper: float) -> list[Piece]:
    body = solids.frustum(0.40, 0.56, wrapper, 24).moved((0.0, -0.5 * wrapper, 0.0))
    line = [(0.0, -wrapper + 0.02, 0.41), (0.0, -0.02, 0.565)]
    pieces: list[Piece] = [(body, "second")]
    pieces += [(solid, "second") for solid in around(solids.tube(line, 0.05, 6), 16)]
    for ring, thick, y in ((0.42, 0.20, 0.02), (0.33, 0.18, 0.24), (0.20, 0.16, 0.43), (0.06, 0.12, 0.58)):
        layer = solids.torus(ring, thick, 24, 12).rotated(rotation_about("x", 6.0))
        pieces.append((layer.moved((0.0, swirl * y, 0.0)), "main"))
    pieces.append((solids.ellipsoid((0.36, 0.3, 0.36), 14).moved((0.0, 0.2 * swirl, 0.0)), "main"))
    pieces.append((solids.sphere(0.13, 14).moved((0.0, swirl * 0.58 + 0.17, 0.0)), "red"))
    grain = solids.ellipsoid((0.035, 0.035, 0.07), 8)
    for count, ring, y in ((7, 0.60, 0.08), (6, 0.48, 0.30)):
        for index, solid in enumerate(around(grain.moved((0.0, swirl * y, ring)), count, 30.0 * count)):
            pieces.append((solid, _SPRINKLES[index % 6]))
    return [(solid.stretched((width, 1.0, width)), paint) for solid, paint in pieces]


def _donut(ring: float, thick: float, tilt: float) -> list[Piece]:
    """A ring with icing and sprinkles, which leans back so that its icing looks forwards and up."""
    pieces: list[Piece] = [(solids.torus(ring, thick, 32, 16), "beige")]
    icing = solids.torus(ring, thick + 0.035, 32, 16)
    middle = icing.vertices[icing.faces].mean(axis=1)
    angle = np.arctan2(middle[:, 0], middle[:, 2])
    upper = middle[:, 1] > thick * (-0.30 + 0.25 * np.sin(7.0 * angle))
    pieces.append((Solid(icing.vertices, icing.normals, icing.faces[upper]), "main"))
    grain = solids.ellipsoid((0.035, 0.035, 0.09), 8)
    for row, (count, out) in enumerate(((7, -0.6), (9, 0.0), (11, 0.6))):
        height = (thick + 0.04) * np.sqrt(1.0 - out**2)
        for index in range(count):
            turned_grain = grain.rotated(rotation_about("y", 67.0 * index + 40.0 * row))
            place = turned_grain.moved((0.0, height, ring + out * thick))
            turn = rotation_about("y", 360.0 * (index + 0.3 * row) / count)
            pieces.append((place.rotated(turn), _SPRINKLES[(index + 2 * row) % 6]))
    return [(solid.rotated(rotation_about("x", tilt)), paint) for solid, paint in pieces]


def _birthday_cake(radius: float, height: float, upper: float, candle: float) -> list[Piece]:
    """Two tiers with icing that drips from their edges, and candles."""
    pieces: list[Piece] = []
    pieces.append((solids.cylinder(1.18 * radius, 0.07, 28).moved((0.0, -0.02, 0.0)), "gray"))
    for wide, low in ((radius, 0.0), (upper * radius, height)):
        pieces.append((solids.cylinder(wide, height, 28).moved((0.0, low + 0.5 * height, 0.0)), "main"))
        top = low + height
        pieces.append((solids.cylinder(1.03 * wide, 0.08, 28).moved((0.0, top, 0.0)), "second"))
        count = int(14 * wide / radius)
        for index in range(count):
            end = top - height * (0.28, 0.46)[index % 2]
            drop = solids.tube([(0.0, top, wide), (0.0, end, wide)], 0.07, 8)
            pieces.append((drop.rotated(rotation_about("y", 360.0 * index / count)), "second"))
    top, ring = 2.0 * height, 0.62 * upper * radius
    stick = solids.cylinder(0.055, candle, 10).moved((0.0, top + 0.5 * candle, ring))
    flame = solids.ellipsoid((0.06, 0.11, 0.06), 10).moved((0.0, top + candle + 0.08, ring))
    for index, (wax, fire) in enumerate(zip(around(stick, 5), around(flame, 5), strict=True)):
        pieces += [(wax, ("blue", "yellow", "red", "green", "purple")[index]), (fire, "orange")]
    return pieces


def _egg(width: float, height: float, cup: float) -> list[Piece]:
    """An egg in an egg cup."""
    shell = turned([(0.0, -0.5), (0.34, -0.5), (0.46, -0.1), (0.38, 0.35), (0.18, 0.62), (0.0, 0.62)], 3)
    pieces: list[Piece] = [(shell.stretched((width, height, width)).moved((0.0, 0.32, 0.0)), "main")]
    profile = [
        (0.0, -0.62),
        (0.42, -0.62),
        (0.40, -0.52),
        (0.14, -0.45),
        (0.14, -0.3),
        (0.42, -0.2),
        (0.52, 0.2),
    ]
    holder = turned([*profile, (0.44, 0.2), (0.40, 0.05), (0.0, 0.0)], 2)
    return [*pieces, (holder.stretched((cup, 1.0, cup)), "second")]


def _bread(width: float, height: float, length: float, slash: float) -> list[Piece]:
    """A loaf along z, which is cut at +Z, with a slice in front of it."""

    def part(scale: float, depth: float, paint: str, z: float) -> list[Piece]:
        w, h = scale * width, scale * height
        half = np.radians(np.linspace(-20.0, 200.0, 16))
        arch = np.column_stack([0.55 * h + 0.45 * h * np.sin(half), 0.58 * w * np.cos(half)])
        block = np.array([[0.0, -0.46 * w], [0.0, 0.46 * w], [0.55 * h, 0.5 * w], [0.55 * h, -0.5 * w]])
        offset = (0.0, 0.5 * (height - h), z)
        turn = rotation_about("y", -90.0)
        return [(solids.prism(p, depth).rotated(turn).moved(offset), paint) for p in (arch, block)]

    pieces = part(1.0, length, "main", 0.0) + part(0.88, 0.03, "beige", 0.5 * length)
    front = 0.5 * length + 0.095
    pieces += part(0.97, 0.13, "main", front) + part(0.86, 0.17, "beige", front)
    for z in (-0.3, -0.05, 0.2):
        mark = solids.ellipsoid((0.34 * width, 0.05, slash), 12).rotated(rotation_about("y", 20.0))
        pieces.append((mark.moved((0.0, height - 0.01, z * length)), "beige"))
    return pieces


def _cheese(length: float, width: float, height: float, hole: float) -> list[Piece]:
    """A wedge whose tip is at +Z, with holes."""
    outline = np.array([[0.55 * length, 0.0], [-0.40 * length, 0.5 * width], [-0.40 * length, -0.5 * width]])
    wedge = solids.prism(outline, height)  # (y, z) become (z, x)
    turn = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    pieces: list[Piece] = [(wedge.rotated(turn), "main")]
    slope = np.degrees(np.arctan2(0.5 * width, 0.95 * length))
    dots = ((0.18, 0.15, 1.0), (0.42, -0.18, 1.25), (0.62, 0.18, 0.9), (0.80, -0.12, 1.3), (0.33, 0.36, 0.6))
    for side in (-1.0, 1.0):
        for along, y, size in dots:
            dent = solids.ellipsoid((0.025, size * hole, size * hole), 14).rotated(
                rotation_about("y", -side * slope)
            )
            x = side * along * 0.5 * width
            pieces.append((dent.moved((x, y * height, length * (0.55 - 0.95 * along))), "orange"))
    for x, z, size in ((0.0, 0.2, 1.0), (-0.22, -0.18, 1.2), (0.20, -0.10, 0.9), (0.1, -0.30, 0.8)):
        dent = solids.ellipsoid((size * hole, 0.025, size * hole), 14)
        pieces.append((dent.moved((x * width, 0.5 * height, z * length)), "orange"))
    for x, y, size in ((-0.28, 0.1, 1.2), (0.22, -0.15, 1.3), (0.05, 0.28, 0.8), (-0.05, -0.25, 0.7)):
        dent = solids.ellipsoid((size * hole, size * hole, 0.025), 14)
        pieces.append((dent.moved((x * width, y * height, -0.40 * length)), "orange"))
    return pieces


CLASSES: dict[str, ThingClass] = {
    "hamburger": ThingClass(
        _hamburger,
        {"width": (0.92, 1.08), "bun": (0.55, 0.72), "patty": (0.26, 0.36)},
        natural=("orange", "beige"),
        recolored=False,
        front=False,
    ),
    "hot dog": ThingClass(
        _hot_dog,
        {"length": (1.45, 1.7), "bun": (0.23, 0.28), "sausage": (0.17, 0.20)},
        natural=("beige", "orange"),
        second=("red", "brown"),
        recolored=False,
        front=False,
    ),
    "pizza": ThingClass(
        _pizza,
        {"radius": (0.85, 0.98), "crust": (0.11, 0.14), "salami": (0.19, 0.23), "bulge": (0.24, 0.32)},
        natural=("yellow",),
        recolored=False,
        front=False,
    ),
    "ice cream": ThingClass(
        _ice_cream,
        {"scoop": (0.40, 0.46), "cone": (0.90, 1.1), "drip": (0.16, 0.22)},
        natural=("pink", "white", "brown", "yellow", "green"),
        second=("white", "brown", "yellow", "pink"),
        front=False,
    ),
    "cupcake": ThingClass(
        _cupcake,
        {"width": (0.92, 1.08), "swirl": (0.90, 1.15), "wrapper": (0.48, 0.60)},
        natural=("pink", "white", "brown", "yellow"),
        second=("brown", "blue", "red", "purple"),
        front=False,
    ),
    "donut": ThingClass(
        _donut,
        {"ring": (0.54, 0.62), "thick": (0.26, 0.31), "tilt": (45.0, 70.0)},
        natural=("pink", "white", "brown", "red"),
    ),
    "birthday cake": ThingClass(
        _birthday_cake,
        {"radius": (0.68, 0.80), "height": (0.36, 0.44), "upper": (0.62, 0.72), "candle": (0.24, 0.32)},
        natural=("pink", "brown", "yellow", "blue"),
        second=("white", "red", "brown"),
        front=False,
    ),
    "egg": ThingClass(
        _egg,
        {"width": (0.92, 1.05), "height": (0.92, 1.10), "cup": (0.95, 1.1)},
        natural=("white", "beige", "brown"),
        second=("blue", "red", "yellow", "green", "gray"),
        front=False,
    ),
    "bread": ThingClass(
        _bread,
        {"width": (0.72, 0.86), "height": (0.66, 0.80), "length": (1.0, 1.25), "slash": (0.05, 0.07)},
        natural=("brown", "orange"),
        recolored=False,
    ),
    "cheese": ThingClass(
        _cheese,
        {"length": (1.35, 1.6), "width": (0.95, 1.15), "height": (0.55, 0.70), "hole": (0.09, 0.12)},
        natural=("yellow",),
        recolored=False,
    ),
}
