"""Does Blender show what is written? Where the parts of an asset are, and their colours, as Blender has them.

    python benchmarks/still_files.py --out FOLDER
    blender/bin/python benchmarks/still_in_blender.py FOLDER

Only bpy and numpy are needed (see play_in_blender.py). Every file of colours/ and texture/ is imported as a user
would; the tip of the red axis must be at x = 1, of the green one at y = 2 (up) and of the blue one at z = 3, and
have that colour. The exit code is 1 where one is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (1.0, 2.0, 3.0)
FAR = 0.001  # world units
OFF = 0.02  # of a colour in linear light, in [0, 1]


def imported(bpy: Any, path: Path) -> Any:
    """The mesh object of a file, alone in an empty scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    load = {
        ".glb": bpy.ops.import_scene.gltf,
        ".gltf": bpy.ops.import_scene.gltf,
        ".obj": bpy.ops.wm.obj_import,
        ".stl": bpy.ops.wm.stl_import,
    }.get(path.suffix, bpy.ops.wm.usd_import)
    load(filepath=str(path))
    (found,) = [item for item in bpy.context.scene.objects if item.type == "MESH"]
    return found


def places(item: Any) -> np.ndarray:
    """Its vertices [V, 3] in +Y up."""
    flat = np.empty(3 * len(item.data.vertices), dtype=np.float32)
    item.data.vertices.foreach_get("co", flat)
    world = np.array(item.matrix_world)
    x, y, z = (flat.reshape(-1, 3) @ world[:3, :3].T + world[:3, 3]).T
    return np.stack([x, z, -y], axis=1)


def color_of(item: Any, vertex: int) -> np.ndarray:
    """The colour [3] of one vertex in linear light: of the texture of its material, or its own."""
    loop = next(loop for loop in item.data.loops if loop.vertex_index == vertex)
    nodes = item.data.materials[0].node_tree.nodes if item.data.materials else []
    image = next((node.image for node in nodes if node.type == "TEX_IMAGE" and node.image), None)
    if image is None:
        colors = item.data.color_attributes[0]
        return np.array(colors.data[vertex if colors.domain == "POINT" else loop.index].color)[:3]
    width, height = image.size
    pixels = np.empty(4 * width * height, dtype=np.float32)
    image.pixels.foreach_get(pixels)  # as in the file, from the lowest row up
    u, v = item.data.uv_layers[0].data[loop.index].uv
    shown = pixels.reshape(height, width, 4)[
        min(int(v * height), height - 1), min(int(u * width), width - 1), :3
    ]
    return np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what still_files.py wrote")
    folder = parser.parse_args().folder
    import bpy  # pyright: ignore[reportMissingImports]

    good = True
    print(f"Blender {bpy.app.version_string}")
    for path in sorted(folder.glob("*/*")):
        if path.suffix in (".html", ".mtl", ".png"):
            continue
        item = imported(bpy, path)
        vertices = places(item)
        tips = vertices.argmax(axis=0)
        far = float(np.abs(vertices.max(axis=0) - LENGTHS).max())
        off = 0.0
        if path.suffix != ".stl":
            off = float(
                max(np.abs(color_of(item, int(tip)) - np.eye(3)[axis]).max() for axis, tip in enumerate(tips))
            )
        print(f"{path.parent.name}/{path.name}: tips are off by {far:.1e}, their colours by {off:.3f}")
        good = good and far <= FAR and off <= OFF
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
