"""Stage-wise diffusion of codes from coarse to fine (f-DM, Gu et al. 2023, arXiv:2210.04955).

Stage k lasts from tau_k to tau_(k+1) and holds codes pooled k times: x^(k+1) = P x^k. Within a stage the signal
loses what the next stage cannot represent, a share rho = (t - tau_k) / (tau_(k+1) - tau_k) of delta = x^k - U P
x^k:

    x_t = x^k - rho delta,   z_t = alpha x_t + sigma eps.

At a boundary, what pooling drops holds no signal any more, and pooling divides the noise by the factor m. So
sigma / alpha of stage k is that of the schedule over m^k, and the step down and the exact step up are

    z_low = P z_high / c,   z_high = c U z_low + sigma (I - U P) n,   c = sqrt(alpha^2 + sigma^2 / m^2)

(docs/methods.md, "Stage-wise diffusion (f-DM)"). The schedule is that of the full resolution, and t has the same
meaning in all stages.
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
"""(z at the resolution of its stage, time steps of the schedule [B], *conditions) -> (v, delta), both like z."""


@dataclass(frozen=True)
class StageWiseDiffusion:
    """The process, its loss and its sampler.

    schedule: a variance-preserving process. boundaries: tau_1 < tau_2 ... in (0, 1), one fewer than the stages;
    with none it is ordinary diffusion. factor: m. power: omega of the weight (alpha / sigma)^(2 omega) of the
    squared error of the signal; 1 gives the loss of the paper, which is on eps. residual: lambda, the weight of the
    squared error of delta. clip: sampled signals are clipped to +-clip. Raises UserError.
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
        """The number of stages."""
        return len(self.boundaries) + 1

    def stage_of(self, t: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The stage k with tau_k <= t < tau_(k+1). The last stage holds t = 1."""
        return (t[:, None] >= torch.tensor(self.boundaries, dtype=t.dtype, device=t.device)).sum(1)

    def levels(self, stage: int, t: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """alpha and sigma in a stage."""
        return shifted_levels(self.schedule, t, self.factor**-stage)

    def lost(self, stage: int, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """rho: 0 at the start of the stage and 1 at its end. The last stage loses nothing."""
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
        conditions: Sequence[Tensor] = (),
    ) -> Float[Tensor, " B"]:
        """1/2 w(t) mean (x_hat_t - x_t)^2 + 1/2 lambda mean (delta_hat - delta)^2 of each code.

        noise: N(0, I); a coarse stage takes it pooled and scaled back to unit variance. conditions: tensors
        [B, ...] for the network, which is called once for every stage that occurs, with the rows of that stage.
        Differentiable in network and x. Raises UserError for a resolution that cannot be pooled.
        """
        stage = self.stage_of(t)
        losses, order = [], []
        for k in stage.unique().tolist():
            rows = (stage == k).nonzero().squeeze(1)
            order.append(rows)
            of_rows = [tensor[rows] for tensor in conditions]
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
        self,
        network: StageNetwork,
        stage: int,
        x: Tensor,
        t: Tensor,
        noise: Tensor,
        conditions: Sequence[Tensor],
    ) -> Float[Tensor, " B"]:
        z, signal, delta, eps = self.noised(stage, x, t, noise)
        v, residual = network(z, self.schedule.timestep(t), *conditions)
        loss = velocity_loss(v, signal, eps, *self.levels(stage, t), self.power)
        if stage == self.stages - 1:
            return loss
        return loss + 0.5 * self.residual * (residual.to(delta) - delta).square().flatten(1).mean(1)

    def times(self, steps: int) -> list[Float[Tensor, " n"]]:
        """The times of the steps of each stage, from its end to its start. Raises UserError if there are fewer
        steps than stages."""
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
        conditions: Sequence[Tensor] = (),
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "B K R R"]:
        """Codes by DDIM with eta = 0, from the coarsest stage up. shape: (K, R, R), at full resolution.

        draws: a CPU generator for each code. It draws the first noise and, at every boundary, the noise of what
        pooling had dropped. Raises UserError.
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
                v, delta = network(z, self.schedule.timestep(now).expand(len(z)), *conditions)
                x, eps = denoised(z, v, *self.levels(stage, now), self.clip)
                if stage < self.stages - 1:
                    regained = self.lost(stage, now) - self.lost(stage, after)
                    x = x + regained.to(z) * delta.to(z)
                alpha, sigma = self.levels(stage, after)
                z = alpha.to(z) * x + sigma.to(z) * eps
        return x


def boundary_scale(alpha: Tensor, sigma: Tensor, factor: int) -> Tensor:
    """c: the standard deviation of a pooled z of unit variance, by which it is divided."""
    return (alpha.square() + sigma.square() / factor**2).sqrt()


def up(
    z: Float[Tensor, "B K r r"],
    alpha: Float[Tensor, " 1"],
    sigma: Float[Tensor, " 1"],
    factor: int,
    noise: Float[Tensor, "B K R R"],
) -> Float[Tensor, "B K R R"]:
    """c U z + sigma (I - U P) n, the first z of the next finer stage. Pooled and divided by c it is z again.

    alpha, sigma: of the finer stage at the boundary. noise: n, from N(0, I).
    """
    fresh = noise.to(z) - upsample(pool(noise.to(z), factor), factor)
    return boundary_scale(alpha, sigma, factor).to(z) * upsample(z, factor) + sigma.to(z) * fresh
