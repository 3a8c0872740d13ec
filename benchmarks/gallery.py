"""One picture of the meshes of many runs, two views of each with its prompt below: that at the top of the README.

The meshes are those of asset.glb, read back from the files. The runs of that picture are `threedgen text-to-3d`
of "a cat", "a penguin", "a green tractor", "a red mushroom", "a bird on a house", "a hot air balloon", "a grand
piano" and "a robot beside a rocket".

python benchmarks/gallery.py OUT.png RUN [RUN ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from looks import both
from PIL import Image, ImageDraw, ImageFont

from threedgen import load_run
from threedgen.cameras.orbit import orbit

SIZE = 150
COLUMNS = 4
AZIMUTHS = (35.0, 215.0)
LABEL = 22


def tile(folder: str) -> Image.Image:
    """Front and back of one run's mesh, side by side on white."""
    azimuth = torch.tensor(AZIMUTHS)
    full = torch.ones_like(azimuth)
    cameras = orbit(azimuth, 25.0 * full, 2.7 * full, 40.0, SIZE, SIZE)
    rgb, _ = both(Path(folder))[0](cameras)
    pixels = (rgb.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    picture = Image.new("RGB", (2 * SIZE, SIZE + LABEL), "white")
    picture.paste(Image.fromarray(np.concatenate(list(pixels), axis=1)))
    font = ImageFont.load_default(size=14)
    ImageDraw.Draw(picture).text(
        (SIZE, SIZE), load_run(folder).recipe.prompt, fill="black", font=font, anchor="ma"
    )
    return picture


def main(out: str, folders: list[str]) -> None:
    tiles = [tile(folder) for folder in folders]
    rows = -(-len(tiles) // COLUMNS)
    columns = min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * 2 * SIZE, rows * (SIZE + LABEL)), "white")
    for index, picture in enumerate(tiles):
        sheet.paste(picture, (index % COLUMNS * 2 * SIZE, index // COLUMNS * (SIZE + LABEL)))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
