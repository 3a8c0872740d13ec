"""How an asset moves: how much, how smoothly, whether it comes back and stays itself; in the shape world, also
whether it does what the prompt says (METHODS 11.6).

Paths are [T, N, 3]: N points of the asset at T evenly spaced moments, from 0 to 1, the first of them at rest. A
sequence that stands still is as smooth as can be: every report names the amount of motion beside its smoothness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.datasets import motions
from threedgen.metrics.features import Features

_PHASES = 12  # by which a true motion that loops is tried earlier or later


@dataclass(frozen=True)
class MotionScores:
    """All lengths are shares of the object's diameter at rest.

    amount: mean distance from rest at the farthest moment. local: the same of what is left when the best rotation,
    translation and size of each moment are taken out: what bends, or falls apart. jerk: mean second difference
    over mean first difference of the paths: 0 for steady straight motion, 2 for one that trembles from frame to
    frame. loop: mean distance between the first moment and the last.
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
    travelled = float(first.norm(dim=2).mean())
    jerk = float(second.norm(dim=2).mean()) / travelled if travelled > 0.0 else 0.0
    return MotionScores(float(far.max()), float(bent.max()), jerk, float(far[-1]))


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
    flicker: mean absolute second difference over first differences of the pictures. identity: the cosine of the
    features of each picture to those of the first, the smallest."""

    change: float
    flicker: float
    identity: float


def picture_scores(clip: Float[Tensor, "T H W 3"], features: Features) -> PictureScores:
    """Of pictures in [0, 1] from a camera that stands still, at least 3. Raises ValueError for fewer."""
    if len(clip) < 3:
        raise ValueError(f"{len(clip)} pictures: at least 3 tell how something moves")
    change = (clip - clip[0]).abs().mean((1, 2, 3))
    first = float(clip.diff(dim=0).abs().mean())
    flicker = float(clip.diff(n=2, dim=0).abs().mean()) / first if first > 0.0 else 0.0
    vectors = torch.nn.functional.normalize(features(clip), dim=1)
    return PictureScores(float(change.max()), flicker, float((vectors @ vectors[0]).min()))


@dataclass(frozen=True)
class TruthScores:
    """Against the shape world's motions. nearest: the name of the one that the paths resemble most. error: mean
    distance from the prompted one, as a share of the true motion's own mean distance from rest (1: as wrong as
    standing still), best-aligned in phase. phase: by which share of the time the truth was moved for that."""

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
    found = {name: _nearest_phase(paths, name) for name in known}
    error, phase = found[motion]
    amount = float((true_paths(paths[0], motion, len(paths), 0.0) - paths[0]).norm(dim=2).mean())
    nearest = min(found, key=lambda name: found[name][0])
    return TruthScores(nearest, error / amount if amount > 0.0 else error / diameter(paths[0]), phase)


def true_paths(rest: Float[Tensor, "N 3"], motion: str, moments: int, phase: float) -> Float[Tensor, "T N 3"]:
    """Where a motion of middle amount brings points at evenly spaced moments, seen from where they are at `phase`:
    the first moment is `rest` itself."""
    kind = motions.MOTIONS[motion]
    amount = 0.5 * sum(kind.amount)
    times = [moment / (moments - 1) for moment in range(moments)]
    if phase:
        times = [(phase + time) % 1.0 for time in times]
    places = [kind.place(rest, time, amount) for time in times]
    matrix, offset = (torch.stack(part) for part in zip(*places, strict=True))
    # Points that are at rest now were brought here by the motion at `phase`: that is undone first.
    back = torch.linalg.inv(matrix[0])
    start = (rest - offset[0]) @ back.T
    return start @ matrix.transpose(1, 2) + offset[:, None]


def _nearest_phase(paths: Float[Tensor, "T N 3"], motion: str) -> tuple[float, float]:
    """The least mean distance from a true motion over its phases, and the phase."""
    phases = range(_PHASES if motions.MOTIONS[motion].loops and motion != "still" else 1)
    tried = [
        (
            float((paths - true_paths(paths[0], motion, len(paths), k / _PHASES)).norm(dim=2).mean()),
            k / _PHASES,
        )
        for k in phases
    ]
    return min(tried)
