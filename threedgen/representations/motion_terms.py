"""Terms of the loss on how points move, and their weights. Every term is a mean over the moments of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.schedule import Schedule

_SMALLEST = 1e-8  # of a variance


@dataclass(frozen=True)
class MovedPoints:
    """rest: where points are at time 0, moved: at T moments. neighbours: of each, K others that rest beside it.

    end: asks where they are at time 1. departure: asks how far they are, at S moments of an overlap, from where an
    earlier motion alone would have them; None where there is no earlier one. Both cost something, so they are asked
    for by the terms that want them only.
    """

    rest: Float[Tensor, "N 3"]
    moved: Float[Tensor, "T N 3"]
    neighbours: Int[Tensor, "N K"]
    end: Callable[[], Float[Tensor, "N 3"]] | None = None
    departure: Callable[[], Float[Tensor, "S N 3"]] | None = None


def jensen_shannon(points: MovedPoints) -> Float[Tensor, ""]:
    """Sum over the axes of the divergence between the normal distributions of the points' places at rest and later.

    JSD with the mixture replaced by the normal of averaged mean and variance (Align Your Gaussians, section 3.4;
    METHODS 7.3): 0 where mean and variance stay, so it forbids drifting and growing as a whole.
    """
    mean, variance = points.rest.mean(0).detach(), points.rest.var(0, correction=0).detach()
    means, variances = points.moved.mean(1), points.moved.var(1, correction=0)
    both = (variance + variances).clamp_min(_SMALLEST)
    logs = 0.5 * (both.log() - math.log(2.0)) - 0.25 * (
        variance.clamp_min(_SMALLEST).log() + variances.clamp_min(_SMALLEST).log()
    )
    return (logs + 0.25 * (means - mean).square() / both).sum(1).mean()


def rigidity(points: MovedPoints) -> Float[Tensor, ""]:
    """mean squared change of the distances between neighbours, over that of the distances at rest: 0 for whatever
    moves as a solid does, and for a point without neighbours."""
    if not points.neighbours.shape[1]:
        return points.moved.new_zeros(())
    pairs = points.rest[points.neighbours] - points.rest[:, None]
    rest = torch.linalg.vector_norm(pairs, dim=2)
    later = points.moved[:, points.neighbours] - points.moved[:, :, None]
    moved = (later.square().sum(3) + _SMALLEST).sqrt()
    return (moved - rest).square().mean() / rest.square().mean().clamp_min(_SMALLEST)


def smoothness(points: MovedPoints) -> Float[Tensor, ""]:
    """mean squared difference of neighbours' displacements: 0 where all move alike, small where they turn
    (METHODS 7.4, first form), and for a point without neighbours."""
    if not points.neighbours.shape[1]:
        return points.moved.new_zeros(())
    shift = points.moved - points.rest
    return (shift[:, points.neighbours] - shift[:, :, None]).square().sum(3).mean()


def loop(points: MovedPoints) -> Float[Tensor, ""]:
    """mean squared distance, in world units, between where points are at time 1 and where they rest: 0 for a motion
    that ends where it began (METHODS 7.6)."""
    assert points.end is not None
    return (points.end() - points.rest).square().sum(1).mean()


def handover(points: MovedPoints) -> Float[Tensor, ""]:
    """mean ||D_1 - D_12||^2 over an overlap: where the earlier motion alone leads, D_1, and the blended D_12 (Align
    Your Gaussians, section 3.5; METHODS 7.6): small where the later motion sets out as the earlier one goes on."""
    assert points.departure is not None
    return points.departure().square().sum(2).mean()


TERMS: dict[str, Callable[[MovedPoints], Float[Tensor, ""]]] = {
    "jsd": jensen_shannon,
    "rigidity": rigidity,
    "smoothness": smoothness,
    "loop": loop,
    "handover": handover,
}


@dataclass(frozen=True)
class Config:
    """The weight of each term in the loss, a number or a schedule; 0 leaves the term out.

    jsd: jensen_shannon. rigidity, smoothness, loop, handover: the functions so named.
    """

    jsd: Schedule = 0.0
    rigidity: Schedule = 0.0
    smoothness: Schedule = 0.0
    loop: Schedule = 0.0
    handover: Schedule = 0.0


def nearest(points: Float[Tensor, "N 3"], count: int) -> Int[Tensor, "N K"]:
    """The `count` others nearest to each point (fewer where there are no more), in blocks of bounded memory."""
    count = min(count, len(points) - 1)
    blocks = [
        torch.cdist(block, points).topk(count + 1, largest=False).indices for block in points.split(2048)
    ]
    found = torch.cat(blocks)
    # A point may not be the first of its own list where others lie in the same place.
    own = found == torch.arange(len(points), device=points.device)[:, None]
    own[:, -1] |= ~own.any(1)
    return found[~own].reshape(len(points), count)
