"""Prior-free terms of the loss: functions of a render, their weights, and the sum of what a scene adds of its own.

Every term is a mean of something in [0, 1] or of a ratio, so a weight means the same for every image size.
Terms on the parameters of a representation are its own business: `Representation.penalty`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule, value_at
from threedgen.core.types import Primitive, RenderOutput


def alpha_binarising(output: RenderOutput) -> Float[Tensor, ""]:
    """mean_p 4 a_p (1 - a_p) of the rendered alpha: zero when every pixel is object or background."""
    return (4.0 * output.alpha * (1.0 - output.alpha)).mean()


def sparsity(output: RenderOutput) -> Float[Tensor, ""]:
    """mean_p sqrt(a_p^2 + 0.01) - 0.1 of the rendered alpha (DreamFusion, appendix A.2): less haze.

    The constant makes an empty picture cost nothing; it changes no gradient.
    """
    return (torch.sqrt(output.alpha**2 + 0.01) - 0.1).mean()


def distortion(output: RenderOutput) -> Float[Tensor, ""]:
    """mean_p of a NeRF's distortion: small when each ray's weight is in one place (Mip-NeRF 360, eq. 15).

    Raises UserError when the renderer was not asked for it.
    """
    if output.distortion is None:
        raise UserError("regularizers.distortion needs a NeRF rendered with renderer.distortion=true")
    return output.distortion.mean()


TERMS: dict[str, Callable[[RenderOutput], Float[Tensor, ""]]] = {
    "alpha": alpha_binarising,
    "distortion": distortion,
    "sparsity": sparsity,
}


@dataclass(frozen=True)
class Config:
    """The weight of each term in the loss, a number or a schedule; 0 leaves the term out.

    alpha: alpha_binarising. distortion, sparsity: the functions so named.
    """

    alpha: Schedule = 0.0
    distortion: Schedule = 0.0
    sparsity: Schedule = 0.0


def weigh(
    terms: Mapping[str, Callable[[Any], Float[Tensor, ""]]], weights: Any, subject: Any, step: int, total: int
) -> tuple[Float[Tensor, ""] | float, dict[str, float]]:
    """Sum of the terms of `subject`, weighted by the schedules in the dataclass `weights`, and each active term's
    unweighted value under "regularizers/<name>". The sum is 0.0 when every weight is 0."""
    loss: Tensor | float = 0.0
    values: dict[str, float] = {}
    for item in fields(weights):
        weight = value_at(getattr(weights, item.name), step, total)
        if weight == 0.0:
            continue
        value = terms[item.name](subject)
        loss = loss + weight * value
        values[f"regularizers/{item.name}"] = float(value.detach())
    return loss, values


class Regularizers:
    """The weighted sum of the picture terms at a step of the run, and of a scene's own where one is given.

    own: penalty(primitive, step, total) -> (loss, numbers to log), see `Representation.penalty`.
    """

    Config = Config

    def __init__(
        self, config: Config, own: Callable[..., tuple[Any, Mapping[str, float]]] | None = None
    ) -> None:
        self._weights, self._own = config, own

    def __call__(
        self, output: RenderOutput, primitive: Primitive, step: int, total: int
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The loss (a constant 0 when every weight is 0) and each active term's unweighted value."""
        loss, values = weigh(TERMS, self._weights, output, step, total)
        if self._own is not None:
            penalty, more = self._own(primitive, step, total)
            loss, values = loss + penalty, {**values, **more}
        return output.rgb.new_zeros(()) + loss, values
