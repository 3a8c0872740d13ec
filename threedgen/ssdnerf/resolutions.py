"""Codes at several resolutions: pooling, upsampling, and noise levels that are shifted with the resolution.

Pooling is by channel, so the planes of a code never mix.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.guidance.priors.processes import SMALLEST_LEVEL, Process, per_sample, unit_levels


def check_poolable(height: int, width: int, factor: int) -> None:
    """Raises UserError unless blocks of factor x factor texels fill a code."""
    if height % factor or width % factor:
        raise UserError(
            f"codes of {height} x {width} texels cannot be pooled by {factor}: choose a resolution that is a "
            f"multiple of {factor}, or fewer resolutions"
        )


def pool(x: Float[Tensor, "B K R R"], factor: int) -> Float[Tensor, "B K r r"]:
    """P: the mean of each block of factor x factor texels. Raises UserError if the blocks do not fill the code."""
    check_poolable(x.shape[-2], x.shape[-1], factor)
    return F.avg_pool2d(x, factor)


def upsample(x: Float[Tensor, "B K r r"], factor: int) -> Float[Tensor, "B K R R"]:
    """U: repeats every texel factor x factor times, so that P U = I. A bilinear U would leave seams
    (docs/methods.md, "Stage-wise diffusion (f-DM)")."""
    return x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def shifted_levels(
    process: Process, t: Float[Tensor, " B"], gain: float
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """The variance-preserving alpha and sigma at which sigma / alpha is `gain` times that of the process."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return (alpha, sigma) if gain == 1.0 else unit_levels(alpha, gain * sigma)


def velocity_loss(
    predicted: Float[Tensor, "B K R R"],
    x: Float[Tensor, "B K R R"],
    eps: Float[Tensor, "B K R R"],
    alpha: Float[Tensor, " B"],
    sigma: Float[Tensor, " B"],
    power: float,
) -> Float[Tensor, " B"]:
    """1/2 (alpha / sigma)^(2 power) mean (x_hat - x)^2 of a predicted v = alpha eps - sigma x, for each sample.

    It is computed on v, which is finite at all noise levels. With power 1 it is 1/2 mean (eps_hat - eps)^2.
    """
    target = per_sample(alpha, x) * eps - per_sample(sigma, x) * x
    weight = 0.5 * alpha ** (2 * power) * sigma ** (2 - 2 * power)
    return weight.to(x) * (predicted.to(x) - target).square().flatten(1).mean(1)


def denoised(
    z: Float[Tensor, "B K R R"], v: Float[Tensor, "B K R R"], alpha: Tensor, sigma: Tensor, clip: float | None
) -> tuple[Float[Tensor, "B K R R"], Float[Tensor, "B K R R"]]:
    """(x_hat, eps_hat) of a predicted v at one noise level. x_hat is clipped to +-clip, and eps_hat is what of z
    the clipped x_hat leaves."""
    alpha, sigma = alpha.to(z), sigma.to(z)
    x = alpha * z - sigma * v.to(z)
    if clip is not None:
        x = x.clamp(-clip, clip)
    return x, (z - alpha * x) / sigma.clamp_min(SMALLEST_LEVEL)
