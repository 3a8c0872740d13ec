"""One picture of runs that move, a row each: eight moments from the film's camera, the prompt beside them.

python benchmarks/film_strips.py OUT.png RUN [RUN ...]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from threedgen.cameras.orbit import orbit
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.load import read_resolved

SIZE, MOMENTS, LABEL = 96, 8, 170
AZIMUTH, ELEVATION, DISTANCE, FOV = 25.0, 15.0, 4.0, 40.0


def strip(folder: str) -> Image.Image:
    """A run's prompt and its moments, side by side on white."""
    run = RunDirectory.open(folder)
    recipe = read_resolved(run.recipe)
    full, times = torch.ones(MOMENTS), torch.linspace(0.0, 1.0, MOMENTS)
    cameras = orbit(AZIMUTH * full, ELEVATION * full, DISTANCE * full, FOV, SIZE, SIZE)
    with torch.no_grad():
        moving = load_scene(run, recipe).at(times)
        rgb = recipe.renderer.make()(moving, replace(cameras, time=times), torch.ones(3)).rgb
    pixels = (rgb.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    picture = Image.new("RGB", (LABEL + MOMENTS * SIZE, SIZE), "white")
    picture.paste(Image.fromarray(np.concatenate(list(pixels), axis=1)), (LABEL, 0))
    font = ImageFont.load_default(size=14)
    ImageDraw.Draw(picture).text((LABEL - 8, SIZE // 2), recipe.prompt, fill="black", font=font, anchor="rm")
    return picture


def main(out: str, folders: list[str]) -> None:
    rows = [strip(folder) for folder in folders]
    sheet = Image.new("RGB", (rows[0].width, SIZE * len(rows)), "white")
    for index, row in enumerate(rows):
        sheet.paste(row, (0, index * SIZE))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
