"""Meshes of exact maps of normals against the truth: Chamfer distances of what is carved and of what is fused.

    python benchmarks/normal_fusion.py MESH ... [--views 6] [--size 96] [--voxel 0.04] [--sheet PNG]
                                       [--markdown FILE]

The true normals and outlines of each mesh, which is scaled to a ball of radius 0.9, are rendered from a level ring
of four views and, of six, from above and below. The sheet shows of each mesh the true normals, those of the carved
mesh and those of the fused one, from a view of the ring and from two between its views.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from image_to_3d import chamfer
from tables import add_markdown, write_markdown
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core.png import to_uint8, write_png
from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets.mesh_files import read_mesh
from threedgen.reconstruction.carving import carved
from threedgen.reconstruction.normal_fusion import Config, fused, smooth_normals
from threedgen.renderers.mesh import MeshRenderer

HEADER = "| mesh | views | carved, voxels | fused, voxels | s |\n" + "|---" * 5 + "|"
RING = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0), (0.0, 80.0), (0.0, -80.0))
SHOWN = ((0.0, 0.0), (45.0, 30.0), (225.0, 20.0))


def cameras_at(angles: tuple[tuple[float, float], ...], size: int) -> Cameras:
    azimuth, elevation = torch.tensor(angles).unbind(1)
    return orbit(azimuth, elevation, torch.full_like(azimuth, DISTANCE), FOV, size, size)


@torch.no_grad()
def maps(mesh: TriMesh, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Unit normals and coverages."""
    shaded = replace(mesh, normals=smooth_normals(mesh.vertices, mesh.faces))
    seen = MeshRenderer()(shaded, cameras, torch.zeros(3))
    assert seen.normal is not None
    return torch.nn.functional.normalize(seen.normal, dim=-1), seen.alpha


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("meshes", type=Path, nargs="+", metavar="MESH")
    parser.add_argument("--views", type=int, choices=(4, 6), default=6)
    parser.add_argument("--size", type=int, default=96, help="pixels of the maps")
    parser.add_argument("--voxel", type=float, default=Config().voxel, help="world units")
    parser.add_argument("--sheet", type=Path, metavar="PNG")
    add_markdown(parser)
    arguments = parser.parse_args()
    cameras = cameras_at(RING[: arguments.views], arguments.size)
    lines, rows = [HEADER], []
    for path in arguments.meshes:
        true = read_mesh(path)
        normals, alpha = maps(true, cameras)
        first = carved(alpha[..., 0], cameras, arguments.voxel)
        began = time.perf_counter()
        made = fused(normals, alpha, cameras, Config(voxel=arguments.voxel))
        seconds = time.perf_counter() - began
        scores = [chamfer(mesh, true) / arguments.voxel for mesh in (first, made)]
        lines.append(
            f"| {path.stem} | {arguments.views} | {scores[0]:.2f} | {scores[1]:.2f} | {seconds:.0f} |"
        )
        print(lines[-1], flush=True)
        pictures = [maps(mesh, cameras_at(SHOWN, 160)) for mesh in (true, first, made)]
        rows.append(torch.cat([0.5 + 0.5 * own for pair in pictures for own in pair[0]], dim=1))
    if arguments.sheet is not None:
        write_png(arguments.sheet, to_uint8(torch.cat(rows)))
    write_markdown(arguments.markdown, "\n".join(lines))


if __name__ == "__main__":
    main()
