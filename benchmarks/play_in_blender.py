"""Does Blender play what is written? Vertices of anim.glb, and of the same motion as USD, as Blender has them.

    python -m venv blender && blender/bin/pip install bpy      # Blender as a Python module, of Python's own version
    blender/bin/python benchmarks/play_in_blender.py anim.glb [anim.usdz]

Only bpy and numpy are needed. What the vertices should be is read from the GLB's own arrays; the files are
imported, and compared at two frames and half way between two. The exit code is 1 where they differ by over 1e-4.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

LIMIT = 1e-4


def frames_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times [T] in seconds and vertices [T, V, 3] of a GLB with one morph target a frame."""
    raw = path.read_bytes()
    length = struct.unpack_from("<I", raw, 12)[0]
    document, data = json.loads(raw[20 : 20 + length]), raw[28 + length :]

    def array(index: int) -> np.ndarray:
        accessor = document["accessors"][index]
        width = {"SCALAR": 1, "VEC3": 3}[accessor["type"]]
        start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
        return np.frombuffer(data, "<f4", accessor["count"] * width, start).reshape(-1, width)

    primitive = document["meshes"][0]["primitives"][0]
    (sampler,) = document["animations"][0]["samplers"]
    base = array(primitive["attributes"]["POSITION"])
    targets = [base + array(target["POSITION"]) for target in primitive["targets"]]
    return array(sampler["input"])[:, 0], np.stack([base, *targets])


def imported(bpy: Any, path: Path) -> Any:
    """The mesh object of a file, alone in an empty scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path.suffix == ".glb":
        bpy.ops.import_scene.gltf(filepath=str(path))
    else:
        bpy.ops.wm.usd_import(filepath=str(path))
    (found,) = [item for item in bpy.context.scene.objects if item.type == "MESH"]
    return found


def vertices_at(bpy: Any, item: Any, seconds: float) -> np.ndarray:
    """Its vertices [V, 3] in +Y up, after all that moves them."""
    scene = bpy.context.scene
    frame = seconds * scene.render.fps / scene.render.fps_base
    scene.frame_set(int(frame), subframe=frame - int(frame))
    evaluated = item.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = evaluated.to_mesh()
    flat = np.empty(3 * len(mesh.vertices), dtype=np.float32)
    mesh.vertices.foreach_get("co", flat)
    world = np.array(evaluated.matrix_world)
    x, y, z = (flat.reshape(-1, 3) @ world[:3, :3].T + world[:3, 3]).T
    return np.stack([x, z, -y], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("glb", type=Path, help="an animation that threedgen wrote")
    parser.add_argument("usd", type=Path, nargs="?", help="the same one as .usdz, .usdc or .usda")
    arguments = parser.parse_args()
    import bpy  # pyright: ignore[reportMissingImports]

    times, vertices = frames_of(arguments.glb)
    middle = len(times) // 2
    expected = {
        times[0]: vertices[0],
        times[middle]: vertices[middle],
        0.5 * (times[1] + times[2]): 0.5 * (vertices[1] + vertices[2]),
    }
    moved = np.abs(vertices[middle] - vertices[0]).max()
    print(f"Blender {bpy.app.version_string}; between the two frames vertices move by {moved:.3f} at most")
    worst = 0.0
    for path in filter(None, (arguments.glb, arguments.usd)):
        item = imported(bpy, path)
        far = [np.abs(vertices_at(bpy, item, float(t)) - there).max() for t, there in expected.items()]
        print(f"{path.name}: off by {', '.join(f'{value:.1e}' for value in far)} at {len(far)} times")
        worst = max(worst, *far)
    sys.exit(0 if worst <= LIMIT else 1)


if __name__ == "__main__":
    main()
