"""All resolutions of a code denoised together: Matryoshka diffusion (MDM, Gu et al. 2024; METHODS 6.2).

The levels of a pyramid x^(r+1) = P x^r share t but not the noise, and each has noise levels of its own: the
coarsest those of the schedule, a level of `scale` times its resolution SNR(t) / scale^power. Lists of levels begin
with the finest.
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
"""(noisy levels, the schedule's time steps [B], *told) -> v of every level."""

_TIMES = 64  # sines and cosines that a time step becomes
_PERIOD = 1e4  # the longest of their periods over 2 pi, in time steps


@dataclass(frozen=True)
class MatryoshkaDiffusion:
    """The process, its loss and its sampler.

    schedule: a variance-preserving process, that of the coarsest level. resolutions: levels of the pyramid; 1 is
    ordinary diffusion. factor: between levels. shift: p of SNR(t) / scale^p. power: omega of the weight
    (alpha / sigma)^(2 omega) of the squared error of x, with the level's own alpha and sigma; 1 is the paper's loss
    on eps. clip: sampled codes are kept in +-clip. Raises UserError.
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
        """N(0, I) for every level of codes of `shape` (K, R, R), drawn from the finest to the coarsest."""
        levels = self.pyramid(torch.empty(count, *shape))
        return [torch.randn(level.shape, generator=rng) for level in levels]

    def levels(self, index: int, t: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """alpha and sigma of level `index`, 0 = finest."""
        scale = self.factor ** (self.resolutions - 1 - index)
        return shifted_levels(self.schedule, t, scale ** (self.shift / 2))

    def loss_at(
        self,
        network: PyramidNetwork,
        x: Float[Tensor, "B K R R"],
        t: Float[Tensor, " B"],
        noises: Sequence[Float[Tensor, "B K r r"]],
        told: Sequence[Tensor] = (),
    ) -> Float[Tensor, " B"]:
        """The sum over levels of 1/2 w(t) mean (x_hat - x)^2, of each code; differentiable in network and x.

        noises: N(0, I), one a level and independent of each other: pooled noise would tell one level the other's.
        """
        clean = self.pyramid(x)
        levels = [self.levels(index, t) for index in range(self.resolutions)]
        noisy = [
            per_sample(alpha, level) * level + per_sample(sigma, level) * eps
            for level, eps, (alpha, sigma) in zip(clean, noises, levels, strict=True)
        ]
        predicted = network(noisy, self.schedule.timestep(t), *told)
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
        told: Sequence[Tensor] = (),
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "B K R R"]:
        """Codes of the finest level. See `sample_pyramid`."""
        return self.sample_pyramid(network, shape, steps, draws, told, device)[0]

    @torch.no_grad()
    def sample_pyramid(
        self,
        network: PyramidNetwork,
        shape: tuple[int, int, int],
        steps: int,
        draws: Sequence[torch.Generator],
        told: Sequence[Tensor] = (),
        device: torch.device | str = "cpu",
    ) -> list[Float[Tensor, "B K r r"]]:
        """Every level, by one DDIM (eta = 0) that takes each with its own alpha and sigma. shape: (K, R, R) of the
        finest. draws: a generator a code, of its first noise; they draw on the CPU. Raises UserError for a
        resolution that cannot be pooled."""
        pyramids = [self.noises(1, shape, rng) for rng in draws]
        noisy = [torch.cat(level).to(device) for level in zip(*pyramids, strict=True)]
        clean = noisy
        times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64, device=device)
        for now, after in itertools.pairwise(times.split(1)):
            predicted = network(noisy, self.schedule.timestep(now).expand(len(draws)), *told)
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

    The inner network may be trained first and alone: it is (z [B, K, r, r], time steps [B], *told) -> v, and what
    the outer blocks add to its input is 0 at the start, as is the outer prediction. Its prediction is what the
    outer blocks get back from it.
    """

    def __init__(self, inner: nn.Module, channels: int, width: int = 64, blocks: int = 1) -> None:
        """channels: K. width: of the outer blocks, a multiple of 8; blocks: on each side of a level."""
        super().__init__()
        if width % 8 or width < 8:
            raise UserError(f"the outer width must be a multiple of 8, got {width}")
        self.inner = inner
        told = 4 * width
        self.time = nn.Sequential(nn.Linear(_TIMES, told), nn.SiLU(), nn.Linear(told, told))
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.before = _chain(width, width, told, blocks)
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.above = _chain(2 * width, 2 * width, told, blocks)
        self.inward = _zeroed(nn.Conv2d(2 * width, channels, 1))
        self.outward = nn.Conv2d(channels, 2 * width, 3, padding=1)
        self.below = _chain(2 * width, 2 * width, told, blocks)
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.after = _chain(2 * width, width, told, blocks)
        self.norm = nn.GroupNorm(8, width)
        self.leave = _zeroed(nn.Conv2d(width, channels, 3, padding=1))

    def forward(
        self, noisy: Sequence[Float[Tensor, "B K r r"]], timesteps: Int[Tensor, " B"], *told: Tensor
    ) -> tuple[Float[Tensor, "B K R R"], Float[Tensor, "B K r r"]]:
        """v of the fine and of the coarse level; noisy: both, the fine one first."""
        fine, coarse = noisy
        time = self.time(_waves(timesteps).to(fine))
        kept = _through(self.before, self.enter(fine), time)
        low = _through(self.above, self.shrink(kept), time)
        v = self.inner(coarse + self.inward(low), timesteps, *told)
        low = _through(self.below, low + self.outward(v), time)
        high = torch.cat([self.grow(upsample(low, 2)), kept], 1)
        high = _through(self.after, high, time)
        return self.leave(F.silu(self.norm(high))), v


class _Residual(nn.Module):
    """GroupNorm, SiLU and convolution, twice; the time scales and shifts between them."""

    def __init__(self, channels: int, width: int, told: int) -> None:
        super().__init__()
        self.first_norm, self.first = nn.GroupNorm(8, channels), nn.Conv2d(channels, width, 3, padding=1)
        self.second_norm, self.second = nn.GroupNorm(8, width), _zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.time = nn.Linear(told, 2 * width)
        self.skip = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)

    def forward(self, x: Float[Tensor, "B C h w"], time: Float[Tensor, "B D"]) -> Float[Tensor, "B W h w"]:
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        inside = self.first(F.silu(self.first_norm(x)))
        inside = self.second_norm(inside) * (1.0 + scale) + shift
        return self.skip(x) + self.second(F.silu(inside))


def _chain(channels: int, width: int, told: int, blocks: int) -> nn.ModuleList:
    return nn.ModuleList(_Residual(channels if i == 0 else width, width, told) for i in range(blocks))


def _through(chain: nn.ModuleList, x: Tensor, time: Tensor) -> Tensor:
    for block in chain:
        x = block(x, time)
    return x


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, answering 0 at first: a residual block then begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _waves(timesteps: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
    """Sines and cosines of time steps, of geometrically spaced periods."""
    half = _TIMES // 2
    rates = _PERIOD ** (-torch.arange(half, device=timesteps.device) / half)
    angles = timesteps[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
