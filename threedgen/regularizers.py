"""Prior-free terms of the loss: functions of a render and of the cloud that was rendered, and their weights.

Every term is a mean of something in [0, 1] or of a ratio, so a weight means the same for every count of
Gaussians and every image size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.errors import UserError
from threedgen.schedule import Schedule, value_at
from threedgen.types import GaussianCloud, Primitive, RenderOutput

LONGEST_RATIO = 4.0  # anisotropy is free up to here


def opacity_binarising(output: RenderOutput, cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i 4 o_i (1 - o_i): in [0, 1], zero when every Gaussian is opaque or gone."""
    return (4.0 * cloud.opacities * (1.0 - cloud.opacities)).mean()


def alpha_binarising(output: RenderOutput, cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_p 4 a_p (1 - a_p) of the rendered alpha: zero when every pixel is object or background."""
    return (4.0 * output.alpha * (1.0 - output.alpha)).mean()


def sparsity(output: RenderOutput, cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_p sqrt(a_p^2 + 0.01) - 0.1 of the rendered alpha (DreamFusion, appendix A.2): less haze.

    The constant makes an empty picture cost nothing; it changes no gradient.
    """
    return (torch.sqrt(output.alpha**2 + 0.01) - 0.1).mean()


def scale(output: RenderOutput, cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i,k s_ik in world units (3DGS-MCMC, Kheradmand et al. 2024): smaller Gaussians."""
    return cloud.scales.mean()


def anisotropy(output: RenderOutput, cloud: GaussianCloud) -> Float[Tensor, ""]:
    """mean_i max(0, ln(max_k s_ik / min_k s_ik) - ln 4): no needles and no flakes beyond 4 to 1.

    PhysGaussian's term (Xie et al. 2024, equation 22) in logarithms, so that its gradient is bounded.
    """
    logs = cloud.scales.log()
    return torch.relu(logs.amax(-1) - logs.amin(-1) - math.log(LONGEST_RATIO)).mean()


Term = Callable[[RenderOutput, GaussianCloud], Float[Tensor, ""]]
TERMS: dict[str, Term] = {
    "opacity": opacity_binarising,
    "alpha": alpha_binarising,
    "sparsity": sparsity,
    "scale": scale,
    "anisotropy": anisotropy,
}


@dataclass(frozen=True)
class Config:
    """The weight of each term in the loss, a number or a schedule; 0 leaves the term out.

    opacity: opacity_binarising. alpha: alpha_binarising. sparsity, scale, anisotropy: the functions so named.
    """

    opacity: Schedule = 0.0
    alpha: Schedule = 0.0
    sparsity: Schedule = 0.0
    scale: Schedule = 0.0
    anisotropy: Schedule = 0.0


class Regularizers:
    """The weighted sum of the terms at a step of the run."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self._weights = {each.name: getattr(config, each.name) for each in fields(Config)}

    def __call__(
        self, output: RenderOutput, primitive: Primitive, step: int, total: int
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The loss (a constant 0 when every weight is 0) and each active term's unweighted value.

        Raises UserError where a term is asked for and `primitive` is not a GaussianCloud.
        """
        loss = output.rgb.new_zeros(())
        values: dict[str, float] = {}
        for name, schedule in self._weights.items():
            weight = value_at(schedule, step, total)
            if weight == 0.0:
                continue
            if not isinstance(primitive, GaussianCloud):
                raise UserError(
                    f"regularizers.{name} works on Gaussians only; set it to 0 for this representation"
                )
            value = TERMS[name](output, primitive)
            loss = loss + weight * value
            values[f"regularizers/{name}"] = float(value.detach())
        return loss, values
