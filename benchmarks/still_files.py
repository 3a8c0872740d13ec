"""What an asset that stands still costs as a file: bytes and seconds, format by format.

    python benchmarks/still_files.py [--out DIR] [--run RUN] [--markdown FILE]

The asset is three axes of length 1, 2 and 3 in red, green and blue, so that it shows how a program turns it, once
with vertex colours and once with a texture; with --run it is the mesh of a run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tables import add_markdown, write_markdown

from threedgen.core.types import TriMesh
from threedgen.export import write
from threedgen.export.packing import Packing
from threedgen.representations.texture_atlas import bake_vertex_colors

NAMES = ("asset.glb", "asset.gltf", "asset.obj", "asset.stl", "asset.usdz", "asset.usda", "asset.html")
PACKED = {"small.glb": Packing("webp", draco=True)}


def axes() -> TriMesh:
    """Three rods from the origin, thinner than 0.1."""
    import trimesh
    from trimesh.visual import ColorVisuals

    body = trimesh.creation.axis(origin_size=0.05, axis_radius=0.03, axis_length=1.0)
    assert isinstance(body, trimesh.Trimesh)
    assert isinstance(body.visual, ColorVisuals)
    vertices = np.asarray(body.vertices) * [1.0, 2.0, 3.0]
    colors = np.asarray(body.visual.vertex_colors)[:, :3] / 255.0
    return TriMesh(
        torch.from_numpy(vertices).float(),
        torch.from_numpy(np.asarray(body.faces)).long(),
        torch.from_numpy(colors).float(),
    )


def mesh_of(run: str | None) -> TriMesh:
    """The mesh of a run with its vertex colours, or the axes."""
    if run is None:
        return axes()
    from threedgen.export.gltf import read_glb

    return read_glb(Path(run) / "asset.glb")[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="keep the files in this folder, in colours/ and texture/")
    parser.add_argument("--run", help="a finished run whose mesh has vertex colours")
    parser.add_argument("--texture-size", type=int, default=512, help="pixels along a side; default: 512")
    add_markdown(parser)
    arguments = parser.parse_args()
    plain = mesh_of(arguments.run)
    meshes = {"colours": plain, "texture": bake_vertex_colors(plain, arguments.texture_size)}
    lines = [
        f"{len(plain.vertices)} vertices, {len(plain.faces)} triangles, texture of {arguments.texture_size} pixels",
        "",
        "| file | colours, MB | seconds | texture, MB | seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        for name in (*NAMES, *PACKED):
            cells = []
            for kind, mesh in meshes.items():
                begin = time.perf_counter()
                write(mesh, folder / kind / name, packing=PACKED.get(name))
                took = time.perf_counter() - begin
                size = (folder / kind / name).stat().st_size
                cells.append(f"{size / 1e6:.3g} | {took:.2f}")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    print(text)
    write_markdown(arguments.markdown, text)


if __name__ == "__main__":
    main()
