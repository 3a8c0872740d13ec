"""Score distillation objectives as pure functions: one evaluation of a prior -> a gradient.

An objective maps an `Evaluation` and a weight w(t) to a gradient with respect to the clean sample x, of
x's shape. `inject` then turns that gradient into a loss. Reductions follow the field's convention: sum
over pixels, mean over the batch (METHODS 0.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.errors import UserError
from threedgen.guidance.priors.base import Condition, Prediction, Prior, per_sample

WeightFunction = Callable[[Tensor, Tensor], Tensor]

# w(t) on (eps_hat - eps), from alpha and sigma (METHODS 1.3).
WEIGHTS: dict[str, WeightFunction] = {
    "sds": lambda alpha, sigma: sigma.square(),  # DreamFusion, DreamGaussian, ProlificDreamer
    "uniform": lambda alpha, sigma: torch.ones_like(sigma),  # Magic3D's coarse stage
    "fantasia3d": lambda alpha, sigma: alpha * sigma.square(),
    "recon": lambda alpha, sigma: sigma / alpha,  # MVDream: plain 1/2 |x - x0|^2
    "ism": lambda alpha, sigma: sigma / alpha,  # LucidDreamer
    "sjc": lambda alpha, sigma: torch.ones_like(sigma),  # Score Jacobian Chaining
}


def weight_function(name: str) -> WeightFunction:
    """The named w(alpha, sigma); UserError lists the names when it is unknown."""
    if name not in WEIGHTS:
        raise UserError(f"unknown weight '{name}': use one of {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


@dataclass(frozen=True)
class Evaluation:
    """A clean batch, its noised copy, and what the prior said about it. Tensors [B, C, h, w], no graph.

    alpha, sigma: [B]. conditional: the prompt's branch. unconditional: the negative prompt's branch, or
    None when it was not needed (scale 1). guided: their combination, which most objectives follow.
    """

    x: Float[Tensor, "B C h w"]
    eps: Float[Tensor, "B C h w"]
    z: Float[Tensor, "B C h w"]
    alpha: Float[Tensor, " B"]
    sigma: Float[Tensor, " B"]
    conditional: Prediction
    unconditional: Prediction | None
    guided: Prediction


Objective = Callable[[Evaluation, Tensor], Tensor]


def guide(conditional: Prediction, unconditional: Prediction, scale: float) -> Prediction:
    """Classifier-free guidance, uncond + scale (cond - uncond): 1 is none (METHODS 0.4, A)."""

    def combine(c: Tensor, u: Tensor) -> Tensor:
        return u + scale * (c - u)

    return Prediction(
        eps=combine(conditional.eps, unconditional.eps),
        x0=combine(conditional.x0, unconditional.x0),
        v=combine(conditional.v, unconditional.v),
    )


def scale_from_convention_b(scale: float) -> float:
    """threestudio's cond + s (cond - uncond) as our scale: 100 there is 101 here (METHODS 0.4)."""
    return 1.0 + scale


def rescale(
    guided: Prediction,
    conditional: Prediction,
    z: Float[Tensor, "B C h w"],
    alpha: Float[Tensor, " B"],
    sigma: Float[Tensor, " B"],
    amount: float,
    group: int,
) -> Prediction:
    """Undo part of the contrast that a large guidance scale adds (METHODS 1.13).

    x0 is scaled by std(x0 cond) / std(x0 guided), blended in by `amount` in [0, 1]. The std is joint over
    `group` consecutive views, all channels and pixels: one a view would break the colours' consistency.
    """
    if len(z) % group:
        raise ValueError(f"{len(z)} views do not divide into groups of {group}")

    def spread(x0: Tensor) -> Tensor:
        return x0.reshape(len(x0) // group, -1).std(1)

    factor = spread(conditional.x0) / spread(guided.x0).clamp_min(1e-8)
    factor = 1.0 + amount * (factor.repeat_interleave(group) - 1.0)
    return Prediction.from_x0(z, per_sample(factor, z) * guided.x0, alpha, sigma)


@torch.no_grad()
def branches(
    prior: Prior, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition, scale: float
) -> tuple[Prediction, Prediction | None]:
    """The prior's conditional and unconditional answers in one batch; None for the second at scale 1."""
    if scale == 1.0:
        return prior.predict(z, t, condition), None
    both = condition.followed_by(condition.unconditional())
    conditional, unconditional = prior.predict(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
    return conditional, unconditional


def guided_prediction(
    prior: Prior, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition, scale: float
) -> Prediction:
    """The prior's answer under classifier-free guidance."""
    conditional, unconditional = branches(prior, z, t, condition, scale)
    return conditional if unconditional is None else guide(conditional, unconditional, scale)


@torch.no_grad()
def evaluate(
    prior: Prior,
    x: Float[Tensor, "B C h w"],
    eps: Float[Tensor, "B C h w"],
    t: Float[Tensor, " B"],
    condition: Condition,
    scale: float,
    rescale_amount: float = 0.0,
    group: int = 1,
    clip_x0: bool = False,
) -> Evaluation:
    """Noise x, ask the prior for both branches in one batch, guide, then (if asked) rescale and clip.

    clip_x0 keeps the guided x0 in the range of pictures, [-1, 1]: for pixel priors only.
    """
    x = x.detach()
    alpha, sigma = prior.alpha(t), prior.sigma(t)
    z = prior.add_noise(x, eps, t)
    conditional, unconditional = branches(prior, z, t, condition, scale)
    guided = conditional
    if unconditional is not None:
        guided = guide(conditional, unconditional, scale)
        if rescale_amount > 0.0:
            guided = rescale(guided, conditional, z, alpha, sigma, rescale_amount, group)
    if clip_x0:
        guided = Prediction.from_x0(z, guided.x0.clamp(-1.0, 1.0), alpha, sigma)
    return Evaluation(x, eps, z, alpha, sigma, conditional, unconditional, guided)


def sds(evaluation: Evaluation, weight: Float[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
    """w(t) (eps_hat - eps): DreamFusion, eq. 3 (the network's Jacobian left out)."""
    return per_sample(weight, evaluation.x) * (evaluation.guided.eps - evaluation.eps)


def reconstruction(evaluation: Evaluation, weight: Float[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
    """kappa(t) (x - x0_hat) with kappa = w alpha / sigma: the same gradient, through x0 (METHODS 0.3).

    It stays finite where eps_hat is ill-conditioned, and is the form that edits of x0 act on.
    """
    kappa = weight * evaluation.alpha / evaluation.sigma
    return per_sample(kappa, evaluation.x) * (evaluation.x - evaluation.guided.x0)


OBJECTIVES: dict[str, Objective] = {"sds": sds, "recon": reconstruction}


def objective(name: str) -> Objective:
    """The named objective; UserError lists the names when it is unknown."""
    if name not in OBJECTIVES:
        raise UserError(f"unknown objective '{name}': use one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def inject(x: Float[Tensor, "B ..."], gradient: Float[Tensor, "B ..."]) -> Float[Tensor, ""]:
    """A loss whose gradient with respect to x is gradient / B, to the last bit (METHODS 0.5).

    Its value is half the squared length of the gradient, per sample, as in the target trick
    1/2 |x - (x - g)|^2, whose difference would lose the low bits of a gradient that is small beside x.
    """
    gradient = gradient.detach()
    linear = (gradient * (x - x.detach())).sum()
    return (linear + 0.5 * gradient.square().sum()) / x.shape[0]
