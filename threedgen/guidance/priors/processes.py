"""How clean samples become noise: z = alpha(t) x + sigma(t) eps over t in [0, 1], 0 = clean (METHODS 0.1)."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_LEVEL = 1e-6
"""Of alpha and sigma where one is divided by: a flow has no noise at t = 0 and no signal at t = 1."""
_KARRAS = 7.0  # rho of equation 5


def per_sample(values: Float[Tensor, " B"], like: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """[B] -> [B, 1, 1, ...] so that it multiplies one number onto each sample of `like`."""
    return values.to(like).reshape(-1, *(1,) * (like.ndim - 1))


class Process(Protocol):
    """alpha and sigma over t, and the number that the network is told for a t."""

    def timestep(self, t: Float[Tensor, " B"]) -> Tensor:
        """What the network's time input is."""
        ...

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]: ...

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]: ...


def add_noise(
    process: Process, x: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
) -> Float[Tensor, "B ..."]:
    """z = alpha(t) x + sigma(t) eps."""
    return per_sample(process.alpha(t), x) * x + per_sample(process.sigma(t), x) * eps


def unit_levels(
    alpha: Float[Tensor, " B"], sigma: Float[Tensor, " B"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(alpha, sigma) of the variance-preserving sample with the same ratio of noise to signal.

    Weights w(t) are written for such samples; through this one rule a prior gets the same weight at the same
    noise in whichever form it comes.
    """
    length = (alpha.square() + sigma.square()).sqrt()
    return alpha / length, sigma / length


class NoiseSchedule:
    """The variance-preserving process: alpha and sigma read from a table of cumulative products.

    t maps to the table index clamp(round(t T), 0, T - 1), so t = 0.98 is step 980 of 1000 as in the
    reference implementations, and the network and the noise always see the same step.
    """

    def __init__(self, alphas_cumprod: Float[Tensor, " T"]) -> None:
        self.alphas_cumprod = alphas_cumprod.detach()

    @classmethod
    def scaled_linear(cls, steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> NoiseSchedule:
        """Stable Diffusion's table: beta linear in its square root (METHODS 0.1), in float64."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
        return cls(torch.cumprod(1.0 - betas, 0))

    def timestep(self, t: Float[Tensor, " B"]) -> Tensor:
        """The integer step the network is told."""
        steps = len(self.alphas_cumprod)
        return (t * steps).round().long().clamp(0, steps - 1)

    def _lookup(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod.to(t.device)[self.timestep(t)]

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self._lookup(t).sqrt().to(t.dtype)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (1.0 - self._lookup(t)).sqrt().to(t.dtype)


class ExplodingSchedule:
    """The variance-exploding form of a table: alpha = 1, sigma = sigma_VP / alpha_VP (SJC; METHODS 0.1)."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def timestep(self, t: Float[Tensor, " B"]) -> Tensor:
        return self.schedule.timestep(t)

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.schedule.sigma(t) / self.schedule.alpha(t)


class FlowSchedule:
    """Rectified flow: z = (1 - s) x + s eps with s = shift t / (1 + (shift - 1) t) (METHODS 1.14).

    shift: moves mass to high noise, as flow models for large pictures are trained; a recipe's t is before it.
    scale: the network is told scale * s.
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
    """A model of levels of noise without end (EDM; Karras et al. 2022), seen variance preserving (METHODS 0.2).

    t goes evenly through the levels of their sampler, s = (low^(1/7) + t (high^(1/7) - low^(1/7)))^7 (equation 5),
    and z = (x + s eps) / sqrt(1 + s^2) is what the network is given. It is told ln(s) / 4.
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
