"""How a surface goes along with the points that it was extracted from: shifted, turned and stretched with them.

Moving least squares (Schaefer et al. 2006) in space: each vertex follows the affine map that best takes the points
around it from where they rest to where they are, with weights that fall with the distance. Where these points say
little, as those of a flat piece do about its thickness, the map stays near a similarity (a rotation and a size). So
a motion that is a similarity of the whole is followed exactly.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor, from_numpy

from threedgen.core.errors import UserError

_NEIGHBOURS = 24  # points that carry a vertex
_NEAR = 0.1  # share of the distance of the last neighbour below which all distances count alike
_STRAIN = 0.3  # of the distance to the nearest neighbour; points that differ by more move with another piece
_RIGID = 0.1  # how strongly an affine map is held near a similarity, as a share of the spread of its points
_WHOLE = 1e-3  # the same, for a similarity and that of the whole, which decides if neighbours lie on one line
_LEAST = 1e-24  # square of a distance that counts as none
_AT_ONCE = 1 << 19  # positions of neighbours, of all moments, that are in memory

_Maps = Float[np.ndarray, "T V 3 3"]


def carried(
    vertices: Float[Tensor, "V 3"], rest: Float[Tensor, "N 3"], moved: Float[Tensor, "T N 3"]
) -> Float[Tensor, "T V 3"]:
    """Where the vertices of a surface are when the points that it was extracted from have moved (float32).

    rest: the points when the surface was extracted. moved: the same points at T moments. Points near a vertex that
    do not keep their distance to the nearest one belong to another piece, which moves by itself, and count little.
    Raises UserError if a position is not finite.
    """
    from scipy.spatial import KDTree

    # In float64, and without products of large matrices, whose last bits depend on where arrays lie in memory.
    places, points = (tensor.detach().cpu().double().numpy() for tensor in (vertices, rest))
    paths = moved.detach().cpu().numpy()
    if not (np.isfinite(paths).all() and np.isfinite(points).all()):
        raise UserError(
            "the motion has positions that are not finite, so no mesh can follow it: run fewer steps"
        )
    middle = points.mean(0)
    places, points = places - middle, points - middle
    count = min(_NEIGHBOURS, len(points))
    found = KDTree(points).query(places, min(count + 1, len(points)))
    distance, nearest = (np.reshape(array, (len(places), -1)) for array in found)  # one column is none there
    weight, nearest = _weights(distance, count), nearest[:, :count]
    whole = _whole(points, paths, middle)
    result = np.empty((len(paths), len(places), 3), dtype=np.float32)
    step = max(1, _AT_ONCE // (len(paths) * count))
    for first in range(0, len(places), step):
        block = slice(first, first + step)
        own, near = points[nearest[block]], paths[:, nearest[block]] - middle
        share = weight[block] * _together(own, near, _size_of(whole))
        share = (share / share.sum(1, keepdims=True))[..., None]
        centre, there = (share * own).sum(1), (share * near).sum(2)
        maps = _maps(own - centre[:, None], near - there[:, :, None], share, whole)
        result[:, block] = (maps @ (places[block] - centre)[..., None])[..., 0] + there + middle
    return from_numpy(result)


def _weights(distance: Float[np.ndarray, "V K+1"], count: int) -> Float[np.ndarray, "V K"]:
    """Inverse squared distances that fall to 0 at the first point that is no neighbour, so that nothing jumps
    between two vertices with different neighbours."""
    share = distance[:, :count] / np.maximum(distance[:, -1:], _LEAST)
    fall = (1.0 - share**2) ** 2 if distance.shape[1] > count else 1.0
    return np.maximum(fall, _LEAST) / (share**2 + _NEAR**2)


def _together(
    own: Float[np.ndarray, "V K 3"], near: Float[np.ndarray, "T V K 3"], size: Float[np.ndarray, "T 1"]
) -> Float[np.ndarray, "V K"]:
    """How much a neighbour moves in one piece with the nearest one, in [0, 1]: by how far their distance changes,
    apart from the growth of the whole, as a share of the mean distance at rest."""
    before = np.linalg.norm(own - own[:, :1], axis=2)
    after = np.linalg.norm(near - near[:, :, :1], axis=3)
    change = np.abs(after / size[..., None] - before).max(0)
    strain = change / np.maximum(np.maximum(before, before.mean(1, keepdims=True)), _LEAST)
    return 1.0 / (1.0 + (strain / _STRAIN) ** 2) ** 2


def _whole(
    points: Float[np.ndarray, "N 3"], paths: Float[np.ndarray, "T N 3"], middle: Float[np.ndarray, " 3"]
) -> _Maps:
    """The similarity of all points at each moment, with V = 1."""
    arms, still = points[None] / len(points), np.eye(3)[None, None]
    maps = [
        _similarity(_cross((path - middle)[None, None], arms), _spread(points[None], arms), still)
        for path in paths
    ]
    return np.concatenate(maps)


def _maps(
    own: Float[np.ndarray, "V K 3"],
    near: Float[np.ndarray, "T V K 3"],
    share: Float[np.ndarray, "V K 1"],
    whole: _Maps,
) -> _Maps:
    """The affine maps. own, near: where neighbours rest and where they are, from their weighted means."""
    arms = share * own
    cross, spread = _cross(near, arms), _spread(own, arms)
    rigid = (_RIGID * spread + _LEAST)[:, None, None]
    inside = np.linalg.inv(np.swapaxes(own, 1, 2) @ arms + rigid * np.eye(3))
    return (cross + rigid * _similarity(cross, spread, whole)) @ inside


def _cross(near: Float[np.ndarray, "T V K 3"], arms: Float[np.ndarray, "V K 3"]) -> _Maps:
    return np.swapaxes(near, 2, 3) @ arms


def _spread(own: Float[np.ndarray, "V K 3"], arms: Float[np.ndarray, "V K 3"]) -> Float[np.ndarray, " V"]:
    return (own * arms).sum((1, 2))


def _similarity(cross: _Maps, spread: Float[np.ndarray, " V"], toward: _Maps) -> _Maps:
    """Rotations times sizes, by weighted least squares (Umeyama 1991). toward: what points that say nothing get."""
    spread = spread[:, None, None]
    left, _, right = np.linalg.svd(cross + (_WHOLE * spread + _LEAST) * toward)
    left[..., 2] *= np.sign(np.linalg.det(left @ right))[..., None]  # a rotation, and no reflection
    turn = left @ right
    along = (turn * cross).sum((2, 3)) + _LEAST * _size_of(toward)
    return turn * (along[..., None, None] / (spread + _LEAST))


def _size_of(similarity: _Maps) -> Float[np.ndarray, "T V"]:
    """The factors by which similarities make lengths larger, not 0."""
    return np.maximum(np.linalg.norm(similarity[..., 0], axis=2), 1e-9)
