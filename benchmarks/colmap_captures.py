"""A COLMAP capture against the same pictures given exactly: held-out PSNR of `threedgen fit`.

    python benchmarks/colmap_captures.py [--mesh FILE] [--views 24] [--size 96] [--steps N] [--out runs/captures]
                                  [--markdown FILE]

A mesh (by default a painted ball with a box and a ring on it) is rendered from all around. "exact" is these
pictures as threedgen writes them. "colmap" is what a program that finds poses leaves of pictures of a real lens:
bent by OpenCV's distortion, twice as large, with the masks and the sparse points beside them, in a world that is
turned, scaled and shifted at random, written by pycolmap. Both are scored against the exact pictures that were held
out, by `threedgen eval --truth`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from tables import add_markdown, write_markdown

from threedgen.core.types import Cameras
from threedgen.datasets import mesh_files
from threedgen.datasets.given import held_out
from threedgen.datasets.multiview import PosedPictures, write_transforms

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from captures import gauge, moved_poses, write_colmap  # pyright: ignore[reportMissingImports]

LENS = (-0.12, 0.03, 0.002, -0.001)  # k1, k2, p1, p2 of OpenCV
LARGER = 2
SHARE = 0.8  # of the focal length, of the pinhole from which the lens is drawn


def painted_mesh(path: Path) -> None:
    """A ball with stripes, a box and a ring."""
    ball: Any = trimesh.creation.icosphere(subdivisions=5, radius=0.6)
    place = ball.vertices
    stripes = np.sin(12.0 * place[:, 1]) > 0
    colors = np.where(stripes[:, None], [[220, 60, 40]], [[240, 220, 120]])
    colors = np.where((np.sin(9.0 * place[:, 0]) > 0.4)[:, None], [[40, 90, 200]], colors)
    ball.visual.vertex_colors = np.concatenate([colors, np.full((len(colors), 1), 255)], axis=1).astype(
        np.uint8
    )
    box: Any = trimesh.creation.box((0.5, 0.5, 0.5))
    box.apply_translation([0.45, 0.5, 0.1])
    box.visual.vertex_colors = [40, 150, 80, 255]
    ring: Any = trimesh.creation.torus(0.8, 0.08)
    ring.visual.vertex_colors = [90, 60, 130, 255]
    trimesh.util.concatenate([ball, box, ring]).export(path)


def bent(painted: Any, exact: PosedPictures, size: int) -> tuple[PosedPictures, np.ndarray]:
    """The capture of the lens: its cameras (those of the exact pictures, wider) and its RGBA pictures of uint8."""
    import pycolmap

    side = LARGER * size
    cameras = exact.cameras.resized(side, side)
    matrix = cameras.intrinsics
    wide = Cameras(cameras.world_from_camera, matrix, side, side, cameras.time)
    k = matrix[0]
    four = [k[0, 0].item(), k[1, 1].item(), k[0, 2].item(), k[1, 2].item()]
    camera = pycolmap.Camera(model="OPENCV", width=side, height=side, params=[*four, *LENS], camera_id=1)
    rows, columns = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5, indexing="ij")
    rays: Any = camera.cam_from_img(np.stack([columns, rows], -1).reshape(-1, 2))
    # A pinhole that shows more, twice as fine, from which every pixel of the lens takes its colour.
    fine = 2 * side
    straight = Cameras(
        wide.world_from_camera,
        matrix * torch.tensor([2.0 * SHARE, 2.0 * SHARE, 1.0])[:, None],
        fine,
        fine,
        wide.time,
    )
    straight.intrinsics[:, :2, 2] = 0.5 * fine
    k = straight.intrinsics[0]
    at = torch.from_numpy(rays).float() * torch.stack([k[0, 0], k[1, 1]]) + k[:2, 2]
    grid = (2.0 * at / fine - 1.0).reshape(1, side, side, 2)
    pictures = []
    for view in range(len(wide)):
        seen = mesh_files.render(painted, straight[view : view + 1])
        both = torch.cat([seen.images, seen.alpha], dim=3).permute(0, 3, 1, 2)
        found = torch.nn.functional.grid_sample(both, grid, align_corners=False, padding_mode="border")
        pictures.append((found[0].permute(1, 2, 0).clamp(0.0, 1.0) * 255).round().byte().numpy())
    layers = np.stack(pictures)
    rgb, alpha = (torch.from_numpy(part).float() / 255 for part in (layers[..., :3], layers[..., 3:]))
    return PosedPictures(rgb, alpha, wide), layers


def part(pictures: PosedPictures, chosen: torch.Tensor) -> PosedPictures:
    return PosedPictures(pictures.images[chosen], pictures.alpha[chosen], pictures.cameras[chosen])


def run(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "threedgen", *command], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mesh", type=Path)
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", default="300")
    parser.add_argument("--out", type=Path, default=Path("runs/captures"))
    add_markdown(parser)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    mesh = arguments.mesh or arguments.out / "painted.ply"
    if arguments.mesh is None:
        painted_mesh(mesh)
    painted = mesh_files.read_painted(mesh)
    exact = mesh_files.render(painted, mesh_files.fibonacci_views(arguments.views, arguments.size))
    tests = torch.zeros(arguments.views, dtype=torch.bool)
    tests[held_out(arguments.views, 8)] = True
    write_transforms(arguments.out / "exact", part(exact, ~tests))
    capture, layers = bent(painted, part(exact, ~tests), arguments.size)
    matrix = gauge(7, 2.3)
    draw = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(painted.mesh.vertices), (2000,), generator=draw)
    points = painted.mesh.vertices[chosen].double() @ matrix[:3, :3].T + matrix[:3, 3]
    write_colmap(
        arguments.out / "colmap",
        capture,
        moved_poses(capture, matrix),
        model="OPENCV",
        extra=LENS,
        points=points,
        masks=True,
        see=lambda view: layers[view, ..., :3],
    )
    write_transforms(arguments.out / "truth", part(exact, tests))
    # The truth of the capture stands where the capture stands.
    moved = part(exact, tests)
    write_transforms(arguments.out / "truth-colmap", moved)
    file = arguments.out / "truth-colmap/transforms.json"
    document = json.loads(file.read_text()) | {"capture_from_world": matrix.tolist()}
    file.write_text(json.dumps(document))
    lines = ["| pictures | held-out PSNR | SSIM |", "|---|---|---|"]
    for name, truth in (("exact", "truth"), ("colmap", "truth-colmap")):
        folder = arguments.out / f"run-{name}"
        run(
            "fit",
            str(arguments.out / name),
            "--out",
            str(folder),
            "--steps",
            arguments.steps,
            "cameras.holdout=0",
        )
        run("eval", str(folder), "--truth", str(arguments.out / truth), "--out", str(folder / "scores"))
        rows = (folder / "scores/views.csv").read_text().splitlines()
        keys = rows[0].split(",")
        values = [dict(zip(keys, row.split(","), strict=True)) for row in rows[1:]]
        psnr, ssim = (sum(float(row[key]) for row in values) / len(values) for key in ("psnr", "ssim"))
        lines.append(f"| {name} | {psnr:.2f} dB | {ssim:.4f} |")
        print(lines[-1], flush=True)
    write_markdown(arguments.markdown, "\n".join(lines))


if __name__ == "__main__":
    main()
