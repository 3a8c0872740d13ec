"""A small furniture library (.sh3f) of two objects, as the tests of the catalogue of things use it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras
from threedgen.datasets.things.catalogue import Thing, Words
from threedgen.datasets.things.sh3f import read_libraries

LIST = "PluginFurnitureCatalog.properties"
RED, GREEN, BLUE, WHITE = (0.8, 0.1, 0.1), (0.1, 0.6, 0.1), (0.1, 0.2, 0.8), (0.9, 0.9, 0.9)


def box(low, high, first: int) -> str:
    """The lines of a box whose corners begin at a number."""
    corners = [[(low, high)[bit >> axis & 1][axis] for axis in range(3)] for bit in range(8)]
    sides = ["0 2 3 1", "4 5 7 6", "0 1 5 4", "2 6 7 3", "0 4 6 2", "1 3 7 5"]
    lines = ["v " + " ".join(map(str, corner)) for corner in corners]
    return (
        "\n".join(lines + ["f " + " ".join(str(first + int(i)) for i in side.split()) for side in sides])
        + "\n"
    )


def model(parts, materials) -> dict[str, str]:
    """The files of a model. parts: material, low and high corner of boxes. materials: colour and more lines."""
    text = "mtllib m.mtl\n"
    for number, (name, low, high) in enumerate(parts):
        text += f"usemtl {name}\n" + box(low, high, 8 * number + 1)
    lines = [f"newmtl {name}\nKd {c[0]} {c[1]} {c[2]}\n{more}\n" for name, (c, more) in materials.items()]
    return {"m.obj": text, "m.mtl": "".join(lines)}


# A red block with a small blue nose on the side of -X, which the rotation turns to +Z: modelRotation maps -X to +Z.
NOSED = model(
    [("red", (-1, -1, -1), (1, 1, 1)), ("blue", (-1.5, -0.5, -0.5), (-1, 0.5, 0.5))],
    {"red": (RED, ""), "blue": (BLUE, "")},
)
TURN = "0 0 1 0 1 0 -1 0 0"
# A green block under a hood of glass.
HOODED = model(
    [("green", (-0.5, -1, -0.5), (0.5, 0, 0.5)), ("glass", (-1, -1, -1), (1, 1, 1))],
    {"green": (GREEN, ""), "glass": (WHITE, "d 0.25")},
)
ENTRIES = {
    1: {
        "id": "Scopia#truck",
        "name": "Cami\\u00f3n\\: grande",
        "tags": "Car, , Road",
        "category": "Vehicles",
        "creator": "Ana",
        "model": "/things/nosed/m.obj",
        "width": "20",
        "depth": "50",
        "height": "10.0",
        "modelRotation": TURN,
    },
    2: {
        "id": "Scopia#bowl",
        "name": "Bowl",
        "creator": "Bo",
        "model": "/things/hooded/m.obj",
        "width": "10",
        "depth": "10",
        "height": "10",
    },
}
FILES = {f"things/nosed/{n}": t for n, t in NOSED.items()} | {
    f"things/hooded/{n}": t for n, t in HOODED.items()
}


def listed(entries, license_name: str = "Public domain") -> str:
    """The list of a library."""
    lines = ["# A comment", f"license={license_name}", "name=A lib\\", "  rary", ""]
    for number, values in entries.items():
        lines += [f"{key}#{number}={value}" for key, value in values.items()]
    return "\n".join(lines)


def write_library(folder: Path, entries=None, files=None, name="lib.sh3f", **header: str) -> Path:
    """A folder with a library. header: for `listed`."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr(LIST, listed(ENTRIES if entries is None else entries, **header))
        for path, content in (FILES if files is None else files).items():
            archive.writestr(path, content)
    return folder


def camera(azimuth: float = 0.0, elevation: float = 0.0) -> Cameras:
    """A camera far away; the middle pixel of its picture is [16, 16]."""
    return orbit(torch.tensor([azimuth]), torch.tensor([elevation]), torch.full((1,), 20.0), 6.0, 33, 33)


def things(tmp_path: Path, **words) -> tuple[Thing, Thing]:
    """The two objects. words: more fields of the `Words` of the first."""
    nosed, hooded = read_libraries(write_library(tmp_path / "lib"))
    return Thing(nosed, Words(("truck",), **words)), Thing(hooded, Words(("bowl",)))
