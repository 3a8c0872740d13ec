"""Measures of a motion: amount, smoothness, return to rest, and change of appearance.

In the shape world also whether the motion is that of the prompt (docs/methods.md, "Measures of motion"). Paths
are [T, N, 3]: N points of the asset at T evenly spaced moments from 0 to 1; at the first moment the asset is at
rest. An asset that stands still is perfectly smooth, so every report states the amount of motion beside its
smoothness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.datasets import motions
from threedgen.metrics.features import Features

STILL = 0.01  # share of the diameter of an object: a smaller motion looks like standing still
NONE = "none"  # the name of a motion that resembles no known one

_PHASES = 12  # number of phases in which a true motion that loops is tried
_RESEMBLES = 0.85  # motions that are less unlike than this resemble each other, see _Aligned
_ALIKE = 1e-5  # a smaller difference of `unlike` counts as none
_UNDOING = 4  # passes; each leaves a small share of the error of the pass before
# Smaller steps, as a share of the diameter or of the range of a picture, are rounding errors of float32.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class MotionScores:
    """Measures of paths. All lengths are shares of the diameter of the object at rest.

    amount: mean distance from rest at the farthest moment. local: the same for what remains when the best
    rotation, translation and scale of each moment are removed, so how much the object bends or falls apart.
    jerk: mean second difference over mean first difference of the paths; 0 for steady straight motion and if
    nothing moves, 2 for points that tremble from frame to frame. For smooth motion it falls with 1 / T, so only
    equal numbers of moments are comparable. loop: mean distance between the first and the last moment.
    """

    amount: float
    local: float
    jerk: float
    loop: float


def motion_scores(paths: Float[Tensor, "T N 3"]) -> MotionScores:
    """The measures of paths of at least 3 moments. Raises ValueError for fewer."""
    if len(paths) < 3:
        raise ValueError(f"{len(paths)} moments: a motion is measured over at least 3")
    rest = paths[0]
    size = diameter(rest)
    far = (paths - rest).norm(dim=2).mean(1) / size
    bent = (paths - fitted(rest, paths)).norm(dim=2).mean(1) / size
    first, second = paths.diff(dim=0), paths.diff(n=2, dim=0)
    jerk = _ratio(float(second.norm(dim=2).mean()), float(first.norm(dim=2).mean()), size)
    return MotionScores(float(far.max()), float(bent.max()), jerk, float(far[-1]))


def farthest(paths: Float[Tensor, "T N 3"]) -> float:
    """The amount of motion: mean distance from rest at the farthest moment, as a share of the diameter at rest."""
    return float((paths - paths[0]).norm(dim=2).mean(1).max()) / diameter(paths[0])


def diameter(points: Float[Tensor, "N 3"]) -> float:
    """Twice the largest distance from the middle of the points' bounding box."""
    middle = 0.5 * (points.amin(0) + points.amax(0))
    return 2.0 * float((points - middle).norm(dim=1).max().clamp_min(1e-12))


def fitted(rest: Float[Tensor, "N 3"], paths: Float[Tensor, "T N 3"]) -> Float[Tensor, "T N 3"]:
    """The points at rest after the similarity that brings them nearest to each moment (Umeyama 1991)."""
    middle, middles = rest.mean(0), paths.mean(1, keepdim=True)
    still, moved = rest - middle, paths - middles
    u, s, vt = torch.linalg.svd(moved.transpose(1, 2) @ still)
    # If the best orthogonal map is a reflection, the sign of the last axis changes.
    sign = torch.ones_like(s)
    sign[:, 2] = torch.det(u @ vt).sign()
    scale = (s * sign).sum(1) / still.square().sum().clamp_min(1e-12)
    rotation = u @ (sign[:, :, None] * vt)
    return scale[:, None, None] * (still @ rotation.transpose(1, 2)) + middles


@dataclass(frozen=True)
class PictureScores:
    """Measures of the pictures of a motion.

    change: mean absolute difference from the first picture, at the moment when it is largest. flicker: mean
    absolute second difference over mean absolute first difference of the pictures, 0 if they do not change;
    like jerk it is comparable only for equal numbers of pictures. identity: the smallest cosine between the
    features of a picture and those of the first.
    """

    change: float
    flicker: float
    identity: float


def picture_scores(clip: Float[Tensor, "T H W 3"], features: Features) -> PictureScores:
    """The measures of at least 3 pictures in [0, 1] from a fixed camera. Raises ValueError for fewer."""
    if len(clip) < 3:
        raise ValueError(f"{len(clip)} pictures: a motion is measured over at least 3")
    change = (clip - clip[0]).abs().mean((1, 2, 3))
    first, second = clip.diff(dim=0), clip.diff(n=2, dim=0)
    flicker = _ratio(float(second.abs().mean()), float(first.abs().mean()), 1.0)
    vectors = torch.nn.functional.normalize(features(clip), dim=1)
    # The cosine from the distance: equal pictures have 1 even if their features vanish, as those of a white one do.
    cosines = 1.0 - 0.5 * (vectors - vectors[0]).square().sum(1)
    return PictureScores(float(change.max()), flicker, float(cosines.min()))


def _ratio(second: float, first: float, size: float) -> float:
    """The ratio of mean second and first differences; 0 if the first differences are rounding errors."""
    return second / first if first > _ROUNDING * size else 0.0


@dataclass(frozen=True)
class TruthScores:
    """A motion compared with those of the shape world.

    nearest: the name of the motion that is nearest to the paths, by the mean distance over the larger amount of
    the two, so that half a bounce is a bounce. It is NONE if even the nearest one is hardly nearer than
    standing still, as for a spin in the other direction, and "still" if nothing moves by STILL of the diameter.
    error: mean distance from the prompted motion in its best phase, as a share of the mean distance of that
    motion from rest (for "still", of the diameter); 1 is as wrong as standing still. phase: share of the
    duration by which the true motion is shifted for that.
    """

    nearest: str
    error: float
    phase: float


def truth_scores(paths: Float[Tensor, "T N 3"], shape: str, motion: str) -> TruthScores:
    """Compares the paths of an asset of the class `shape` with the motion that it was asked for.

    Each point is compared with where the true motion brings a point from the same position at rest. Candidates
    are all motions of the whole object that the class has, with their middle amount, and in every phase if they
    loop. Raises ValueError for a class or a motion of single pieces (wheels, lids), which has no truth for all
    points.
    """
    known = {name: kind for name, kind in motions.MOTIONS.items() if kind.body and shape in kind.shapes}
    if motion not in known:
        raise ValueError(f"a {shape} {motion} has no truth to compare all its points with")
    found = {name: _best_aligned(paths, name) for name in known}
    nearest = min(found, key=lambda name: found[name].unlike)
    if farthest(paths) < STILL:
        nearest = "still"
    elif nearest == "still" or found[nearest].unlike >= _RESEMBLES:
        nearest = NONE
    asked = found[motion]
    error = asked.distance / (diameter(paths[0]) if motion == "still" else asked.amount)
    return TruthScores(nearest, error, asked.phase)


def true_paths(rest: Float[Tensor, "N 3"], motion: str, moments: int, phase: float) -> Float[Tensor, "T N 3"]:
    """Where a motion of middle amount brings points at evenly spaced moments, if it begins at `phase` of its time.

    At the first moment the points are at `rest`.
    """
    kind = motions.MOTIONS[motion]
    amount = 0.5 * sum(kind.amount)
    times = [moment / (moments - 1) for moment in range(moments)]
    if phase:
        times = [(phase + time) % 1.0 for time in times]
    # The motion at `phase` has brought the points to `rest`; it is undone first. The centre that it turns them
    # around depends on where they began, so a few passes are needed.
    start = rest
    for _ in range(_UNDOING if phase else 0):
        start = _undone(rest, kind.place(start, times[0], amount))
    places = [kind.place(start, time, amount) for time in times]
    matrices, offsets = (torch.stack(values) for values in zip(*places, strict=True))
    return _undone(rest, places[0]) @ matrices.transpose(1, 2) + offsets[:, None]


def _undone(points: Float[Tensor, "N 3"], place: motions.Place) -> Float[Tensor, "N 3"]:
    matrix, offset = place
    return (points - offset) @ torch.linalg.inv(matrix).T


class _Aligned(NamedTuple):
    """A true motion in its best phase. distance: mean distance of the paths from it. amount: its mean distance from
    rest. unlike: the distance as a share of the larger amount of the two; 1 if one of them stands still."""

    distance: float
    amount: float
    unlike: float
    phase: float


def _best_aligned(paths: Float[Tensor, "T N 3"], motion: str) -> _Aligned:
    """The true motion in the earliest of the phases in which it is least unlike the paths."""
    own, tiny = _mean_distance(paths, paths[0]), 1e-12 * diameter(paths[0])
    tried = []
    for number in range(_PHASES if motions.MOTIONS[motion].loops and motion != "still" else 1):
        phase = number / _PHASES
        truth = true_paths(paths[0], motion, len(paths), phase)
        distance, amount = _mean_distance(paths, truth), _mean_distance(truth, paths[0])
        tried.append(_Aligned(distance, amount, distance / max(amount, own, tiny), phase))
    # A spin is the same in every phase, except for rounding.
    alike = min(one.unlike for one in tried) + _ALIKE
    return next(one for one in tried if one.unlike <= alike)


def _mean_distance(paths: Float[Tensor, "T N 3"], others: Float[Tensor, "*T N 3"]) -> float:
    return float((paths - others).norm(dim=2).mean())
