"""Exact triangle meshes of the solids of which the shape world is built.

Each function returns a `Solid`, whose vertices are duplicated at creases so that the normals of vertices are exact.
Triangles are counter-clockwise seen from outside. Lengths are in world units; +Y is up, +Z is the front.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Solid:
    """A closed surface. vertices: [V, 3], world units. normals: [V, 3], unit length. faces: [F, 3]."""

    vertices: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]

    def moved(self, offset: tuple[float, float, float]) -> Solid:
        """The same solid, translated."""
        return Solid(self.vertices + np.asarray(offset), self.normals, self.faces)

    def rotated(self, rotation: Float[np.ndarray, "3 3"]) -> Solid:
        """The same solid, rotated about the origin."""
        return Solid(self.vertices @ rotation.T, self.normals @ rotation.T, self.faces)

    def stretched(self, factors: tuple[float, float, float]) -> Solid:
        """The same solid, scaled about the origin by positive factors along x, y and z."""
        factor = np.asarray(factors)
        normals = self.normals / factor  # normals transform by the inverse
        return Solid(
            self.vertices * factor, normals / np.linalg.norm(normals, axis=1, keepdims=True), self.faces
        )


def rotation_about(axis: str, degrees: float) -> Float[np.ndarray, "3 3"]:
    """The right-handed rotation matrix about the axis 'x', 'y' or 'z'."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def _surface(
    points: Float[np.ndarray, "U W 3"], normals: Float[np.ndarray, "U W 3"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, normals and faces of a patch of U x W vertices."""
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return points.reshape(-1, 3), normals.reshape(-1, 3), faces


def _assemble(patches: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Solid:
    """Joins patches, drops triangles without area, and turns every triangle outwards (along its normals)."""
    vertices = np.concatenate([p[0] for p in patches])
    normals = np.concatenate([p[1] for p in patches])
    offsets = np.cumsum([0, *(len(p[0]) for p in patches[:-1])])
    faces = np.concatenate([p[2] + offset for p, offset in zip(patches, offsets, strict=True)])
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    keep = np.linalg.norm(cross, axis=1) > 1e-9
    faces, cross = faces[keep], cross[keep]
    inward = np.einsum("ij,ij->i", cross, normals[faces].sum(axis=1)) < 0
    faces[inward] = faces[inward][:, ::-1]
    return Solid(vertices, normals / np.linalg.norm(normals, axis=1, keepdims=True), faces.astype(np.int64))


def prism(polygon: Float[np.ndarray, "P 2"], depth: float) -> Solid:
    """A convex polygon in the plane (y, z), extruded along x and centred on x = 0, with flat faces."""
    count = len(polygon)
    left = np.column_stack([np.full(count, -0.5 * depth), polygon])
    right = np.column_stack([np.full(count, 0.5 * depth), polygon])
    centre = polygon.mean(axis=0)
    patches = []
    for i in range(count):
        j = (i + 1) % count
        corners = np.stack([np.stack([left[i], left[j]]), np.stack([right[i], right[j]])])
        edge = polygon[j] - polygon[i]
        normal = np.array([0.0, edge[1], -edge[0]])
        if normal[1:] @ (0.5 * (polygon[i] + polygon[j]) - centre) < 0:
            normal = -normal
        patches.append(_surface(corners, np.broadcast_to(normal / np.linalg.norm(normal), corners.shape)))
    fan = np.array([[0, i, i + 1] for i in range(1, count - 1)])
    for side, x in ((left, -1.0), (right, 1.0)):
        patches.append((side, np.tile([x, 0.0, 0.0], (count, 1)), fan.copy()))
    return _assemble(patches)


def box(size: tuple[float, float, float]) -> Solid:
    """A box with edges along the axes, of the given lengths, centred at the origin."""
    y, z = 0.5 * size[1], 0.5 * size[2]
    return prism(np.array([[-y, -z], [y, -z], [y, z], [-y, z]]), size[0])


def lathe(profile: Float[np.ndarray, "P 2"], segments: int = 40) -> Solid:
    """A surface of revolution about +Y. Each segment of the profile is a smooth band, with creases between bands.

    profile: points (radius, y) in an order that has the outside on its right-hand side, so from the bottom up for
    an outer wall.
    """
    angle = np.linspace(0.0, 2.0 * np.pi, segments + 1)

    def revolve(radius: np.ndarray, y: np.ndarray) -> np.ndarray:
        columns = np.broadcast_arrays(
            np.outer(radius, np.sin(angle)), y[:, None], np.outer(radius, np.cos(angle))
        )
        return np.stack(columns, axis=-1)

    patches = []
    for start, end in itertools.pairwise(profile):
        edge = end - start
        points = revolve(*np.stack([start, end], axis=1))
        patches.append(_surface(points, revolve(np.full(2, edge[1]), np.full(2, -edge[0]))))
    return _assemble(patches)


def sphere(radius: float, segments: int = 40) -> Solid:
    """A sphere as a mesh of latitudes and longitudes."""
    latitude = np.linspace(-0.5 * np.pi, 0.5 * np.pi, segments // 2 + 1)[:, None]
    longitude = np.linspace(0.0, 2.0 * np.pi, segments + 1)[None, :]
    columns = np.broadcast_arrays(
        np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude)
    )
    normals = np.stack(columns, axis=-1)
    return _assemble([_surface(radius * normals, normals)])


def cylinder(radius: float, height: float, segments: int = 40) -> Solid:
    """An upright cylinder with caps, centred at the origin."""
    h = 0.5 * height
    return lathe(np.array([[0.0, -h], [radius, -h], [radius, h], [0.0, h]]), segments)


def cone(radius: float, height: float, segments: int = 40) -> Solid:
    """An upright cone with its base, centred on its bounding box."""
    h = 0.5 * height
    return lathe(np.array([[0.0, -h], [radius, -h], [0.0, h]]), segments)


def torus(
    ring_radius: float, tube_radius: float, segments: int = 40, sides: int = 20, turn: float = 360.0
) -> Solid:
    """A ring around +Y, or an arc of it of `turn` degrees from +X towards -Z.

    An arc is open at both ends, which are meant to be sunk into another solid.
    """
    u = np.radians(np.linspace(0.0, turn, segments + 1))[:, None]
    v = np.linspace(0.0, 2.0 * np.pi, sides + 1)[None, :]
    normals = np.stack([np.cos(u) * np.cos(v), np.sin(v) + 0.0 * u, -np.sin(u) * np.cos(v)], axis=-1)
    centre = np.stack([np.cos(u) + 0.0 * v, 0.0 * u * v, -np.sin(u) + 0.0 * v], axis=-1)
    return _assemble([_surface(ring_radius * centre + tube_radius * normals, normals)])


def cup(radius: float, height: float, wall: float, segments: int = 40) -> Solid:
    """An open cylinder with a thick wall and a floor, centred at the origin."""
    h, inner = 0.5 * height, radius - wall
    profile = [[0.0, -h], [radius, -h], [radius, h], [inner, h], [inner, -h + wall], [0.0, -h + wall]]
    return lathe(np.array(profile), segments)


def ellipsoid(radii: tuple[float, float, float], segments: int = 24) -> Solid:
    """An ellipsoid with the given half axes along x, y and z, centred at the origin."""
    return sphere(1.0, segments).stretched(radii)


def frustum(bottom: float, top: float, height: float, segments: int = 40) -> Solid:
    """An upright cone without its tip, centred at the origin. bottom, top: radii of its two discs."""
    h = 0.5 * height
    return lathe(np.array([[0.0, -h], [bottom, -h], [top, h], [0.0, h]]), segments)


def tube(
    points: Float[np.ndarray, "N 3"] | list[tuple[float, float, float]],
    radii: float | list[float] | Float[np.ndarray, " N"],
    sides: int = 12,
) -> Solid:
    """A tube with round ends along a line through `points`, for limbs, tails and handles.

    radii: one for all points, or one for each. Consecutive points must be apart. The ends reach beyond the first
    and the last point by their radius.
    """
    path = np.asarray(points, dtype=np.float64)
    radius = np.broadcast_to(np.asarray(radii, dtype=np.float64), len(path))
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    slopes = np.gradient(radius, length)
    across = np.eye(3)[np.abs(tangents[0]).argmin()]
    rings, normals = [], []
    angle = np.linspace(0.0, 2.0 * np.pi, sides + 1)[:, None]
    for index, (point, tangent) in enumerate(zip(path, tangents, strict=True)):
        across = (
            across - (across @ tangent) * tangent
        )  # carried along the line, so that the tube does not twist
        across /= np.linalg.norm(across)
        round_about = np.cos(angle) * across + np.sin(angle) * np.cross(tangent, across)
        ends = {0: -1.0, len(path) - 1: 1.0}
        side = ends.get(index)
        rise = np.radians([0.0] if side is None else np.linspace(0.0, 90.0, 5))
        block = [
            (
                point + radius[index] * (np.cos(r) * round_about + (side or 0.0) * np.sin(r) * tangent),
                np.cos(r) * (round_about - (slopes[index] if r == 0.0 else 0.0) * tangent)
                + (side or 0.0) * np.sin(r) * tangent,
            )
            for r in rise
        ]
        for ring, normal in reversed(block) if side == -1.0 else block:
            rings.append(ring)
            normals.append(normal)
    return _assemble([_surface(np.stack(rings), np.stack(normals))])
