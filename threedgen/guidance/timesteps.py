"""The order in which a run visits the noise levels t (docs/methods.md, "Noise levels over a run")."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.schedule import progress, range_at
from threedgen.guidance.priors.base import Prior

TimeOrder = Literal["random", "annealed", "sqrt", "dreamtime"]

_BUMP, _WIDTH = 0.8, 0.3  # centre and width in t of the bell-shaped weight of DreamTime
_GRID = 1001


def timesteps(
    order: TimeOrder,
    schedule: object,
    prior: Prior,
    count: int,
    group: int,
    step: int,
    total: int,
    rng: torch.Generator,
) -> Float[Tensor, " B"]:
    """t of `count` views at `step` of `total`; schedule: a range schedule.

    random: uniform in the range, one draw for each `group` consecutive views.
    The other orders use no randomness and one t for all views, from the top T of the first range to the bottom b of
    the last. annealed: linearly (DreamGaussian, Tang et al. 2023). sqrt: T - (T - b) sqrt(progress) (HiFA, Zhu and
    Zhuang 2023). dreamtime: such that the time spent near t is proportional to W(t) = sigma / alpha
    exp(-(t - 0.8)^2 / (2 0.3^2)), with sigma / alpha of the prior (DreamTime, Huang et al. 2023).
    """
    if order == "random":
        low, high = range_at(schedule, step, total)
        draws = torch.rand(count // group, generator=rng)
        return (low + (high - low) * draws).repeat_interleave(group)
    top, bottom = range_at(schedule, 0, total)[1], range_at(schedule, total - 1, total)[0]
    done = progress(step, total)
    if order == "dreamtime":
        return torch.full((count,), _dreamtime(prior, top, bottom, done))
    return torch.full((count,), top + (bottom - top) * (math.sqrt(done) if order == "sqrt" else done))


def _dreamtime(prior: Prior, top: float, bottom: float, done: float) -> float:
    """The t above which a share `done` of the area of W between bottom and top lies."""
    t = torch.linspace(top, bottom, _GRID, dtype=torch.float64)
    ratio = (prior.sigma(t) / prior.alpha(t)).double().cpu()
    weight = ratio * torch.exp(-(t - _BUMP).square() / (2.0 * _WIDTH**2))
    if not bool(weight.isfinite().all()):  # a flow has no signal at t = 1: use the weight of its neighbour
        weight = weight.nan_to_num(posinf=float(weight[weight.isfinite()].max()))
    area = torch.cumsum((weight[1:] + weight[:-1]) / 2.0, 0)
    index = int(torch.searchsorted(area, done * area[-1]).clamp(max=_GRID - 2))
    before = float(area[index - 1]) if index else 0.0
    share = (done * float(area[-1]) - before) / max(float(area[index]) - before, 1e-30)
    return float(t[index] + (t[index + 1] - t[index]) * min(max(share, 0.0), 1.0))
