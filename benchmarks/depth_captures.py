"""A capture of few views with depths against the same without: held-out PSNR and depth error of `threedgen fit`.

    python benchmarks/depth_captures.py [--views 6] [--size 96] [--steps 300] [--out runs/depths] [--markdown FILE]

A deep bowl of one grey with a red box in it is rendered from around and above. Its outline says nothing of its
inside, nor does its colour. "sensor" is depths as a sensor gives them: a quarter of the pixels on each side,
noise of 1 % of the depth, a tenth unknown, and a twentieth wrong by up to half a unit. All rows are scored on the
same 8 views between the others, by what `fit` writes into its report.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tables import add_markdown, write_markdown

from threedgen.core.pictures import nearest
from threedgen.datasets.multiview import PosedPictures, write_transforms

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from captures import from_above, plain_bowl, seen_with_depths  # pyright: ignore[reportMissingImports]

HELD_OUT = 8


def sensed(depths: torch.Tensor) -> torch.Tensor:
    """Depths [B, H, W] as a sensor gives them."""
    draw = torch.Generator().manual_seed(0)
    height, width = depths.shape[1:]
    coarse = nearest(depths, height // 4, width // 4)
    noisy = coarse * (1.0 + 0.01 * torch.randn(coarse.shape, generator=draw))
    kind = torch.rand(coarse.shape, generator=draw)
    noisy = torch.where(kind < 0.1, torch.nan, noisy)
    wrong = noisy + torch.rand(coarse.shape, generator=draw) - 0.5
    return nearest(torch.where(kind > 0.95, wrong, noisy), height, width)


def capture(folder: Path, train: PosedPictures, tests: PosedPictures, depths: torch.Tensor) -> None:
    """Writes the pictures to train on, with these depths, and the others, which are set apart."""
    assert tests.depths is not None
    cameras = train.cameras
    joined = replace(
        cameras,
        world_from_camera=torch.cat([cameras.world_from_camera, tests.cameras.world_from_camera]),
        intrinsics=torch.cat([cameras.intrinsics, tests.cameras.intrinsics]),
        time=torch.cat([cameras.time, tests.cameras.time]),
    )
    images, alpha = (
        torch.cat([getattr(part, name) for part in (train, tests)]) for name in ("images", "alpha")
    )
    both = PosedPictures(images, alpha, joined, depths=torch.cat([depths, tests.depths]))
    write_transforms(folder, both)
    file = folder / "transforms.json"
    document = json.loads(file.read_text())
    document["test_filenames"] = [frame["file_path"] for frame in document["frames"][len(depths) :]]
    file.write_text(json.dumps(document))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", default="300")
    parser.add_argument("--out", type=Path, default=Path("runs/depths"))
    parser.add_argument("settings", nargs="*", help="key=value settings of the recipe, for all rows")
    add_markdown(parser)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    bowl = plain_bowl()
    train = seen_with_depths(bowl, from_above(arguments.views, arguments.size))
    tests = seen_with_depths(bowl, from_above(HELD_OUT, arguments.size, first=20.0))
    assert train.depths is not None
    unknown = torch.full_like(train.depths, torch.nan)
    rows = {
        "none": (unknown, []),
        "exact, only as the start": (train.depths, ["guidance.0.depth=0"]),
        "exact": (train.depths, []),
        "sensor": (sensed(train.depths), []),
    }
    lines = ["| depths | held-out PSNR | SSIM | depth error |", "|---|---|---|---|"]
    for name, (depths, settings) in rows.items():
        folder = arguments.out / name.replace(" ", "-").replace(",", "")
        capture(folder / "capture", train, tests, depths)
        words = ["fit", str(folder / "capture"), "--out", str(folder / "run"), "--steps", arguments.steps]
        words += [*settings, *arguments.settings]
        subprocess.run([sys.executable, "-m", "threedgen", *words], check=True, stdout=subprocess.DEVNULL)
        scores = json.loads((folder / "run/report.json").read_text())["scores"]
        lines.append(
            f"| {name} | {scores['psnr']:.2f} dB | {scores['ssim']:.4f} | {scores['depth_error']:.4f} |"
        )
        print(lines[-1], flush=True)
    write_markdown(arguments.markdown, "\n".join(lines))


if __name__ == "__main__":
    main()
