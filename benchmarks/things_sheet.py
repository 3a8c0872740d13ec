"""Draws a contact sheet of a family of procedural things: a row for each class, with its word.

The first four pictures of a row are the canonical thing from four sides in its natural colours (the first from the
front, turned by 30 degrees), the other four are random things in random colours from random sides.

    python benchmarks/things_sheet.py animals --out docs/images/things/animals.png
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from threedgen.cameras.orbit import orbit
from threedgen.datasets import world
from threedgen.datasets.things.thing_class import COLORS, FIXED_PAINTS, PAINTS, ThingClass

FOV, DISTANCE = 40.0, 2.85


def pictures(thing: ThingClass, size: int, rng: np.random.Generator) -> torch.Tensor:
    """[8, size, size, 3] in [0, 1]."""
    shown = []
    for index in range(8):
        canonical = index < 4
        pieces = thing.pieces(thing.canonical() if canonical else thing.sample(rng))
        azimuth = 30.0 + 90.0 * index if canonical else rng.uniform(0.0, 360.0)
        elevation = 15.0 if canonical else rng.uniform(-10.0, 50.0)
        camera = orbit(
            torch.tensor([azimuth]), torch.tensor([elevation]), torch.tensor([DISTANCE]), FOV, size, size
        )
        names = list(COLORS) if thing.recolored and not canonical else list(thing.natural)
        main = names[0] if canonical else names[rng.integers(len(names))]
        second = (
            thing.second[0 if canonical else rng.integers(len(thing.second))] if thing.second else "white"
        )
        layers = world.render_layers(world.layered([pieces], PAINTS, FIXED_PAINTS), camera, len(PAINTS))
        colors = torch.tensor([[COLORS[main], COLORS[second]]])
        shown.append(world.compose(layers, colors, torch.ones(1, 3)))
    return torch.cat(shown).clamp(0.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--only", nargs="*", help="words of the classes to draw; default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    family = importlib.import_module(f"threedgen.datasets.things.families.{arguments.family}")
    rng = np.random.default_rng(0)
    rows = []
    for word, thing in family.CLASSES.items():
        if arguments.only and word not in arguments.only:
            continue
        row = torch.cat(list(pictures(thing, arguments.size, rng)), dim=1)
        picture = Image.fromarray((row * 255.0).round().to(torch.uint8).numpy())
        ImageDraw.Draw(picture).text((2, 2), word, fill="black")
        rows.append(np.asarray(picture))
    columns = 2 if len(rows) > 8 else 1
    while len(rows) % columns:
        rows.append(np.full_like(rows[0], 255))
    half = len(rows) // columns
    sheet = np.concatenate([np.concatenate(rows[i * half : (i + 1) * half]) for i in range(columns)], axis=1)
    Image.fromarray(sheet).save(arguments.out)


if __name__ == "__main__":
    main()
