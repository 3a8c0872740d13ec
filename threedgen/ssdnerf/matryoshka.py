"""Matryoshka diffusion, which denoises all resolutions of a code together (MDM, Gu et al. 2024, arXiv:2310.15111).

The levels of a pyramid x^(r+1) = P x^r share t but not the noise, and each has its own noise levels. The coarsest
level has those of the schedule, and a level of `scale` times its resolution has the signal-to-noise ratio
SNR(t) / scale^shift. Lists of levels start with the finest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

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

PyramidNetwork = Callable[..., Sequence[Tensor]]
"""(noisy levels, time steps of the schedule [B], *conditions) -> v of every level."""

_TIMES = 64  # number of sines and cosines of a time step
_PERIOD = 1e4  # time steps; the longest of their periods over 2 pi


@dataclass(frozen=True)
class MatryoshkaDiffusion:
    """The process, its loss and its sampler.

    schedule: a variance-preserving process, which is that of the coarsest level. resolutions: number of levels of
    the pyramid; 1 is ordinary diffusion. factor: between the resolutions of neighbouring levels. shift: p of
    SNR(t) / scale^p. power: omega of the weight (alpha / sigma)^(2 omega) of the squared error of x, with alpha and
    sigma of the level; 1 gives the loss of the paper, which is on eps. clip: sampled codes are clipped to +-clip.
    Raises UserError.
    """

    schedule: Process
    resolutions: int = 2
    factor: int = 2
    shift: float = 1.0
    power: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.resolutions < 1 or self.factor < 2:
            raise UserError(
                f"a pyramid needs at least 1 level and a factor of 2, got {self.resolutions} and {self.factor}"
            )

    def pyramid(self, x: Float[Tensor, "B K R R"]) -> list[Float[Tensor, "B K r r"]]:
        """x and its pooled levels. Raises UserError for a resolution that cannot be pooled."""
        check_poolable(x.shape[-2], x.shape[-1], self.factor ** (self.resolutions - 1))
        levels = [x]
        for _ in range(self.resolutions - 1):
            levels.append(pool(levels[-1], self.factor))
        return levels

    def noises(
        self, count: int, shape: Sequence[int], rng: torch.Generator
    ) -> list[Float[Tensor, "count K r r"]]:
        """Noise from N(0, I) for every level of codes of `shape` (K, R, R), drawn from the finest to the
        coarsest."""
        levels = self.pyramid(torch.empty(count, *shape))
        return [torch.randn(level.shape, generator=rng) for level in levels]

    def levels(self, index: int, t: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """alpha and sigma of level `index`; 0 is the finest."""
        scale = self.factor ** (self.resolutions - 1 - index)
        return shifted_levels(self.schedule, t, scale ** (self.shift / 2))

    def loss_at(
        self,
        network: PyramidNetwork,
        x: Float[Tensor, "B K R R"],
        t: Float[Tensor, " B"],
        noises: Sequence[Float[Tensor, "B K r r"]],
        conditions: Sequence[Tensor] = (),
    ) -> Float[Tensor, " B"]:
        """The sum over levels of 1/2 w(t) mean (x_hat - x)^2 of each code, differentiable in network and x.

        noises: from N(0, I), one for each level and independent of each other. Pooled noise would tell one level
        the noise of another. conditions: further arguments of the network, [B, ...] each.
        """
        clean = self.pyramid(x)
        levels = [self.levels(index, t) for index in range(self.resolutions)]
        noisy = [
            per_sample(alpha, level) * level + per_sample(sigma, level) * eps
            for level, eps, (alpha, sigma) in zip(clean, noises, levels, strict=True)
        ]
        predicted = network(noisy, self.schedule.timestep(t), *conditions)
        losses = [
            velocity_loss(v, level, eps, alpha, sigma, self.power)
            for v, level, eps, (alpha, sigma) in zip(predicted, clean, noises, levels, strict=True)
        ]
        return torch.stack(losses).sum(0)

    def sample(
        self,
        network: PyramidNetwork,
        shape: tuple[int, int, int],
        steps: int,
        draws: Sequence[torch.Generator],
        conditions: Sequence[Tensor] = (),
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "B K R R"]:
        """Codes of the finest level; see `sample_pyramid`."""
        return self.sample_pyramid(network, shape, steps, draws, conditions, device)[0]

    @torch.no_grad()
    def sample_pyramid(
        self,
        network: PyramidNetwork,
        shape: tuple[int, int, int],
        steps: int,
        draws: Sequence[torch.Generator],
        conditions: Sequence[Tensor] = (),
        device: torch.device | str = "cpu",
    ) -> list[Float[Tensor, "B K r r"]]:
        """Every level, by DDIM with eta = 0 on all levels, each with its own alpha and sigma.

        shape: (K, R, R) of the finest level. draws: a CPU generator for each code, which draws its first noise.
        Raises UserError for a resolution that cannot be pooled.
        """
        pyramids = [self.noises(1, shape, rng) for rng in draws]
        noisy = [torch.cat(level).to(device) for level in zip(*pyramids, strict=True)]
        clean = noisy
        times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64, device=device)
        for now, after in itertools.pairwise(times.split(1)):
            predicted = network(noisy, self.schedule.timestep(now).expand(len(draws)), *conditions)
            pairs = [
                denoised(z, v, *self.levels(index, now), self.clip)
                for index, (z, v) in enumerate(zip(noisy, predicted, strict=True))
            ]
            clean, noisy = [x for x, _ in pairs], []
            for index, (x, eps) in enumerate(pairs):
                alpha, sigma = self.levels(index, after)
                noisy.append(alpha.to(x) * x + sigma.to(x) * eps)
        return clean


class NestedUNet(nn.Module):
    """Two resolutions in one network: a denoiser of the coarse codes at the bottleneck of a light outer UNet.

    The inner network is (z [B, K, r, r], time steps [B], *conditions) -> v. It may be trained first and alone: what
    the outer blocks add to its input is 0 at the start, as is the outer prediction. The outer blocks get back its
    prediction.
    """

    def __init__(self, inner: nn.Module, channels: int, width: int = 64, blocks: int = 1) -> None:
        """channels: K. width: number of channels of the outer blocks, a multiple of 8. blocks: number of residual
        blocks on each side of a level."""
        super().__init__()
        if width % 8 or width < 8:
            raise UserError(f"the outer width must be a multiple of 8, got {width}")
        self.inner = inner
        embedding = 4 * width
        self.time = nn.Sequential(nn.Linear(_TIMES, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.before = _chain(width, width, embedding, blocks)
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.above = _chain(2 * width, 2 * width, embedding, blocks)
        self.inward = _zeroed(nn.Conv2d(2 * width, channels, 1))
        self.outward = nn.Conv2d(channels, 2 * width, 3, padding=1)
        self.below = _chain(2 * width, 2 * width, embedding, blocks)
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.after = _chain(2 * width, width, embedding, blocks)
        self.norm = nn.GroupNorm(8, width)
        self.leave = _zeroed(nn.Conv2d(width, channels, 3, padding=1))

    def forward(
        self, noisy: Sequence[Float[Tensor, "B K r r"]], timesteps: Int[Tensor, " B"], *conditions: Tensor
    ) -> tuple[Float[Tensor, "B K R R"], Float[Tensor, "B K r r"]]:
        """v of the fine and of the coarse level. noisy: both levels, the fine one first."""
        fine, coarse = noisy
        time = self.time(_waves(timesteps).to(fine))
        kept = _through(self.before, self.enter(fine), time)
        low = _through(self.above, self.shrink(kept), time)
        v = self.inner(coarse + self.inward(low), timesteps, *conditions)
        low = _through(self.below, low + self.outward(v), time)
        high = torch.cat([self.grow(upsample(low, 2)), kept], 1)
        high = _through(self.after, high, time)
        return self.leave(F.silu(self.norm(high))), v


class _Residual(nn.Module):
    """GroupNorm, SiLU and convolution, twice; the time step scales and shifts the features between them."""

    def __init__(self, channels: int, width: int, embedding: int) -> None:
        super().__init__()
        self.first_norm, self.first = nn.GroupNorm(8, channels), nn.Conv2d(channels, width, 3, padding=1)
        self.second_norm, self.second = nn.GroupNorm(8, width), _zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.time = nn.Linear(embedding, 2 * width)
        self.skip = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)

    def forward(self, x: Float[Tensor, "B C h w"], time: Float[Tensor, "B D"]) -> Float[Tensor, "B W h w"]:
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        inside = self.first(F.silu(self.first_norm(x)))
        inside = self.second_norm(inside) * (1.0 + scale) + shift
        return self.skip(x) + self.second(F.silu(inside))


def _chain(channels: int, width: int, embedding: int, blocks: int) -> nn.ModuleList:
    return nn.ModuleList(_Residual(channels if i == 0 else width, width, embedding) for i in range(blocks))


def _through(chain: nn.ModuleList, x: Tensor, time: Tensor) -> Tensor:
    for block in chain:
        x = block(x, time)
    return x


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights 0, so that a residual block starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _waves(timesteps: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
    """Sines and cosines of time steps, with geometrically spaced periods."""
    half = _TIMES // 2
    rates = _PERIOD ** (-torch.arange(half, device=timesteps.device) / half)
    angles = timesteps[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
