"""Draws a contact sheet of the catalogue of things as the training sees them, with the first word under each.

Each object is shown from azimuth 30 (from the front, a little to its left) and 210 in its own colours and, if it
has paints that can change, in red and yellow.

    python benchmarks/catalogue_sheet.py --catalogue /usr/share/sweethome3d/furniture --out sheet.png --to 96
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from threedgen.cameras.orbit import orbit
from threedgen.datasets.things.catalogue import Thing, read_catalogue, read_thing
from threedgen.datasets.things.painted_layers import (
    DISTANCE,
    FOV,
    find_paints,
    painted_layers,
    recolor,
    render,
)
from threedgen.datasets.things.thing_class import COLORS

AZIMUTHS, ELEVATION = (30.0, 210.0), 15.0
ACROSS = 8  # objects in a row
LINE = 12  # pixels, of the text under a picture


def pictures(thing: Thing, size: int, cache: Path | None) -> np.ndarray:
    """[size, 2 size or 3 size, 3], bytes."""
    painted = read_thing(thing, cache)
    count = len(AZIMUTHS)
    camera = orbit(
        torch.tensor(AZIMUTHS),
        torch.full((count,), ELEVATION),
        torch.full((count,), DISTANCE),
        FOV,
        size,
        size,
    )
    images = list(render(painted, camera).images)
    paints = find_paints(painted, thing.words.recolored)
    if paints.shares[0] > 0.0:
        colors = torch.tensor([COLORS["red"], COLORS["yellow"]])
        images += list(recolor(painted_layers(painted, paints, camera[:1]), colors, torch.ones(3)))
    else:
        images.append(torch.ones_like(images[0]))
    return (torch.cat(images, dim=1).clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--catalogue", type=Path, help="folder of .sh3f files (default: Debian's)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="N")
    parser.add_argument("--to", dest="last", type=int, metavar="M", help="the object before which to stop")
    parser.add_argument("--size", type=int, default=96, help="pixels of a picture")
    parser.add_argument("--cache", type=Path, help="folder that keeps unpacked models")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    things = read_catalogue(arguments.catalogue)
    chosen = things[arguments.first : arguments.last]
    wide, tall = 3 * arguments.size + 4, arguments.size + LINE
    sheet = Image.new("RGB", (wide * ACROSS, tall * -(-len(chosen) // ACROSS)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, thing in enumerate(chosen):
        left, top = wide * (index % ACROSS), tall * (index // ACROSS)
        sheet.paste(Image.fromarray(pictures(thing, arguments.size, arguments.cache)), (left, top))
        draw.text(
            (left + 2, top + arguments.size),
            f"{arguments.first + index} {thing.words.words[0]}",
            fill="black",
        )
    sheet.save(arguments.out)


if __name__ == "__main__":
    main()
