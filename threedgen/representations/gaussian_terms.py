"""Terms of the loss on the Gaussians themselves, and their weights.

Every term is a mean, so a weight means the same for every number of Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.schedule import Schedule
from threedgen.core.settings import settings
from threedgen.core.types import GaussianCloud

LONGEST_RATIO = 4.0  # of the longest axis to the shortest: up to here anisotropy costs nothing


def opacity_binarising(cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i 4 o_i (1 - o_i): in [0, 1], zero if every Gaussian is either opaque or fully transparent."""
    return (4.0 * cloud.opacities * (1.0 - cloud.opacities)).mean()


def scale(cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i,k s_ik in world units: makes Gaussians smaller (3DGS-MCMC, Kheradmand et al. 2024)."""
    return cloud.scales.mean()


def anisotropy(cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i max(0, ln(max_k s_ik / min_k s_ik) - ln 4): keeps axes from being longer than 4 times one another.

    The term of PhysGaussian (Xie et al. 2024, equation 22) in logarithms, so that its gradient is bounded.
    """
    logs = cloud.scales.log()
    return torch.relu(logs.amax(-1) - logs.amin(-1) - math.log(LONGEST_RATIO)).mean()


def flatness(cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i min_k s_ik in world units: makes Gaussians flat, so that they show a surface and its silhouettes (the
    scale term of PGSR, Chen et al. 2024, equation 9)."""
    return cloud.scales.amin(-1).mean()


TERMS: dict[str, Callable[[GaussianCloud], Float[Tensor, ""]]] = {
    "opacity": opacity_binarising,
    "scale": scale,
    "anisotropy": anisotropy,
    "flatness": flatness,
}


@settings
class Config:
    """The weight of each term of the loss on the Gaussians, a number or a schedule; 0 leaves the term out.

    Attributes:
        opacity: Weight of the mean of 4 o (1 - o) over the opacities o, which makes them 0 or 1.
        scale (per world unit): Weight of the mean standard deviation, which makes Gaussians smaller.
        anisotropy: Weight of the mean logarithm of how far the ratio of the longest axis to the shortest exceeds 4.
        flatness (per world unit): Weight of the mean of the shortest axis, which makes Gaussians flat.
    """

    opacity: Schedule = 0.0
    scale: Schedule = 0.0
    anisotropy: Schedule = 0.0
    flatness: Schedule = 0.0
