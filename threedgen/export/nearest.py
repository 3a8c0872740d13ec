"""Which places of a surface are nearest to given points, and how far one surface lies from another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from threedgen.core.errors import UserError

_SAMPLES = 4000  # of a surface, beside the centres of its triangles, among which the nearest ones are sought
_POINTS = 2000  # of each of two surfaces, whose distance to the other one is measured
_FEW, _MANY = 4, 32  # nearest samples whose triangles are measured: of every point, and of the farthest ones
_FARTHEST = 0.1  # share of the points that are measured with many samples
_SHARE = 0.99  # of the points, to which a distance between surfaces holds
_BLOCK = 1 << 15  # points in memory at once
_SIZE = 1e3  # diameter at which trimesh measures: it compares lengths with fixed tolerances
_PLASTIC = 0.7548776662466927, 0.5698402909980532  # steps of a sequence that fills a square evenly


class Nearest(NamedTuple):
    """The nearest places of M points.

    distance: [M] in world units. face: [M], number of the triangle. weights: [M, 3] of its corners, at least 0,
    with the sum 1.
    """

    distance: Float[np.ndarray, " M"]
    face: Int[np.ndarray, " M"]
    weights: Float[np.ndarray, "M 3"]


class Surface:
    """A triangle mesh among whose places the nearest ones are sought. Triangles without area are left out.

    vertices: [V, 3]. faces: [F, 3]. Raises UserError if no triangle has an area.
    """

    def __init__(self, vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> None:
        from scipy.spatial import KDTree

        low, high = vertices.min(axis=0), vertices.max(axis=0)
        self.diameter = float(np.linalg.norm(high - low))
        self._middle, self._scale = 0.5 * (low + high), _SIZE / max(self.diameter, 1e-300)
        corners = ((vertices - self._middle) * self._scale)[faces]
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas = np.linalg.norm(across, axis=1)
        self._numbers = np.flatnonzero(areas > 0.0)
        if len(self._numbers) == 0:
            raise UserError("cannot measure a mesh whose triangles have no area")
        self._corners, self._areas = corners[self._numbers], areas[self._numbers]
        self._outward = across[self._numbers] / self._areas[:, None]
        places, self._faces = self._spread(_SAMPLES)
        # A centre for each triangle, because samples that are spread by area miss small ones.
        self._faces = np.concatenate([np.arange(len(self._corners)), self._faces])
        self._tree = KDTree(np.concatenate([self._corners.mean(axis=1), places]))

    def _spread(self, count: int) -> tuple[Float[np.ndarray, "M 3"], Int[np.ndarray, " M"]]:
        """Points spread evenly over the area, the same each time, and their triangles."""
        order = np.arange(count) + 0.5
        shares = np.cumsum(self._areas)
        face = np.minimum(np.searchsorted(shares, order / count * shares[-1]), len(shares) - 1)
        first, second = ((order * step) % 1.0 for step in _PLASTIC)
        root = np.sqrt(first)
        weights = np.stack([1.0 - root, root * (1.0 - second), root * second], axis=1)
        return (weights[..., None] * self._corners[face]).sum(axis=1), face

    def points(self, count: int) -> Float[np.ndarray, "M 3"]:
        """Points spread evenly over the area."""
        return self._spread(count)[0] / self._scale + self._middle

    def nearest(
        self, points: Float[np.ndarray, "M 3"], normals: Float[np.ndarray, "M 3"] | None = None
    ) -> Nearest:
        """The nearest places of points. normals: if given, triangles that face away from these are passed over as
        long as any other is near, so that the two sides of something thin are not mistaken for each other.

        Only triangles near the point are measured, so that a distance may be a little too large, but not too small.
        """
        unit = (points - self._middle) * self._scale
        blocks = [
            self._block(
                unit[start : start + _BLOCK], None if normals is None else normals[start : start + _BLOCK]
            )
            for start in range(0, len(unit), _BLOCK)
        ]
        distance, row, place = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        from trimesh.triangles import points_to_barycentric

        weights = np.clip(np.nan_to_num(points_to_barycentric(self._corners[row], place)), 0.0, None)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        return Nearest(distance / self._scale, self._numbers[row], weights)

    def _block(
        self, points: np.ndarray, normals: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cost, distance, row, place = self._measured(points, normals, _FEW)
        count = int(np.ceil(_FARTHEST * len(points)))
        far = np.argpartition(cost, -count)[-count:]
        _, distance[far], row[far], place[far] = self._measured(
            points[far], None if normals is None else normals[far], _MANY
        )
        return distance, row, place

    def _measured(
        self, points: np.ndarray, normals: np.ndarray | None, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What is compared, the distance, the row of the triangle and the place, by the nearest `count` samples."""
        from trimesh.triangles import closest_point

        count = min(count, len(self._faces))
        found = np.asarray(self._tree.query(points, k=count)[1]).reshape(len(points), count)
        rows = self._faces[found]
        again = np.repeat(points, count, axis=0)
        places = closest_point(self._corners[rows.ravel()], again)
        distances = np.linalg.norm(places - again, axis=1).reshape(rows.shape)
        cost = distances
        if normals is not None:
            cost = distances + _SIZE * ((self._outward[rows] * normals[:, None]).sum(axis=2) < 0.0)
        best = cost.argmin(axis=1)
        each = np.arange(len(points))
        chosen = places.reshape(*rows.shape, 3)[each, best]
        return cost[each, best], distances[each, best], rows[each, best], chosen


def apart(one: Surface, other: Surface) -> float:
    """How far two surfaces are from each other, in world units: 99 % of the points of each lie nearer to the
    other one."""
    ways = [one.nearest(other.points(_POINTS)), other.nearest(one.points(_POINTS))]
    return max(float(np.quantile(way.distance, _SHARE)) for way in ways)
