"""Does Open3D read the meshes that are written? Where the tips of the axes are, and what colours them.

    python benchmarks/still_files.py --out FOLDER
    python -m venv open3d && open3d/bin/pip install open3d     # it needs libusb-1.0 and libGL
    open3d/bin/python benchmarks/still_in_open3d.py FOLDER

Only open3d and numpy are needed. The tip of the red axis must be at x = 1, of the green one at y = 2 (up) and of
the blue one at z = 3, with their colours or a texture. It reads no textures in WebP and no .usda, and meshes of a
.usdz only where they have a texture. The exit code is 1 where something else is missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (1.0, 2.0, 3.0)
FAR = 0.001  # world units
NAMES = ("asset.glb", "asset.gltf", "small.glb", "asset.obj", "asset.stl", "asset.usdz")


def read(open3d: Any, path: Path) -> bool:
    """Prints what is found in a file; whether it is right."""
    model = open3d.io.read_triangle_model(str(path))
    if len(model.meshes) != 1:
        print(f"{path.parent.name}/{path.name}: {len(model.meshes)} meshes")
        return False
    mesh = model.meshes[0].mesh
    places = np.asarray(mesh.vertices)
    if path.suffix == ".stl":  # its z is up
        places = np.stack([places[:, 0], places[:, 2], -places[:, 1]], axis=1)
    far = float(np.abs(places.max(axis=0) - LENGTHS).max())
    colored = mesh.has_vertex_colors()
    textured = model.materials[0].albedo_img is not None
    kind = "colours" if colored else "texture" if textured else "none"
    print(f"{path.parent.name}/{path.name}: tips are off by {far:.1e}; what colours it: {kind}")
    tips = places.argmax(axis=0)
    right = not colored or bool(np.abs(np.asarray(mesh.vertex_colors)[tips] - np.eye(3)).max() < 0.02)
    colorless = path.suffix == ".stl" or (path.name == "small.glb" and path.parent.name == "texture")
    return far < FAR and right and (colorless or kind == path.parent.name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what still_files.py wrote with --out")
    folder = parser.parse_args().folder
    import open3d  # pyright: ignore[reportMissingImports]

    files = [folder / kind / name for kind in ("colours", "texture") for name in NAMES]
    readable = [path for path in files if path != folder / "colours" / "asset.usdz"]
    good = [read(open3d, path) for path in readable]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
