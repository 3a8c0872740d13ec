"""Polygons of .obj files that are not convex, cut into triangles.

trimesh cuts a polygon into a fan around its first corner. Of a polygon that is not convex, such as a frame or the
side of a saw, that covers what is outside of it (findings/trimesh-obj-concave-polygons.sh).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_TOLERANCE = 1e-3  # share of its area by which a fan may be larger than its polygon
_CORNERS = 2000  # at most, of a polygon that is cut: the time grows with the square
_Point = tuple[float, float, float]
_Place = tuple[float, float]


def triangulated(text: bytes) -> bytes:
    """The text of an .obj with triangles in place of each polygon that is not convex; all else stays.

    Polygons whose corners are not there stay too, so that the reader can say so.
    """
    lines = text.replace(b"\r\n", b"\n").replace(b"\\\n", b"").split(b"\n")
    points: list[_Point] = []
    polygons: list[tuple[int, list[bytes], int]] = []  # line, corners, how many points are above
    for number, line in enumerate(lines):
        words = line.split()
        if len(words) >= 4 and words[0] == b"v":
            try:
                points.append((float(words[1]), float(words[2]), float(words[3])))
            except ValueError:
                return text
        elif words and words[0] == b"f" and 4 < len(words) <= _CORNERS:
            polygons.append((number, words[1:], len(points)))
    for number, corners, above in polygons:
        try:
            index = [int(corner.split(b"/")[0]) for corner in corners]
            places = [points[i - 1 if i > 0 else above + i] for i in index]
        except (ValueError, IndexError):
            continue
        triangles = cut(places)
        if triangles is not None:
            lines[number] = b"\n".join(b"f " + b" ".join(corners[i] for i in t) for t in triangles)
    return b"\n".join(lines)


def cut(points: Sequence[_Point]) -> list[tuple[int, int, int]] | None:
    """Triangles of the corners of a flat polygon, by clipping its ears, or None if a fan around its first corner is
    right: it is convex, or has no area."""
    normal, fan = [0.0, 0.0, 0.0], 0.0
    origin = points[0]
    arms = [[a - o for a, o in zip(point, origin, strict=True)] for point in points[1:]]
    for (ax, ay, az), (bx, by, bz) in pairwise(arms):
        cross = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
        normal = [n + c for n, c in zip(normal, cross, strict=True)]
        fan += math.hypot(*cross)
    area = math.hypot(*normal)
    if not area > 0.0 or not math.isfinite(fan) or fan <= area * (1.0 + _TOLERANCE):
        return None
    # Seen along the axis to which the normal is nearest, with the corners counter-clockwise.
    axis = max(range(3), key=lambda i: abs(normal[i]))
    first, second = [(1, 2), (2, 0), (0, 1)][axis] if normal[axis] > 0.0 else [(2, 1), (0, 2), (1, 0)][axis]
    flat = [(point[first], point[second]) for point in points]
    ring, triangles = list(range(len(flat))), []
    while len(ring) > 3:
        at = _ear(flat, ring)
        triangles.append((ring[at - 1], ring[at], ring[(at + 1) % len(ring)]))
        del ring[at]
    return [*triangles, (ring[0], ring[1], ring[2])]


def _ear(flat: Sequence[_Place], ring: Sequence[int]) -> int:
    """The place in a ring of a corner that can be cut off: what is cut has no other corner in it. If there is none,
    because the polygon crosses itself, the sharpest corner that points outwards."""
    turns = [
        _turn(flat[ring[i - 1]], flat[ring[i]], flat[ring[(i + 1) % len(ring)]]) for i in range(len(ring))
    ]
    inward = [flat[ring[i]] for i, turn in enumerate(turns) if turn <= 0.0]
    for at, turn in enumerate(turns):
        if turn > 0.0:
            a, b, c = flat[ring[at - 1]], flat[ring[at]], flat[ring[(at + 1) % len(ring)]]
            if not any(_inside(point, a, b, c) for point in inward):
                return at
    return max(range(len(ring)), key=lambda i: turns[i])


def _turn(a: _Place, b: _Place, c: _Place) -> float:
    """Twice the area of a triangle, positive if its corners are counter-clockwise."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _inside(point: _Place, a: _Place, b: _Place, c: _Place) -> bool:
    """Whether a point is in a counter-clockwise triangle or on its edges, but at none of its corners."""
    if point in (a, b, c):
        return False
    return _turn(a, b, point) >= 0.0 and _turn(b, c, point) >= 0.0 and _turn(c, a, point) >= 0.0
