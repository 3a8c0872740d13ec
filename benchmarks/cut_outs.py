"""How well the object of a photo is told from its background: IoU with a known outline.

    python benchmarks/cut_outs.py PICTURE ... [--markdown FILE]

Each PICTURE has transparency, which is the truth. It is laid on grass, brick and gravel (photos of scikit-image, in
colours) and cut out again by the border of the picture and, if the variable THREEDGEN_ISNET names it, by ISNet.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
from jaxtyping import UInt8
from PIL import Image
from tables import add_markdown, write_markdown

from threedgen.core.errors import UserError
from threedgen.datasets.background_removal import cut_out
from threedgen.datasets.learned_removal import ISNET, learned_alpha

SIDE, OBJECT = 512, 330  # pixels of a scene, and of the longer side of the object in it
COLORS = {"grass": (120, 190, 70), "brick": (230, 140, 110), "gravel": (215, 205, 190)}


def scene(path: Path, ground: str) -> tuple[UInt8[np.ndarray, "SIDE SIDE 3"], UInt8[np.ndarray, "SIDE SIDE"]]:
    """The object of a picture on a ground, and its alpha."""
    shown = Image.open(path).convert("RGBA")
    shown = shown.crop(shown.getchannel("A").point([255 * (level > 127) for level in range(256)]).getbbox())
    ratio = OBJECT / max(shown.size)
    shown = shown.resize((round(shown.width * ratio), round(shown.height * ratio)), Image.Resampling.LANCZOS)
    grey = np.asarray(getattr(skimage.data, ground)(), float)[..., None] / 255.0
    below = Image.fromarray((grey * COLORS[ground]).astype(np.uint8)).convert("RGBA")
    layer = Image.new("RGBA", (SIDE, SIDE))
    layer.paste(shown, ((SIDE - shown.width) // 2, (SIDE - shown.height) // 2 + 20))
    photo = Image.alpha_composite(below, layer).convert("RGB")
    return np.asarray(photo), np.asarray(layer.getchannel("A"))


def overlap(alpha: UInt8[np.ndarray, "H W"], truth: UInt8[np.ndarray, "H W"]) -> float:
    one, other = alpha > 127, truth > 127
    return float((one & other).sum() / (one | other).sum())


def by_isnet(rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    found = learned_alpha(rgb)
    assert found is not None
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    add_markdown(parser)
    arguments = parser.parse_args()
    methods: dict[str, Callable[[UInt8[np.ndarray, "H W 3"]], UInt8[np.ndarray, "H W"]]] = {"border": cut_out}
    if os.environ.get(ISNET):
        methods["ISNet"] = by_isnet
    rows = []
    for name, method in methods.items():
        begun, values = time.perf_counter(), []
        for path in arguments.pictures:
            row = []
            for ground in COLORS:
                photo, truth = scene(path, ground)
                try:
                    row.append(overlap(method(photo), truth))
                except UserError:
                    row.append(0.0)
            values += row
            rows.append(f"| {name} | {path.stem} | " + " | ".join(f"{value:.2f}" for value in row) + " | |")
            print(rows[-1], flush=True)
        seconds = (time.perf_counter() - begun) / len(values)
        rows.append(f"| {name} | mean | {np.mean(values):.3f} | | | {seconds:.1f} |")
        print(rows[-1], flush=True)
    header = f"| by | picture | {' | '.join(COLORS)} | s a picture |\n" + "|---" * 6 + "|"
    write_markdown(arguments.markdown, "\n".join([header, *rows]))


if __name__ == "__main__":
    main()
