#!/bin/sh
# trimesh 5.2.0 cuts every polygon of an .obj into a fan from its first corner, also one that is not convex.
#
# Expected: triangles that cover the polygon and nothing else. Here it is an L of area 3. The fan from its first corner
# covers a part of the notch too, once with a triangle that is upside down, so the triangles have an area of 4.
# Files of furniture from CAD programs are full of such polygons.
# Seen:
#     area of the triangles: 4.0
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet trimesh==5.2.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import trimesh

# Counter-clockwise, from the end of the upper arm of the L.
corners = [(0, 2), (0, 0), (2, 0), (2, 1), (1, 1), (1, 2)]
text = "".join(f"v {x} {y} 0\n" for x, y in corners) + "f 1 2 3 4 5 6\n"
mesh = trimesh.load(io.StringIO(text), file_type="obj", force="mesh", process=False)
print("area of the triangles:", round(float(mesh.area), 3))
assert abs(mesh.area - 4.0) < 1e-3, "the behaviour has changed"
PYTHON
