"""Coarse-to-fine codes in one process: stage-wise diffusion (f-DM, Gu et al. 2023; METHODS 6.1).

Stage k lasts from tau_k to tau_(k+1) and holds codes pooled k times: x^(k+1) = P x^k. Within a stage the signal
loses what the next one cannot hold, a share rho = (t - tau_k) / (tau_(k+1) - tau_k) of delta = x^k - U P x^k:

    x_t = x^k - rho delta,   z_t = alpha x_t + sigma eps.

At a boundary nothing of the signal is left in what pooling drops, and pooling divides the noise by the factor m.
So stage k has sigma / alpha of the schedule over m^k, and the way down and the exact way up are

    z_low = P z_high / c,   z_high = c U z_low + sigma (I - U P) n,   c = sqrt(alpha^2 + sigma^2 / m^2).

The schedule is that of the full resolution; t is the same clock in all stages.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.priors.processes import Process, per_sample
from threedgen.ssdnerf.resolutions import (
    check_poolable,
    denoised,
    pool,
    shifted_levels,
    upsample,
    velocity_loss,
)

StageNetwork = Callable[..., tuple[Tensor, Tensor]]
"""(z at its stage's resolution, the schedule's time steps [B], *told) -> (v, delta), both like z."""


@dataclass(frozen=True)
class StageWiseDiffusion:
    """The process, its loss and its sampler.

    schedule: a variance-preserving process. boundaries: tau_1 < tau_2 ... in (0, 1), one fewer than stages; () is
    ordinary diffusion. factor: m. power: omega of the weight (alpha / sigma)^(2 omega) of the squared error of the
    signal; 1 is the paper's loss on eps. residual: lambda, weight of the squared error of delta. clip: sampled
    signals are kept in +-clip. Raises UserError.
    """

    schedule: Process
    boundaries: tuple[float, ...] = (0.5,)
    factor: int = 2
    power: float = 1.0
    residual: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        edges = (0.0, *self.boundaries, 1.0)
        if not all(low < high for low, high in itertools.pairwise(edges)):
            raise UserError(f"stage boundaries must rise between 0 and 1, got {list(self.boundaries)}")
        if self.factor < 1:
            raise UserError(f"the pooling factor must be at least 1, got {self.factor}")

    @property
    def stages(self) -> int:
        """How many."""
        return len(self.boundaries) + 1

    def stage_of(self, t: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """k with tau_k <= t < tau_(k+1); the last stage holds t = 1."""
        return (t[:, None] >= torch.tensor(self.boundaries, dtype=t.dtype, device=t.device)).sum(1)

    def levels(self, stage: int, t: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """alpha and sigma in a stage."""
        return shifted_levels(self.schedule, t, self.factor**-stage)

    def lost(self, stage: int, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """rho: 0 at the stage's beginning, 1 at its end. The last stage loses nothing."""
        if stage == self.stages - 1:
            return torch.zeros_like(t)
        low, high = (0.0, *self.boundaries)[stage : stage + 2]
        return (t - low) / (high - low)

    def loss_at(
        self,
        network: StageNetwork,
        x: Float[Tensor, "B K R R"],
        t: Float[Tensor, " B"],
        noise: Float[Tensor, "B K R R"],
        told: Sequence[Tensor] = (),
    ) -> Float[Tensor, " B"]:
        """1/2 w(t) mean (x_hat_t - x_t)^2 + 1/2 lambda mean (delta_hat - delta)^2 of each code.

        noise: N(0, I); a coarse stage takes it pooled and scaled back to unit variance. told: [B, ...] each; the
        network is called once for every stage that occurs, with its rows of them. Differentiable in network and x.
        Raises UserError for a resolution that cannot be pooled.
        """
        stage = self.stage_of(t)
        losses, order = [], []
        for k in stage.unique().tolist():
            rows = (stage == k).nonzero().squeeze(1)
            order.append(rows)
            of_rows = [tensor[rows] for tensor in told]
            losses.append(self._stage_loss(network, k, x[rows], t[rows], noise[rows], of_rows))
        return torch.cat(losses)[torch.cat(order).argsort()]

    def noised(
        self, stage: int, x: Float[Tensor, "B K R R"], t: Float[Tensor, " B"], noise: Float[Tensor, "B K R R"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(z_t, x_t, delta, eps) of codes in one stage, at its resolution. x, noise: at full resolution."""
        scale = self.factor**stage
        x, eps = pool(x, scale), scale * pool(noise, scale)
        last = stage == self.stages - 1
        delta = torch.zeros_like(x) if last else x - upsample(pool(x, self.factor), self.factor)
        signal = x - per_sample(self.lost(stage, t), x) * delta
        alpha, sigma = (per_sample(level, x) for level in self.levels(stage, t))
        return alpha * signal + sigma * eps, signal, delta, eps

    def _stage_loss(
        self, network: StageNetwork, stage: int, x: Tensor, t: Tensor, noise: Tensor, told: Sequence[Tensor]
    ) -> Float[Tensor, " B"]:
        z, signal, delta, eps = self.noised(stage, x, t, noise)
        v, residual = network(z, self.schedule.timestep(t), *told)
        loss = velocity_loss(v, signal, eps, *self.levels(stage, t), self.power)
        if stage == self.stages - 1:
            return loss
        return loss + 0.5 * self.residual * (residual.to(delta) - delta).square().flatten(1).mean(1)

    def times(self, steps: int) -> list[Float[Tensor, " n"]]:
        """Of each stage, the t of its steps, from its end to its beginning. Raises UserError for fewer steps than
        stages."""
        if steps < self.stages:
            raise UserError(f"{self.stages} stages need at least {self.stages} sampling steps, got {steps}")
        ends, taus = [0], (0.0, *self.boundaries, 1.0)
        for stage, tau in enumerate(taus[1:], 1):
            latest = steps - (self.stages - stage)
            ends.append(min(max(round(tau * steps), ends[-1] + 1), latest))
        return [
            torch.linspace(taus[k + 1], taus[k], ends[k + 1] - ends[k] + 1, dtype=torch.float64)
            for k in range(self.stages)
        ]

    @torch.no_grad()
    def sample(
        self,
        network: StageNetwork,
        shape: tuple[int, int, int],
        steps: int,
        draws: Sequence[torch.Generator],
        told: Sequence[Tensor] = (),
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "B K R R"]:
        """Codes by DDIM with eta = 0, from the coarsest stage up. shape: (K, R, R), of the full resolution.

        draws: a generator a code, of the first noise and at every boundary of the noise of what pooling had
        dropped; they draw on the CPU. Raises UserError.
        """
        channels, height, width = shape
        check_poolable(height, width, self.factor ** (self.stages - 1))

        def noise(stage: int) -> Float[Tensor, "B K r r"]:
            size = (channels, height // self.factor**stage, width // self.factor**stage)
            return torch.stack([torch.randn(size, generator=rng) for rng in draws]).to(device)

        x = z = noise(self.stages - 1)
        times = self.times(steps)
        for stage in reversed(range(self.stages)):
            if stage < self.stages - 1:
                alpha, sigma = self.levels(stage, times[stage][:1])
                z = up(z, alpha, sigma, self.factor, noise(stage))
            for now, after in itertools.pairwise(times[stage].to(device).split(1)):
                v, delta = network(z, self.schedule.timestep(now).expand(len(z)), *told)
                x, eps = denoised(z, v, *self.levels(stage, now), self.clip)
                if stage < self.stages - 1:
                    regained = self.lost(stage, now) - self.lost(stage, after)
                    x = x + regained.to(z) * delta.to(z)
                alpha, sigma = self.levels(stage, after)
                z = alpha.to(z) * x + sigma.to(z) * eps
        return x


def boundary_scale(alpha: Tensor, sigma: Tensor, factor: int) -> Tensor:
    """c: the standard deviation that pooled unit-variance z is divided by."""
    return (alpha.square() + sigma.square() / factor**2).sqrt()


def up(
    z: Float[Tensor, "B K r r"],
    alpha: Float[Tensor, " 1"],
    sigma: Float[Tensor, " 1"],
    factor: int,
    noise: Float[Tensor, "B K R R"],
) -> Float[Tensor, "B K R R"]:
    """c U z + sigma (I - U P) n, the first z of the next finer stage: pooled and divided by c it is z again.

    alpha, sigma: of the finer stage at the boundary. noise: n, N(0, I).
    """
    fresh = noise.to(z) - upsample(pool(noise.to(z), factor), factor)
    return boundary_scale(alpha, sigma, factor).to(z) * upsample(z, factor) + sigma.to(z) * fresh
