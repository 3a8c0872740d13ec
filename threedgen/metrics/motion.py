"""How an asset moves: how much, how smoothly, whether it comes back and stays itself; in the shape world, also
whether it does what the prompt says (METHODS 11.6).

Paths are [T, N, 3]: N points of the asset at T evenly spaced moments, from 0 to 1, in the first of which it rests.
A sequence that stands still is as smooth as can be: every report names the amount of motion beside its smoothness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.datasets import motions
from threedgen.metrics.features import Features

STILL = 0.01  # of an object's diameter: what moves less than that stands still, for whoever looks at it
NONE = "none"  # the name of a motion that resembles no known one

_PHASES = 12  # by which a true motion that loops is tried earlier or later
_RESEMBLES = 0.85  # less unlike than that, one motion may be taken for the other, see _Aligned
_ALIKE = 1e-5  # as much more unlike counts as equal
_UNDOING = 4  # passes; each leaves a small share of the error of the one before
_ROUNDING = 1e-6  # of the diameter, or of a picture's range: steps below that are float32's


@dataclass(frozen=True)
class MotionScores:
    """All lengths are shares of the object's diameter at rest.

    amount: mean distance from rest at the farthest moment. local: the same of what is left when the best rotation,
    translation and size of each moment are taken out: what bends, or falls apart. jerk: mean second difference
    over mean first difference of the paths: 0 for steady straight motion, 2 for one that trembles from frame to
    frame, and 0 where nothing moves; of a smooth motion it falls with 1 / T, so compare equal numbers of moments.
    loop: mean distance between the first moment and the last.
    """

    amount: float
    local: float
    jerk: float
    loop: float


def motion_scores(paths: Float[Tensor, "T N 3"]) -> MotionScores:
    """Of at least 3 moments. Raises ValueError for fewer."""
    if len(paths) < 3:
        raise ValueError(f"{len(paths)} moments: at least 3 tell how something moves")
    rest = paths[0]
    size = diameter(rest)
    far = (paths - rest).norm(dim=2).mean(1) / size
    bent = (paths - fitted(rest, paths)).norm(dim=2).mean(1) / size
    first, second = paths.diff(dim=0), paths.diff(n=2, dim=0)
    jerk = _ratio(float(second.norm(dim=2).mean()), float(first.norm(dim=2).mean()), size)
    return MotionScores(float(far.max()), float(bent.max()), jerk, float(far[-1]))


def farthest(paths: Float[Tensor, "T N 3"]) -> float:
    """How much moves: mean distance from rest at the farthest moment, as a share of the diameter at rest."""
    return float((paths - paths[0]).norm(dim=2).mean(1).max()) / diameter(paths[0])


def diameter(points: Float[Tensor, "N 3"]) -> float:
    """Twice the largest distance from the middle of the points' bounding box."""
    middle = 0.5 * (points.amin(0) + points.amax(0))
    return 2.0 * float((points - middle).norm(dim=1).max().clamp_min(1e-12))


def fitted(rest: Float[Tensor, "N 3"], paths: Float[Tensor, "T N 3"]) -> Float[Tensor, "T N 3"]:
    """The points at rest under the similarity that brings them nearest to each moment (Umeyama 1991)."""
    middle, middles = rest.mean(0), paths.mean(1, keepdim=True)
    still, moved = rest - middle, paths - middles
    u, s, vt = torch.linalg.svd(moved.transpose(1, 2) @ still)
    # The last axis is turned over where the best orthogonal map would be a mirror.
    sign = torch.ones_like(s)
    sign[:, 2] = torch.det(u @ vt).sign()
    scale = (s * sign).sum(1) / still.square().sum().clamp_min(1e-12)
    rotation = u @ (sign[:, :, None] * vt)
    return scale[:, None, None] * (still @ rotation.transpose(1, 2)) + middles


@dataclass(frozen=True)
class PictureScores:
    """change: mean absolute difference between a moment's picture and the first, at the moment where it is largest.
    flicker: mean absolute second difference over first differences of the pictures, 0 where they do not change; as
    jerk's, comparable for equal numbers of them. identity: the cosine of the features of each picture to those of
    the first, the smallest."""

    change: float
    flicker: float
    identity: float


def picture_scores(clip: Float[Tensor, "T H W 3"], features: Features) -> PictureScores:
    """Of pictures in [0, 1] from a camera that stands still, at least 3. Raises ValueError for fewer."""
    if len(clip) < 3:
        raise ValueError(f"{len(clip)} pictures: at least 3 tell how something moves")
    change = (clip - clip[0]).abs().mean((1, 2, 3))
    first, second = clip.diff(dim=0), clip.diff(n=2, dim=0)
    flicker = _ratio(float(second.abs().mean()), float(first.abs().mean()), 1.0)
    vectors = torch.nn.functional.normalize(features(clip), dim=1)
    # The cosine by the distance: equal pictures are equal even where features vanish, as those of a white one do.
    cosines = 1.0 - 0.5 * (vectors - vectors[0]).square().sum(1)
    return PictureScores(float(change.max()), flicker, float(cosines.min()))


def _ratio(second: float, first: float, size: float) -> float:
    """Of mean differences, 0 where the first ones are rounding."""
    return second / first if first > _ROUNDING * size else 0.0


@dataclass(frozen=True)
class TruthScores:
    """Against the shape world's motions. nearest: the name of the one that is nearest to the paths, in mean
    distance over the larger of both motions, so that half a bounce is a bounce; NONE where even that is hardly
    nearer than standing still would be, as for a spin the other way round, still within STILL of the diameter.
    error: mean distance from the prompted one, as a share of the true motion's own mean distance from rest (1: as
    wrong as standing still; for still, of the diameter), best-aligned in phase. phase: by which share of the time
    the truth was moved for that."""

    nearest: str
    error: float
    phase: float


def truth_scores(paths: Float[Tensor, "T N 3"], shape: str, motion: str) -> TruthScores:
    """paths: of an asset of the class `shape`, as it was asked to move.

    Each point is compared with where the true motion brings a point that rests where it does. Candidates are all
    motions of the whole object that the class has, in their middle amount; those that loop in every phase (METHODS
    11.6). Raises ValueError for a class or a motion without one truth (wheels, lids).
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
    """Where a motion of middle amount brings points at evenly spaced moments, seen from where they are at `phase`:
    the first moment is `rest` itself."""
    kind = motions.MOTIONS[motion]
    amount = 0.5 * sum(kind.amount)
    times = [moment / (moments - 1) for moment in range(moments)]
    if phase:
        times = [(phase + time) % 1.0 for time in times]
    # Points that are at rest now were brought here by the motion at `phase`, which is undone first; about which
    # place it turned them is known from where they began.
    start = rest
    for _ in range(_UNDOING if phase else 0):
        start = _undone(rest, kind.place(start, times[0], amount))
    places = [kind.place(start, time, amount) for time in times]
    matrices, offsets = (torch.stack(part) for part in zip(*places, strict=True))
    return _undone(rest, places[0]) @ matrices.transpose(1, 2) + offsets[:, None]


def _undone(points: Float[Tensor, "N 3"], place: motions.Place) -> Float[Tensor, "N 3"]:
    matrix, offset = place
    return (points - offset) @ torch.linalg.inv(matrix).T


class _Aligned(NamedTuple):
    """distance: mean, from a true motion. amount: of that, mean distance from rest. unlike: the distance as a share
    of the larger amount of both: 1 for what stands still beside what moves."""

    distance: float
    amount: float
    unlike: float
    phase: float


def _best_aligned(paths: Float[Tensor, "T N 3"], motion: str) -> _Aligned:
    """In the earliest of the phases in which a true motion is least unlike the paths."""
    own, tiny = _mean_distance(paths, paths[0]), 1e-12 * diameter(paths[0])
    tried = []
    for number in range(_PHASES if motions.MOTIONS[motion].loops and motion != "still" else 1):
        phase = number / _PHASES
        truth = true_paths(paths[0], motion, len(paths), phase)
        distance, amount = _mean_distance(paths, truth), _mean_distance(truth, paths[0])
        tried.append(_Aligned(distance, amount, distance / max(amount, own, tiny), phase))
    # A spin is the same in every phase, to rounding.
    alike = min(one.unlike for one in tried) + _ALIKE
    return next(one for one in tried if one.unlike <= alike)


def _mean_distance(paths: Float[Tensor, "T N 3"], others: Float[Tensor, "*T N 3"]) -> float:
    return float((paths - others).norm(dim=2).mean())
