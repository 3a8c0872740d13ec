"""Forward processes: z = alpha(t) x + sigma(t) eps for t in [0, 1], where t = 0 is clean (docs/methods.md, "Noise
processes")."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_LEVEL = 1e-6
"""Of alpha and sigma in a division by them: a flow has no noise at t = 0 and no signal at t = 1."""
_KARRAS = 7.0  # rho of Karras et al. 2022, equation 5


def per_sample(values: Float[Tensor, " B"], like: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """[B] -> [B, 1, 1, ...], so that it multiplies each sample of `like` by one number."""
    return values.to(like).reshape(-1, *(1,) * (like.ndim - 1))


class Process(Protocol):
    """alpha and sigma as functions of t, and the time input of the network."""

    def timestep(self, t: Float[Tensor, " B"]) -> Tensor:
        """The time input of the network at t."""
        ...

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Signal level at t."""
        ...

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Noise level at t."""
        ...


def add_noise(
    process: Process, x: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
) -> Float[Tensor, "B ..."]:
    """z = alpha(t) x + sigma(t) eps."""
    return per_sample(process.alpha(t), x) * x + per_sample(process.sigma(t), x) * eps


def unit_levels(
    alpha: Float[Tensor, " B"], sigma: Float[Tensor, " B"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(alpha, sigma) of the variance-preserving sample with the same ratio of noise to signal.

    Weights w(t) are defined for such samples. This one rule gives a prior the same weight at the same noise,
    whichever form its process has.
    """
    length = (alpha.square() + sigma.square()).sqrt()
    return alpha / length, sigma / length


def cosine_table(steps: int) -> Float[Tensor, " T"]:
    """The cumulative products of the cosine schedule (Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17) with
    betas up to 0.999: squaredcos_cap_v2 of diffusers, without its import."""
    level = [math.cos((step / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(steps + 1)]
    betas = [min(1.0 - after / before, 0.999) for before, after in pairwise(level)]
    return (1.0 - torch.tensor(betas)).cumprod(0)


class NoiseSchedule:
    """The variance-preserving process whose alpha and sigma are read from a table of cumulative products.

    t maps to the table index clamp(round(t T), 0, T - 1), so t = 0.98 is step 980 of 1000 as in the reference
    implementations, and the network and the noise always use the same step.
    """

    def __init__(self, alphas_cumprod: Float[Tensor, " T"]) -> None:
        self.alphas_cumprod = alphas_cumprod.detach()
        self._copies: dict[torch.device, Tensor] = {}

    @classmethod
    def scaled_linear(cls, steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> NoiseSchedule:
        """The table of Stable Diffusion (Rombach et al. 2022), betas linear in their square root, in float64."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
        return cls(torch.cumprod(1.0 - betas, 0))

    def timestep(self, t: Float[Tensor, " B"]) -> Tensor:
        """The integer step that is the time input of the network."""
        steps = len(self.alphas_cumprod)
        return (t * steps).round().long().clamp(0, steps - 1)

    def _lookup(self, t: Tensor) -> Tensor:
        if t.device not in self._copies:
            self._copies[t.device] = self.alphas_cumprod.to(t.device)
        return self._copies[t.device][self.timestep(t)]

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self._lookup(t).sqrt().to(t.dtype)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (1.0 - self._lookup(t)).sqrt().to(t.dtype)


class ExplodingSchedule:
    """The variance-exploding form of a table, alpha = 1 and sigma = sigma_VP / alpha_VP (Score Jacobian Chaining,
    Wang et al. 2022, arXiv:2212.00774)."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def timestep(self, t: Float[Tensor, " B"]) -> Tensor:
        return self.schedule.timestep(t)

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.schedule.sigma(t) / self.schedule.alpha(t)


class FlowSchedule:
    """Rectified flow (Liu et al. 2023) with the shift of Esser et al. 2024: z = (1 - s) x + s eps with
    s = shift t / (1 + (shift - 1) t).

    shift: above 1 it moves t towards high noise, as flow models for large pictures are trained; the t of a recipe
    is the t before the shift. scale: the time input of the network is scale * s.
    """

    def __init__(self, shift: float = 1.0, scale: float = 1000.0) -> None:
        self.shift, self.scale = shift, scale

    def timestep(self, t: Float[Tensor, " B"]) -> Tensor:
        return self.scale * self.sigma(t)

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return 1.0 - self.sigma(t)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.shift * t / (1.0 + (self.shift - 1.0) * t)


class KarrasSchedule:
    """A model with continuous noise levels (EDM, Karras et al. 2022) in its variance-preserving form.

    t is spread evenly over the levels of their sampler, s = (low^(1/7) + t (high^(1/7) - low^(1/7)))^7 (equation
    5). The network receives z = (x + s eps) / sqrt(1 + s^2), and ln(s) / 4 as its time input.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def level(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The standard deviation s of the noise on a clean sample."""
        first, last = self.low ** (1.0 / _KARRAS), self.high ** (1.0 / _KARRAS)
        return (first + t * (last - first)) ** _KARRAS

    def timestep(self, t: Float[Tensor, " B"]) -> Tensor:
        return 0.25 * self.level(t).log()

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (1.0 + self.level(t).square()).rsqrt()

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.level(t) * self.alpha(t)
