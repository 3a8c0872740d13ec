#!/bin/sh
# trimesh 5.2.0: load(..., force="mesh") loses the vertex colours of a GLB whose primitive has a material.
#
# Expected: the same mesh as the only geometry of load_scene. glTF 2.0 (3.9.2) multiplies COLOR_0 by the base colour of
# the material, so a white material shows the vertex colours. The scene keeps them as a vertex attribute of its
# TextureVisuals; the conversion to one mesh, of even one geometry, does not, and to_color() of either is white.
# Seen:
#     scene: texture, colour attribute [1.0, 0.0, 0.0, 1.0]
#     mesh: texture, colour attribute None
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet trimesh==5.2.0 pygltflib==1.16.5 numpy==2.4.6 pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import pygltflib as g
import trimesh

corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4")
red = np.array([[1, 0, 0, 1]] * 3, "<f4")
blob = corners.tobytes() + red.tobytes() + np.array([0, 1, 2], "<u2").tobytes()
document = g.GLTF2(
    scene=0,
    scenes=[g.Scene(nodes=[0])],
    nodes=[g.Node(mesh=0)],
    materials=[g.Material(pbrMetallicRoughness=g.PbrMetallicRoughness(baseColorFactor=[1, 1, 1, 1]))],
    meshes=[
        g.Mesh(primitives=[g.Primitive(attributes=g.Attributes(POSITION=0, COLOR_0=1), indices=2, material=0)])
    ],
    accessors=[
        g.Accessor(bufferView=0, componentType=5126, count=3, type="VEC3", min=[0, 0, 0], max=[1, 1, 0]),
        g.Accessor(bufferView=1, componentType=5126, count=3, type="VEC4"),
        g.Accessor(bufferView=2, componentType=5123, count=3, type="SCALAR"),
    ],
    bufferViews=[
        g.BufferView(buffer=0, byteOffset=0, byteLength=36),
        g.BufferView(buffer=0, byteOffset=36, byteLength=48),
        g.BufferView(buffer=0, byteOffset=84, byteLength=6),
    ],
    buffers=[g.Buffer(byteLength=len(blob))],
)
document.set_binary_blob(blob)
data = b"".join(document.save_to_bytes())
found = {}
for force in ("scene", "mesh"):
    loaded = trimesh.load(io.BytesIO(data), file_type="glb", force=force)
    mesh = next(iter(loaded.geometry.values())) if force == "scene" else loaded
    color = getattr(mesh.visual, "vertex_attributes", {}).get("color")
    found[force] = None if color is None else np.asarray(color)[0].tolist()
    print(f"{force}: {mesh.visual.kind}, colour attribute {found[force]}")
assert found == {"scene": [1.0, 0.0, 0.0, 1.0], "mesh": None}, "the behaviour has changed"
PYTHON
