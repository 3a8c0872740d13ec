"""The two losses by which codes, decoder and denoiser are trained together (SSDNeRF, Chen, Gu et al. 2023,
equations 6 to 9)."""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from threedgen.guidance.priors.processes import Process, per_sample
from threedgen.ssdnerf.resolutions import velocity_loss

Network = Callable[[Tensor, Tensor], Tensor]  # (noisy codes, time steps) -> v


def diffusion_loss(
    network: Network,
    codes: Float[Tensor, "B K R R"],
    t: Float[Tensor, " B"],
    eps: Float[Tensor, "B K R R"],
    schedule: Process,
    power: float,
) -> Float[Tensor, " B"]:
    """1/2 w(t) mean (x_hat - x)^2 of each object, with w(t) = (alpha / sigma)^(2 power).

    t: time in [0, 1]. eps: noise from N(0, I). Differentiable in the network and in the codes: through the noisy
    code, through the network and through the target.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    noisy = per_sample(alpha, codes) * codes + per_sample(sigma, codes) * eps
    return velocity_loss(network(noisy, schedule.timestep(t)), codes, eps, alpha, sigma, power)


def rendering_loss(
    rendered: Float[Tensor, "R 3"], true: Float[Tensor, "R 3"], weight: float, views: int
) -> Float[Tensor, ""]:
    """lambda_rend L_rend of one object, estimated from some of its rays: weight (1 - exp(-views / 10)) times the
    mean over rays of the squared error, summed over rgb.

    rendered, true: colours in [0, 1]. views: number of pictures of the object.
    """
    share = 1.0 - math.exp(-0.1 * views)
    return weight * share * (rendered - true).square().sum(1).mean()
