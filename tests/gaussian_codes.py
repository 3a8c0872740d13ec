"""Gaussian codes of one channel, whose perfect denoiser is linear and known."""

import math

import torch
from torch import Tensor

from threedgen.core.random import generator
from threedgen.ssdnerf.resolutions import pool, upsample


class Cosine:
    """A continuous variance-preserving process: no noise at t = 0, no signal at t = 1."""

    def timestep(self, t: Tensor) -> Tensor:
        return t

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))


def matrix(change, size: int) -> Tensor:
    """[n, size^2], the matrix of a linear map of [B, 1, size, size] pictures, flattened."""
    identity = torch.eye(size * size, dtype=torch.float64).reshape(-1, 1, size, size)
    return change(identity).flatten(1).T


def smooth_covariance(size: int, length: float = 1.5) -> Tensor:
    """[size^2, size^2], a covariance by which near texels are similar, as in a code trained with a diffusion
    model."""
    side = torch.arange(size, dtype=torch.float64)
    places = torch.cartesian_prod(side, side)
    distance = torch.cdist(places, places)
    texture = 0.05 * torch.eye(size * size, dtype=torch.float64)
    return 0.6 * torch.exp(-distance.square() / (2 * length**2)) + texture


def draw(covariance: Tensor, count: int, seed: int = 0) -> Tensor:
    """Random codes [count, 1, size, size] with a covariance, in float32."""
    size = math.isqrt(len(covariance))
    noise = torch.randn(
        count, len(covariance), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return (noise @ torch.linalg.cholesky(covariance).T).reshape(count, 1, size, size).float()


def covariance_of(samples: Tensor) -> Tensor:
    return torch.cov(samples.double().flatten(1).T)


def projection(x: Tensor, factor: int) -> Tensor:
    """U P x: pooled and upsampled again."""
    return upsample(pool(x, factor), factor)


def draws(count: int) -> list[torch.Generator]:
    """One generator per code."""
    return [generator(0, "draws", number) for number in range(count)]


def ordinary_ddim(network, schedule, count: int, shape: tuple[int, ...], steps: int) -> Tensor:
    """A second implementation of DDIM with eta = 0, from the noise of `draws`. network(z, time step) returns v."""
    x = z = torch.stack([torch.randn(shape, generator=rng) for rng in draws(count)])
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    for index in range(steps):
        now, after = times[index : index + 1], times[index + 1 : index + 2]
        alpha, sigma = schedule.alpha(now).float(), schedule.sigma(now).float()
        x = alpha * z - sigma * network(z, schedule.timestep(now).expand(len(z)))
        eps = (z - alpha * x) / sigma
        z = schedule.alpha(after).float() * x + schedule.sigma(after).float() * eps
    return x


def some_network(z: Tensor, timesteps: Tensor) -> Tensor:
    """A fixed nonlinear function that depends on neighbours and on time."""
    turned = 0.7 * torch.tanh(z) - 0.2 * torch.roll(z, 1, -1)
    return turned + 1e-3 * timesteps.to(z).reshape(-1, 1, 1, 1)
