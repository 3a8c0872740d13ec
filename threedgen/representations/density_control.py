"""Density control: which Gaussians are copied, split in two, or removed.

3D Gaussian Splatting (3DGS), Kerbl et al. 2023, section 5.2, with two departures, so that one recipe holds for
every loss and picture size:

* The statistic is relative. The gradient of the screen position, in normalised device coordinates, is divided by
  its own mean over all visible Gaussians of the same step. A loss multiplied by any number, or rendered at any
  resolution, therefore makes the same decisions. A threshold of 2 means "twice the average gradient".
* The split is along the longest axis and keeps mass, mean and covariance of the mixture exactly. 3DGS draws two
  samples and loses mass; `split: samples` does that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.settings import SettingError, at_least, between, settings
from threedgen.core.transfer import sent_as
from threedgen.core.transforms import matrix_from_quat
from threedgen.core.types import ScreenStatistics
from threedgen.representations.initialisers import neighbour_distance

SHRINK = 1.6  # the scale of each half of a split is that of the whole divided by this (3DGS)


@settings
class Config:
    """When density control acts, and on which Gaussians.

    Attributes:
        enabled: Whether Gaussians are copied, split and removed at all.
        refinements: Number of times that this is done, evenly spaced between begin and end.
        begin: Fraction of the run at which the first refinement comes.
        end: Fraction of the run at which the last refinement comes.
        grow_end: Fraction of the run until which refinements copy and split; later ones only remove.
        grow: A Gaussian is copied or split if its screen gradient exceeds this multiple of the mean of all.
        split_scale (world units): Such a Gaussian is copied if its largest standard deviation is at most this, and
            split if it is larger.
        split: How a Gaussian is split: axis halves it along its longest axis and keeps mass and covariance, samples
            draws two new centres from it as in 3D Gaussian Splatting.
        max_count: Largest number of Gaussians; those with the largest gradient are copied and split first.
        prune_opacity: A Gaussian with a lower opacity is removed.
        prune_scale (world units): A Gaussian with a larger standard deviation along any axis is removed.
        prune_radius (world units): A Gaussian whose centre is farther from the origin is removed.
        stray: A Gaussian is removed if its mean distance to the 3 nearest others exceeds this multiple of the
            median over the cloud; 0 keeps all of them.
        resets: Number of refinements among those before grow_end, evenly chosen, that also lower every opacity to
            at most twice prune_opacity.
    """

    enabled: bool = True
    refinements: int = 10
    begin: Annotated[float, between(0.0, 1.0)] = 0.15
    end: Annotated[float, between(0.0, 1.0)] = 0.95
    grow_end: float = 0.6
    grow: float = 2.5
    split_scale: float = 0.03
    split: Literal["axis", "samples"] = "axis"
    max_count: Annotated[int, at_least(1)] = 12000
    prune_opacity: Annotated[float, between(0.0, 0.5, open_high=True)] = 0.02
    prune_scale: float = 0.5
    prune_radius: float = 1.1
    stray: float = 6.0
    resets: Annotated[int, at_least(0)] = 0

    def __post_init__(self) -> None:
        if self.begin > self.end:
            raise SettingError("begin", f"is {self.begin:g}; it must not be after end, which is {self.end:g}")
        if self.enabled and self.refinements < 1:
            raise SettingError(
                "refinements",
                f"is {self.refinements}; it must be at least 1, or set enabled to false for none",
            )
        if self.grow_end < self.begin:
            raise SettingError(
                "grow_end", f"is {self.grow_end:g}; it must not be before begin, which is {self.begin:g}"
            )
        if self.split not in ("axis", "samples"):
            raise SettingError("split", f"is {self.split!r}; it must be axis or samples")
        for name in ("grow", "split_scale", "prune_scale", "prune_radius"):
            value = getattr(self, name)
            if not value > 0.0:  # infinity is allowed: it switches a rule off
                raise SettingError(name, f"is {value:g}; it must be greater than 0")


@dataclass(frozen=True)
class Refinement:
    """What a refinement does besides removing. grow: copies and splits. reset: lowers opacities."""

    grow: bool
    reset: bool


def refinement_at(config: Config, step: int, total: int) -> Refinement | None:
    """The refinement that is due after the 0-based `step` of `total`, or None."""
    if not config.enabled:
        return None
    last = total - 1
    gaps = max(config.refinements - 1, 1)
    fractions = [config.begin + (config.end - config.begin) * i / gaps for i in range(config.refinements)]
    growing = [fraction for fraction in fractions if fraction <= config.grow_end + 1e-9]
    # Resets come among the growing refinements, so that what they fade has time to recover or to be pruned.
    resets = range(1, config.resets + 1)
    chosen = {growing[min(i * len(growing) // (config.resets + 1), len(growing) - 1)] for i in resets}
    here = [fraction for fraction in fractions if round(fraction * last) == step]
    if not here:
        return None
    return Refinement(grow=any(f in growing for f in here), reset=any(f in chosen for f in here))


def relative_gradient(screen: ScreenStatistics) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]] | None:
    """For each Gaussian the sum, over the views that show it, of the length of dL/d(position in normalised device
    coordinates) divided by the mean of these lengths over all visible Gaussians; and the number of these views.

    None if there is no statistic: no backward pass reached the positions, or all gradients are zero.
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
    """New rows in terms of old ones: row i comes from the old row parents[i]. fresh: which rows are new Gaussians.

    Parameters that are not given here are copied from the parent. cloned, split, pruned: numbers of Gaussians.
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
    """Which Gaussians are too transparent, too large, too far out or stray; at most half of the cloud, the
    most transparent ones first."""
    doomed = opacity_logits < math.log(max(config.prune_opacity, 1e-12) / (1.0 - config.prune_opacity))
    doomed |= log_scales.amax(-1) > math.log(config.prune_scale)
    doomed |= torch.linalg.vector_norm(means, dim=-1) > config.prune_radius
    if config.stray > 0:
        # Distances among those that stay: a haze of transparent Gaussians must not hide a stray one.
        stays = (~doomed).nonzero().squeeze(-1)
        distance = neighbour_distance(means[stays])
        if len(stays) > 3:
            doomed[stays[distance > config.stray * distance.median()]] = True
    excess = int(doomed.sum()) - len(doomed) // 2
    if excess > 0:
        # A few bad steps must not empty the scene.
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
    """Removes Gaussians, then copies and splits those whose `statistic` is large.

    statistic: mean relative gradient over the views; None copies and splits nothing. Rows of the result: those that
    stay in their old order, then the copies, then the first and after these the second halves of the split ones.
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
    """The logit of 1 - sqrt(1 - o): two such Gaussians let as much light through as one of opacity o."""
    half_log_transmittance = 0.5 * F.logsigmoid(-logits)
    return torch.log(-torch.expm1(half_log_transmittance)) - half_log_transmittance


def split_along_axis(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    log_scales: Float[Tensor, "N 3"],
    opacity_logits: Float[Tensor, " N"],
) -> tuple[Float[Tensor, "2N 3"], Float[Tensor, "2N 3"], Float[Tensor, " 2N"]]:
    """Two halves along the longest axis: means, log-scales and opacity logits, all first halves first.

    If s is the scale on that axis and o the opacity, the halves have scale s / 1.6, centres at -+ s sqrt(1 -
    1/1.6^2) and opacity 0.8 o. Together they have mass (sum of opacity times volume), mean and covariance of the
    whole.
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
    """The split of 3DGS: two centres drawn from the Gaussian, all scales divided by 1.6, the opacity unchanged."""
    noise = sent_as(torch.randn(2, *means.shape, generator=generator, dtype=torch.float32), means)
    offset = torch.einsum("nij,knj->kni", matrix_from_quat(quats), noise * log_scales.exp())
    smaller = log_scales - math.log(SHRINK)
    return (means + offset).reshape(-1, 3), smaller.repeat(2, 1), opacity_logits.repeat(2)
