"""Terms of the loss on how points move, and their weights. Every term is a mean over the moments of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.schedule import Schedule
from threedgen.core.settings import settings
from threedgen.kernels.rigidity import can_compare, changed_distances

_SMALLEST = 1e-8  # of a variance


@dataclass(frozen=True)
class MovedPoints:
    """Points at rest and at some moments, in world units.

    rest: [N, 3], the positions at time 0. moved: [T, N, 3], those at T moments. neighbours: [N, K], for each point
    the indices of K others that are near it at rest. end: returns the positions at time 1. departure: returns how
    far the points are, at S moments of an overlap, from where an earlier motion alone would move them; None if
    there is no earlier motion. Both take time, so only the terms that need them call them.
    """

    rest: Float[Tensor, "N 3"]
    moved: Float[Tensor, "T N 3"]
    neighbours: Int[Tensor, "N K"]
    end: Callable[[], Float[Tensor, "N 3"]] | None = None
    departure: Callable[[], Float[Tensor, "S N 3"]] | None = None


def jensen_shannon(points: MovedPoints) -> Float[Tensor, ""]:
    """Sum over the axes of the divergence between the normal distributions of the positions at rest and later.

    The Jensen-Shannon divergence with the mixture replaced by the normal distribution of averaged mean and variance
    (Align Your Gaussians, Ling et al. 2024, section 3.4). It is 0 if mean and variance stay the same, so it keeps
    the whole from drifting and growing.
    """
    mean, variance = points.rest.mean(0).detach(), points.rest.var(0, correction=0).detach()
    means, variances = points.moved.mean(1), points.moved.var(1, correction=0)
    both = (variance + variances).clamp_min(_SMALLEST)
    logs = 0.5 * (both.log() - math.log(2.0)) - 0.25 * (
        variance.clamp_min(_SMALLEST).log() + variances.clamp_min(_SMALLEST).log()
    )
    return (logs + 0.25 * (means - mean).square() / both).sum(1).mean()


def rigidity(points: MovedPoints) -> Float[Tensor, ""]:
    """Mean squared change of the distances between neighbours, divided by the mean squared distance at rest: 0 for
    a rigid motion, and if there are no neighbours."""
    if not points.neighbours.shape[1]:
        return points.moved.new_zeros(())
    if can_compare(points.rest, points.moved):
        changes, at_rest = changed_distances(points.rest, points.moved, points.neighbours, _SMALLEST)
        return changes / at_rest.clamp_min(_SMALLEST)
    rest = torch.linalg.vector_norm(_to_neighbours(points.rest[None], points.neighbours), dim=3)
    moved = (_to_neighbours(points.moved, points.neighbours).square().sum(3) + _SMALLEST).sqrt()
    return (moved - rest).square().mean() / rest.square().mean().clamp_min(_SMALLEST)


def smoothness(points: MovedPoints) -> Float[Tensor, ""]:
    """Mean squared difference between the displacements of neighbours, in world units squared: 0 if all move alike,
    and if there are no neighbours; small if the whole rotates (docs/methods.md, "Motion terms")."""
    if not points.neighbours.shape[1]:
        return points.moved.new_zeros(())
    return _to_neighbours(points.moved - points.rest, points.neighbours).square().sum(3).mean()


def _to_neighbours(
    vectors: Float[Tensor, "T N 3"], neighbours: Int[Tensor, "N K"]
) -> Float[Tensor, "N K T 3"]:
    """From the vector of each point to those of its neighbours. By rows of all moments, because the gradient of an
    index into a middle dimension takes three times as long."""
    rows = vectors.transpose(0, 1)
    found = rows.flatten(1).index_select(0, neighbours.flatten())
    return found.view(*neighbours.shape, *rows.shape[1:]) - rows[:, None]


def loop(points: MovedPoints) -> Float[Tensor, ""]:
    """Mean squared distance, in world units squared, between the positions at time 1 and at rest: 0 for a motion
    that ends where it began (docs/methods.md, "Motion terms")."""
    assert points.end is not None
    return (points.end() - points.rest).square().sum(1).mean()


def handover(points: MovedPoints) -> Float[Tensor, ""]:
    """Mean of ||D_1 - D_12||^2 over an overlap, in world units squared, with D_1 the displacement by the earlier
    motion alone and D_12 the blended one (Align Your Gaussians, Ling et al. 2024, section 3.5): small if the later
    motion begins as the earlier one would continue."""
    assert points.departure is not None
    return points.departure().square().sum(2).mean()


TERMS: dict[str, Callable[[MovedPoints], Float[Tensor, ""]]] = {
    "jsd": jensen_shannon,
    "rigidity": rigidity,
    "smoothness": smoothness,
    "loop": loop,
    "handover": handover,
}


@settings
class Config:
    """The weight of each term of the loss on the motion, a number or a schedule; 0 leaves the term out.

    Attributes:
        jsd: Weight of the divergence between the distributions of the positions at rest and later, which keeps the
            whole from drifting and growing.
        rigidity: Weight of the relative change of the distances between neighbours, which keeps the motion rigid.
        smoothness (per world unit squared): Weight of the difference between the displacements of neighbours, which
            makes them move alike.
        loop (per world unit squared): Weight of the distance between the positions at the end and at rest, which
            makes the motion end where it began.
        handover (per world unit squared): Weight of the departure from the earlier motion during the overlap with
            it; it needs after.run.
    """

    jsd: Schedule = 0.0
    rigidity: Schedule = 0.0
    smoothness: Schedule = 0.0
    loop: Schedule = 0.0
    handover: Schedule = 0.0


def nearest(points: Float[Tensor, "N 3"], count: int) -> Int[Tensor, "N K"]:
    """The indices of the `count` other points nearest to each point (of all others if there are fewer), found in
    blocks of bounded memory."""
    count = min(count, len(points) - 1)
    blocks = [
        torch.cdist(block, points).topk(count + 1, largest=False).indices for block in points.split(2048)
    ]
    found = torch.cat(blocks)
    # A point may not be the first of its own list if others have the same position.
    own = found == torch.arange(len(points), device=points.device)[:, None]
    own[:, -1] |= ~own.any(1)
    return found[~own].reshape(len(points), count)
