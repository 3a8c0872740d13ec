"""Polygons that are not convex: the triangles cover the polygon and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from threedgen.datasets.mesh_files import read_painted
from threedgen.datasets.obj_polygons import cut, triangulated

NOTCHED = [(0, 0, 0), (2, 0, 0), (2, 2, 0), (1, 0.5, 0), (0, 2, 0)]  # a square with a notch from above


def area(points, triangles) -> float:
    """The sum of the areas of triangles."""
    p = np.array(points, dtype=np.float64)
    return float(sum(0.5 * np.linalg.norm(np.cross(p[b] - p[a], p[c] - p[a])) for a, b, c in triangles))


def polygon_area(points) -> float:
    p = np.array(points, dtype=np.float64)
    return 0.5 * float(np.linalg.norm(np.cross(p, np.roll(p, -1, axis=0)).sum(0)))


@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_a_notch_stays_open(start, order):
    i, j, k = order
    points = [(float(p[i]), float(p[j]), float(p[k])) for p in NOTCHED[start:] + NOTCHED[:start]]
    triangles = cut(points) or [(0, n, n + 1) for n in range(1, 4)]
    assert area(points, triangles) == pytest.approx(2.5)
    assert len(triangles) == 3


def test_convex_and_flat_polygons_are_left_alone():
    assert cut([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]) is None
    assert cut([(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)]) is None
    assert cut([(0, 0, 0), (1, 0, 0), (float("nan"), 0, 0), (0, 1, 0)]) is None


@given(st.lists(st.floats(0.2, 1.0), min_size=4, max_size=30), st.floats(0.0, 6.3))
def test_stars_are_covered_once(radii, turn):
    """A polygon all of whose corners see the origin is simple, whatever their distances."""
    angles = [turn + 2.0 * math.pi * i / len(radii) for i in range(len(radii))]
    points = [
        (r * math.cos(a), 0.7 * r * math.sin(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)
    ]
    triangles = cut(points)
    if triangles is not None:
        assert len(triangles) == len(points) - 2
        assert area(points, triangles) == pytest.approx(polygon_area(points), rel=1e-6)


def test_a_frame_of_one_polygon_keeps_its_hole():
    """Programs write a face with a hole as one ring that goes in and out along the same edge."""
    outer = [(0, 0, 0), (4, 0, 0), (4, 4, 0), (0, 4, 0), (0, 0, 0)]
    inner = [(1, 1, 0), (1, 3, 0), (3, 3, 0), (3, 1, 0), (1, 1, 0)]
    points = [(float(x), float(y), float(z)) for x, y, z in outer + inner]
    assert area(points, cut(points) or []) == pytest.approx(12.0)


def test_the_text_of_an_obj_keeps_all_else():
    vertices = "".join(f"v {x} {y} {z}\n" for x, y, z in NOTCHED)
    text = f"# one\n{vertices}vt 0 0\nf 1/1 2/1 3/1 \\\n 4/1 5/1\nf 1 2 3\n".encode()
    lines = triangulated(text).decode().split("\n")
    assert lines[0] == "# one"
    assert lines[7:10] == [line for line in lines if line.count("/") == 3]
    assert lines[10] == "f 1 2 3"
    below = f"{vertices}f -5 -4 -3 -2 -1\n".encode()
    assert triangulated(below).count(b"f ") == 3
    for broken in (b"v 0 0 x\nf 1 2 3 4", b"v 0 0 0\nf 1 2 3 4", b"f a b c d", b"\xff\x00"):
        assert triangulated(broken) == broken


def test_a_mesh_is_read_with_its_notch(tmp_path):
    path = tmp_path / "notch.obj"
    path.write_text("".join(f"v {x} {y} {z}\n" for x, y, z in NOTCHED) + "f 3 4 5 1 2\n")
    painted = read_painted(path)
    corners = painted.mesh.vertices[painted.mesh.faces].numpy()
    span = np.ptp(corners[..., 0])
    got = sum(0.5 * np.linalg.norm(np.cross(b - a, c - a)) for a, b, c in corners)
    assert got * (2.0 / span) ** 2 == pytest.approx(2.5, rel=1e-4)
