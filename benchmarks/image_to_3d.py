"""`threedgen image-to-3d` on pictures and on renders of meshes: scores of the reference view, seconds, memory.

    python benchmarks/image_to_3d.py [PICTURE ...] [--meshes MESH[@TEXTURE] ...] [--recipe image-to-3d]
                                     [--out runs/image-to-3d] [--markdown FILE] [--sheet FILE.png]

Each row is the command a user types, in a process of its own. A mesh is rendered from the front, cut out, and
the asset is compared with the mesh from seven more sides a turn of 45 degrees apart: side PSNR and IoU, where
the back is what the prior made of it. The reference PSNR and the mask IoU are of the given picture, with its
pixels; those of report.json are of the pixels in which the Gaussians were optimised. Scores and pictures are of
asset.glb, read back from the file; the scores of the Gaussians are beside them. Rows whose run is in --out are not
made again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from looks import Looks, both
from PIL import Image, ImageDraw, ImageFont
from tables import add_markdown, write_markdown

from threedgen.cameras.orbit import orbit
from threedgen.core.pictures import psnr, silhouette_iou
from threedgen.core.types import Cameras
from threedgen.datasets import mesh_files
from threedgen.datasets.cut_outs import DISTANCE, FILL, FOV
from threedgen.datasets.multiview import PosedPictures
from threedgen.jobs.asset import given_views
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.load import read_resolved

LIGHT = 0.4
SHOWN = (0.0, 45.0, 90.0, 180.0, 270.0, 315.0)
HEADER = (
    "| picture | reference PSNR | mask IoU | side PSNR | side IoU | Gaussians: reference PSNR | mask IoU "
    "| side PSNR | side IoU | s | GB |\n" + "|---" * 11 + "|"
)


def ring(azimuths: tuple[float, ...], size: int) -> Cameras:
    """Level cameras where the picture's camera stands, turned."""
    angles = torch.tensor(azimuths)
    full = torch.ones_like(angles)
    return orbit(angles, 0.0 * full, DISTANCE * full, FOV, size, size)


def framed(
    painted: mesh_files.PaintedMesh, seen: Callable[[mesh_files.PaintedMesh], PosedPictures]
) -> mesh_files.PaintedMesh:
    """The mesh, moved and scaled so that the cut-out of its picture has the frame of the picture itself: the asset
    is then where the mesh is. seen: its picture of 512 pixels from azimuth 0."""
    for _ in range(2):  # perspective: the second time corrects what the first moved
        picture = seen(painted)
        alpha = picture.alpha[0, ..., 0].numpy()
        rows, columns = np.nonzero(alpha >= 0.5)
        x, y = (0.5 * (places.min() + places.max() + 1) for places in (columns, rows))
        radius = np.hypot(np.abs(columns + 0.5 - x) + 0.5, np.abs(rows + 0.5 - y) + 0.5).max()
        pixel = 2.0 * DISTANCE * math.tan(math.radians(FOV / 2.0)) / 512  # world units, at the origin's depth
        pose = picture.cameras.world_from_camera[0, :3, :3]
        shift = pose @ torch.tensor([(x - 256.0) * pixel, (y - 256.0) * pixel, 0.0]).float()
        vertices = (painted.mesh.vertices - shift) * (FILL * 256.0 / radius)
        painted = replace(painted, mesh=replace(painted.mesh, vertices=vertices))
    return painted


def framed_file(mesh: str) -> mesh_files.PaintedMesh:
    """The mesh of a file, FILE or FILE@TEXTURE, framed from the front."""
    path, _, texture = mesh.partition("@")
    painted = mesh_files.read_painted(path, texture or None)
    return framed(painted, lambda mesh: mesh_files.render(mesh, ring((0.0,), 512)))


def picture_of(mesh: str, out: Path) -> Path:
    """The mesh from the front, cut out, lit a little so that its shape shows."""
    seen = mesh_files.render(framed_file(mesh), ring((0.0,), 512), LIGHT)
    straight = (seen.images - (1.0 - seen.alpha)) / seen.alpha.clamp_min(1e-6)
    rgba = torch.cat([straight.clamp(0.0, 1.0), seen.alpha], dim=-1)[0]
    target = out / f"{Path(mesh.partition('@')[0]).stem}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(target, (rgba * 255.0).round().byte().numpy())
    return target


def run(picture: Path, recipe: str, folder: Path, options: Sequence[str] = ()) -> None:
    """The command, if its run is not there; seconds go into a file of their own."""
    if (folder / "seconds").is_file():
        return
    command = ["-m", "threedgen", "image-to-3d", str(picture), "--recipe", recipe, "--out", str(folder)]
    started = time.perf_counter()
    subprocess.run([sys.executable, *command, *options], check=True, stdout=subprocess.DEVNULL)
    (folder / "seconds").write_text(f"{time.perf_counter() - started:.1f}")


def row(name: str, folder: Path, mesh: str | None) -> str:
    """One line of the table."""
    report, seconds = (
        json.loads((folder / "report.json").read_text()),
        float((folder / "seconds").read_text()),
    )
    given = given_views(read_resolved(RunDirectory.open(folder).recipe))[0]
    true = [PosedPictures((given.rgb + 1.0 - given.alpha)[None], given.alpha[None], given.camera)]
    if mesh is not None:
        sides = ring(tuple(45.0 * turn for turn in range(1, 8)), 128)
        true.append(mesh_files.render(framed_file(mesh), sides, LIGHT))
    cells = [name]
    for looks in both(folder):
        for pictures in true:
            decibels, overlap = compared(looks, pictures)
            cells += [f"{decibels:.1f}", f"{overlap:.3f}"]
        cells += ["-", "-"] * (2 - len(true))
    cells += [f"{seconds:.0f}", f"{report['peak_memory_bytes'] / 1e9:.2f}"]
    return "| " + " | ".join(cells) + " |"


def compared(looks: Looks, true: PosedPictures) -> tuple[float, float]:
    """PSNR and IoU of an asset, means over pictures on white."""
    rgb, alpha = looks(true.cameras)
    return float(psnr(rgb, true.images).mean()), float(silhouette_iou(alpha, true.alpha).mean())


def sheet(runs: list[tuple[str, Path]], path: Path, size: int = 160) -> None:
    """One row a run: the cut-out, then the mesh from SHOWN."""
    rows = []
    for _, folder in runs:
        cut_out = Image.open(folder / "reference" / "picture.png").resize(
            (size, size), Image.Resampling.LANCZOS
        )
        white = Image.new("RGBA", cut_out.size, "white")
        seen = np.asarray(Image.alpha_composite(white, cut_out.convert("RGBA")).convert("RGB"))
        rgb, _ = both(folder)[0](ring(SHOWN, size))
        views = [(view.clamp(0.0, 1.0) * 255.0).round().byte().numpy() for view in rgb]
        rows.append(np.concatenate([seen, *views], axis=1))
    picture = Image.fromarray(np.concatenate(rows))
    labelled = Image.new("RGB", (picture.width, picture.height + 24), "white")
    labelled.paste(picture, (0, 24))
    draw, font = ImageDraw.Draw(labelled), ImageFont.load_default(14)
    for column, label in enumerate(["cut-out", *(f"{azimuth:.0f} degrees" for azimuth in SHOWN)]):
        draw.text((column * size + 8, 4), label, fill="black", font=font)
    labelled.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--meshes", nargs="*", default=[], metavar="MESH[@TEXTURE]")
    parser.add_argument("--recipe", default="image-to-3d")
    parser.add_argument("--out", type=Path, default=Path("runs/image-to-3d"))
    add_markdown(parser)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    jobs: list[tuple[Path, str | None]] = [(picture, None) for picture in arguments.pictures]
    jobs += [(picture_of(mesh, arguments.out / "pictures"), mesh) for mesh in arguments.meshes]
    lines, runs = [HEADER], []
    print(HEADER)
    for picture, mesh in jobs:
        folder = arguments.out / arguments.recipe / picture.stem
        run(picture, arguments.recipe, folder)
        runs.append((picture.stem, folder))
        lines.append(row(picture.stem, folder, mesh))
        print(lines[-1], flush=True)
    write_markdown(arguments.markdown, "\n".join(lines))
    if arguments.sheet:
        sheet(runs, arguments.sheet)


if __name__ == "__main__":
    main()
