"""Density control: where Gaussians are copied, cut in two, or removed (3DGS section 5.2, METHODS 10.3).

Two departures from 3DGS, both so that one recipe holds for every loss and image size:

* The statistic is relative. The gradient of the screen position, in NDC units, is divided by its own mean
  over all visible Gaussians of the same step, so a loss multiplied by anything, or rendered at any
  resolution, makes the same decisions. A threshold of 2 means "twice as much pull as the average".
* The split is along the longest axis and keeps the mixture's mass, mean and covariance exactly (3DGS draws
  two samples and loses mass; `split: samples` does that).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.types import ScreenStatistics
from threedgen.representations.initialisers import neighbour_distance
from threedgen.representations.transforms import matrix_from_quat

SHRINK = 1.6  # 3DGS: a child's scale is its parent's / 1.6


@dataclass(frozen=True)
class Config:
    """When and what density control changes. Lengths are world units (the object fills the unit sphere).

    enabled: False leaves the rows alone. refinements: how many times, evenly spaced over the fractions
    begin..end of the run. grow_end: clone and split until this fraction; later ones only prune.
    grow: relative screen gradient above which a Gaussian is cloned or split, in multiples of the mean.
    split_scale: cloned if its largest scale is at most this, else split. split: axis (keeps mass and
    covariance) or samples (3DGS).
    max_count: never more Gaussians than this; those with the largest gradient grow first.
    prune_opacity: removed below. prune_scale: removed if the largest scale is above. prune_radius: removed
    if the centre is further from the origin. stray: removed if the mean distance to the 3 nearest neighbours
    exceeds this multiple of the cloud's median (floaters); 0 keeps them.
    resets: how many of the growing refinements, evenly chosen, also bring every opacity down to twice
    prune_opacity.
    """

    enabled: bool = True
    refinements: int = 10
    begin: float = 0.15
    end: float = 0.95
    grow_end: float = 0.6
    grow: float = 2.5
    split_scale: float = 0.03
    split: Literal["axis", "samples"] = "axis"
    max_count: int = 12000
    prune_opacity: float = 0.02
    prune_scale: float = 0.5
    prune_radius: float = 1.1
    stray: float = 6.0
    resets: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.begin <= self.end <= 1.0:
            raise UserError(
                f"density.begin {self.begin} and density.end {self.end} must be in order within [0, 1]"
            )
        if self.enabled and self.refinements < 1:
            raise UserError("density.refinements must be at least 1; write density.enabled=false for none")
        if self.grow_end < self.begin or self.resets < 0:
            raise UserError(
                "density.grow_end must not be before density.begin, and density.resets not negative"
            )
        if self.split not in ("axis", "samples"):
            raise UserError(f"density.split is {self.split!r}; choose axis or samples")
        if self.max_count < 1 or not 0.0 <= self.prune_opacity < 0.5:
            raise UserError("density.max_count must be at least 1 and density.prune_opacity in [0, 0.5)")
        if not all(v > 0 for v in (self.grow, self.split_scale, self.prune_scale, self.prune_radius)):
            raise UserError("density.grow, split_scale, prune_scale and prune_radius must be positive")


@dataclass(frozen=True)
class Refinement:
    """What one step of the plan does: grow (clone and split) and reset, besides pruning."""

    grow: bool
    reset: bool


def refinement_at(config: Config, step: int, total: int) -> Refinement | None:
    """What to do after `step` (0-based) of `total`, or None. Spacing is in fractions of the run."""
    if not config.enabled:
        return None
    last = total - 1
    gaps = max(config.refinements - 1, 1)
    fractions = [config.begin + (config.end - config.begin) * i / gaps for i in range(config.refinements)]
    growing = [fraction for fraction in fractions if fraction <= config.grow_end + 1e-9]
    # Resets come inside the growing stretch, so that what they fade has time to recover or to be pruned.
    resets = range(1, config.resets + 1)
    chosen = {growing[min(i * len(growing) // (config.resets + 1), len(growing) - 1)] for i in resets}
    here = [fraction for fraction in fractions if round(fraction * last) == step]
    if not here:
        return None
    return Refinement(grow=any(f in growing for f in here), reset=any(f in chosen for f in here))


def relative_gradient(screen: ScreenStatistics) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]] | None:
    """Sum over the visible views of ||dL/d(NDC position)|| / (mean over all visible), and the view counts.

    None where there is nothing to learn: no backward pass reached the means, or no gradient anywhere.
    """
    gradient = screen.means2d.grad
    if gradient is None:
        return None
    half_size = gradient.new_tensor([screen.width / 2, screen.height / 2])
    norm = torch.linalg.vector_norm(gradient * half_size, dim=-1)  # [B, N]
    visible = screen.radii > 0
    norm = torch.where(visible, norm, torch.zeros_like(norm))
    mean = norm.double().sum() / visible.sum().clamp(min=1)
    if not (mean > 0 and torch.isfinite(mean)):
        return None
    return (norm / mean).sum(0).to(norm.dtype), visible.sum(0)


@dataclass(frozen=True)
class Edit:
    """New rows in terms of old ones: row i comes from old row parents[i]; `fresh` rows are newly born.

    Attributes not given here are copied from the parent. Counts are for the log.
    """

    parents: Int[Tensor, " M"]
    fresh: Bool[Tensor, " M"]
    means: Float[Tensor, "M 3"]
    log_scales: Float[Tensor, "M 3"]
    opacity_logits: Float[Tensor, " M"]
    cloned: int
    split: int
    pruned: int


def to_prune(
    means: Float[Tensor, "N 3"],
    log_scales: Float[Tensor, "N 3"],
    opacity_logits: Float[Tensor, " N"],
    config: Config,
) -> Bool[Tensor, " N"]:
    """Transparent, oversized, far-out and stray Gaussians; at most half of the cloud, the faintest first."""
    doomed = opacity_logits < math.log(max(config.prune_opacity, 1e-12) / (1.0 - config.prune_opacity))
    doomed |= log_scales.amax(-1) > math.log(config.prune_scale)
    doomed |= torch.linalg.vector_norm(means, dim=-1) > config.prune_radius
    if config.stray > 0:
        # Distances among those that stay: a haze of transparent Gaussians must not shelter a floater.
        stays = (~doomed).nonzero().squeeze(-1)
        distance = neighbour_distance(means[stays])
        if len(stays) > 3:
            doomed[stays[distance > config.stray * distance.median()]] = True
    excess = int(doomed.sum()) - len(doomed) // 2
    if excess > 0:
        # One bad stretch of steps must not empty the scene.
        rows = doomed.nonzero().squeeze(-1)
        order = torch.argsort(opacity_logits[rows], stable=True, descending=True)
        doomed[rows[order[:excess]]] = False
    return doomed


def refine(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    log_scales: Float[Tensor, "N 3"],
    opacity_logits: Float[Tensor, " N"],
    statistic: Float[Tensor, " N"] | None,
    config: Config,
    generator: torch.Generator,
) -> Edit:
    """Prunes, then clones and splits where `statistic` (mean relative gradient; None: no growth) is large.

    Rows of the result: survivors in their old order, then clones, then the two halves of each split.
    """
    doomed = to_prune(means, log_scales, opacity_logits, config)
    growing = torch.zeros_like(doomed)
    if statistic is not None:
        growing = (statistic > config.grow) & ~doomed
        budget = max(config.max_count - int((~doomed).sum()), 0)
        if int(growing.sum()) > budget:
            best = torch.argsort(
                torch.where(growing, statistic, -torch.ones_like(statistic)), stable=True, descending=True
            )[:budget]
            growing = torch.zeros_like(growing)
            growing[best] = True
    small = log_scales.amax(-1) <= math.log(config.split_scale)
    cloned = (growing & small).nonzero().squeeze(-1)
    cut = (growing & ~small).nonzero().squeeze(-1)
    kept = (~doomed & ~(growing & ~small)).nonzero().squeeze(-1)

    halved = opacity_logits.clone()
    halved[cloned] = shared_opacity(opacity_logits[cloned])
    if config.split == "axis":
        children = split_along_axis(means[cut], quats[cut], log_scales[cut], opacity_logits[cut])
    else:
        children = split_by_samples(means[cut], quats[cut], log_scales[cut], opacity_logits[cut], generator)
    child_means, child_log_scales, child_logits = children

    parents = torch.cat([kept, cloned, cut, cut])
    return Edit(
        parents=parents,
        fresh=torch.arange(len(parents), device=means.device) >= len(kept),
        means=torch.cat([means[kept], means[cloned], child_means]),
        log_scales=torch.cat([log_scales[kept], log_scales[cloned], child_log_scales]),
        opacity_logits=torch.cat([halved[kept], halved[cloned], child_logits]),
        cloned=len(cloned),
        split=len(cut),
        pruned=int(doomed.sum()),
    )


def shared_opacity(logits: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The logit of 1 - sqrt(1 - o): two such copies let through as much light as one of opacity o."""
    half_log_transmittance = 0.5 * F.logsigmoid(-logits)
    return torch.log(-torch.expm1(half_log_transmittance)) - half_log_transmittance


def split_along_axis(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    log_scales: Float[Tensor, "N 3"],
    opacity_logits: Float[Tensor, " N"],
) -> tuple[Float[Tensor, "2N 3"], Float[Tensor, "2N 3"], Float[Tensor, " 2N"]]:
    """Two halves along the longest axis: means, log-scales and opacity logits, all first halves first.

    With scale s on that axis: s / 1.6, centres at -+ s sqrt(1 - 1/1.6^2), opacity o * 0.8. The two
    together have the parent's mass (sum of opacity x volume), mean and covariance.
    """
    longest = log_scales.argmax(-1)
    axis = F.one_hot(longest, 3).to(log_scales)
    scale = torch.gather(log_scales, 1, longest[:, None]).exp()
    local = axis * scale * math.sqrt(1.0 - SHRINK**-2)
    offset = torch.einsum("nij,nj->ni", matrix_from_quat(quats), local)
    smaller = log_scales - axis * math.log(SHRINK)
    opacity = torch.sigmoid(opacity_logits) * (SHRINK / 2)
    logits = torch.logit(opacity)
    return torch.cat([means - offset, means + offset]), smaller.repeat(2, 1), logits.repeat(2)


def split_by_samples(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    log_scales: Float[Tensor, "N 3"],
    opacity_logits: Float[Tensor, " N"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "2N 3"], Float[Tensor, "2N 3"], Float[Tensor, " 2N"]]:
    """3DGS's split: two centres drawn from the Gaussian, all scales / 1.6, the opacity as it was."""
    noise = torch.randn(2, *means.shape, generator=generator, dtype=torch.float32).to(means)
    offset = torch.einsum("nij,knj->kni", matrix_from_quat(quats), noise * log_scales.exp())
    smaller = log_scales - math.log(SHRINK)
    return (means + offset).reshape(-1, 3), smaller.repeat(2, 1), opacity_logits.repeat(2)
