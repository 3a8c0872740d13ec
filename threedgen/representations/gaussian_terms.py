"""Terms of the loss on the Gaussians themselves, and their weights.

Every term is a mean, so a weight means the same for every count of Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.schedule import Schedule
from threedgen.core.types import GaussianCloud

LONGEST_RATIO = 4.0  # anisotropy is free up to here


def opacity_binarising(cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i 4 o_i (1 - o_i): in [0, 1], zero when every Gaussian is opaque or gone."""
    return (4.0 * cloud.opacities * (1.0 - cloud.opacities)).mean()


def scale(cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i,k s_ik in world units (3DGS-MCMC, Kheradmand et al. 2024): smaller Gaussians."""
    return cloud.scales.mean()


def anisotropy(cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i max(0, ln(max_k s_ik / min_k s_ik) - ln 4): no needles and no flakes beyond 4 to 1.

    PhysGaussian's term (Xie et al. 2024, equation 22) in logarithms, so that its gradient is bounded.
    """
    logs = cloud.scales.log()
    return torch.relu(logs.amax(-1) - logs.amin(-1) - math.log(LONGEST_RATIO)).mean()


TERMS: dict[str, Callable[[GaussianCloud], Float[Tensor, ""]]] = {
    "opacity": opacity_binarising,
    "scale": scale,
    "anisotropy": anisotropy,
}


@dataclass(frozen=True)
class Config:
    """The weight of each term in the loss, a number or a schedule; 0 leaves the term out.

    opacity: opacity_binarising. scale, anisotropy: the functions so named.
    """

    opacity: Schedule = 0.0
    scale: Schedule = 0.0
    anisotropy: Schedule = 0.0
