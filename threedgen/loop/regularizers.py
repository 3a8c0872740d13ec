"""Terms of the loss that need no prior: functions of a render, their weights, and their sum with a scene's own
terms.

Every term is a mean over pixels, so that a weight means the same for every picture size. Terms on the
parameters of a representation are in its own `penalty` (see docs/methods.md, "Regularizers").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule, value_at
from threedgen.core.settings import settings
from threedgen.core.transfer import Number
from threedgen.core.types import Primitive, RenderOutput

SOLID = 0.4  # the alpha from which on a pixel is made solid
_SOLID_POWER = math.log(0.5) / math.log(SOLID)


def alpha_binarising(output: RenderOutput) -> Float[Tensor, ""]:
    """The mean over pixels of 4 a (1 - a) of the rendered alpha: 0 if every pixel is object or background."""
    return (4.0 * output.alpha * (1.0 - output.alpha)).mean()


def solidity(output: RenderOutput) -> Float[Tensor, ""]:
    """The mean over pixels of 4 u (1 - u) with u = a^p of the rendered alpha, which is largest at a = SOLID.

    What is less opaque than that fades, and what is more becomes solid, thin parts as well: with the threshold at
    one half, as in `alpha_binarising`, legs that are seen as a haze are lost.
    """
    u = (output.alpha + 1e-4) ** _SOLID_POWER  # the constant keeps the slope at a = 0 finite
    return (4.0 * u * (1.0 - u)).mean()


def sparsity(output: RenderOutput) -> Float[Tensor, ""]:
    """The mean over pixels of sqrt(a^2 + 0.01) - 0.1 of the rendered alpha, against haze (DreamFusion, Poole et al.
    2022, appendix A.2).

    The constant, which changes no gradient, makes the loss of an empty picture 0.
    """
    return (torch.sqrt(output.alpha**2 + 0.01) - 0.1).mean()


def distortion(output: RenderOutput) -> Float[Tensor, ""]:
    """The mean over pixels of a field's distortion, which is small if each ray's weight is in one place
    (Mip-NeRF 360, Barron et al. 2022, eq. 15).

    Raises UserError if the renderer did not compute it.
    """
    if output.distortion is None:
        raise UserError("regularizers.distortion needs a NeRF that is rendered with renderer.distortion=true")
    return output.distortion.mean()


TERMS: dict[str, Callable[[RenderOutput], Float[Tensor, ""]]] = {
    "alpha": alpha_binarising,
    "distortion": distortion,
    "solidity": solidity,
    "sparsity": sparsity,
}


@settings
class Config:
    """The weight of each term in the loss; 0 leaves the term out.

    Attributes:
        alpha: Weight of the term that makes each pixel object or background: the mean of 4 a (1 - a) of alpha.
        distortion: Weight of the distortion of a NeRF's rays, which concentrates each ray's weight in one place. It
            needs renderer.distortion=true.
        solidity: Weight of the term that makes each pixel solid if its alpha is above 0.4, and else background.
        sparsity: Weight of the term against haze: the mean of sqrt(a^2 + 0.01) - 0.1 of alpha.
    """

    alpha: Schedule = 0.0
    distortion: Schedule = 0.0
    solidity: Schedule = 0.0
    sparsity: Schedule = 0.0


def weigh(
    terms: Mapping[str, Callable[[Any], Float[Tensor, ""]]], weights: Any, subject: Any, step: int, total: int
) -> tuple[Float[Tensor, ""] | float, dict[str, Number]]:
    """The sum of the terms of `subject`, and each active term's unweighted value under "regularizers/<name>".

    weights: a dataclass with the schedule of each term's weight. The sum is 0.0 if every weight is 0.
    """
    loss: Tensor | float = 0.0
    values: dict[str, Number] = {}
    for item in fields(weights):
        weight = value_at(getattr(weights, item.name), step, total)
        if weight == 0.0:
            continue
        value = terms[item.name](subject)
        loss = loss + weight * value
        values[f"regularizers/{item.name}"] = value.detach()
    return loss, values


class Regularizers:
    """The weighted sum of the terms of the render, and of a scene's own terms.

    own: penalty(primitive, step, total) -> (loss, numbers to log), a scene's own terms; None: there are none.
    """

    Config = Config

    def __init__(
        self, config: Config, own: Callable[..., tuple[Any, Mapping[str, Number]]] | None = None
    ) -> None:
        self._weights, self._own = config, own

    def __call__(
        self, output: RenderOutput, primitive: Primitive, step: int, total: int
    ) -> tuple[Float[Tensor, ""], dict[str, Number]]:
        """The loss (a constant 0 if every weight is 0), and each active term's unweighted value."""
        loss, values = weigh(TERMS, self._weights, output, step, total)
        if self._own is not None:
            penalty, more = self._own(primitive, step, total)
            loss, values = loss + penalty, {**values, **more}
        return output.rgb.new_zeros(()) + loss, values
