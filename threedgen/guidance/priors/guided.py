"""Predictions of a prior under guidance: its branches in one batch, Perp-Neg, classifier-free guidance, rescale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.schedule import Schedule, value_at
from threedgen.core.transfer import constant, on_cpu
from threedgen.guidance.priors.base import Condition, Prediction, Prior
from threedgen.guidance.priors.processes import per_sample

_SMALLEST = 1e-6  # of |e_pos|^2 in Perp-Neg: below it there is no direction to be perpendicular to


@dataclass(frozen=True)
class Branches:
    """The predictions of a prior for one noised batch; None for a branch that was not computed.

    conditional: of the prompt, with Perp-Neg if the condition has opposed texts. unconditional: of the negative
    prompt. null: of the empty text.
    """

    conditional: Prediction
    unconditional: Prediction | None = None
    null: Prediction | None = None


@torch.no_grad()
def branches(
    prior: Prior,
    z: Float[Tensor, "B C h w"],
    t: Float[Tensor, " B"],
    condition: Condition,
    *,
    unconditional: bool,
    null: bool = False,
) -> Branches:
    """The branches asked for, in one call of the prior.

    A condition with opposed texts needs the unconditional branch too, and gets it. If the negative prompt is empty,
    the branches of the negative prompt and of the empty text are the same and are computed once.
    """
    unconditional = unconditional or bool(condition.opposed)
    shared = unconditional and null and condition.negative == ""
    asked = [condition]
    if unconditional:
        asked.append(condition.unconditional())
    if null and not shared:
        asked.append(condition.null())
    asked += [condition.saying(text for text, _ in texts) for texts in zip(*condition.opposed, strict=True)]
    if len(asked) == 1:
        return Branches(prior.predict(z, t, condition))
    count = len(asked)
    together = prior.predict(z.repeat(count, 1, 1, 1), t.repeat(count), condition.followed_by(*asked[1:]))
    answers = iter(together.chunk(count))
    positive = next(answers)
    negative = next(answers) if unconditional else None
    empty = negative if shared else next(answers) if null else None
    if condition.opposed and negative is not None:
        weights = constant([[weight for _, weight in texts] for texts in condition.opposed], z)
        positive = perpendicular(positive, negative, tuple(answers), weights)
    return Branches(positive, negative, empty)


def guide(conditional: Prediction, unconditional: Prediction, scale: float) -> Prediction:
    """Classifier-free guidance, uncond + scale (cond - uncond): a scale of 1 is no guidance (docs/methods.md,
    "Guidance scale")."""

    def combine(c: Tensor, u: Tensor) -> Tensor:
        return u + scale * (c - u)

    return Prediction(
        eps=combine(conditional.eps, unconditional.eps),
        x0=combine(conditional.x0, unconditional.x0),
        v=combine(conditional.v, unconditional.v),
    )


def perpendicular(
    conditional: Prediction,
    unconditional: Prediction,
    opposed: Sequence[Prediction],
    weights: Float[Tensor, "B K"],
) -> Prediction:
    """Perp-Neg (Armandpour et al. 2023, arXiv:2304.04968): cond + sum_i w_i e_i_perp, the branch that guidance then
    pushes towards.

    e_i = opposed_i - uncond, and e_i_perp is its component perpendicular to e_pos = cond - uncond, with inner
    products over all channels and pixels of a sample and |e_pos|^2 at least 1e-6. weights: w_i <= 0, else
    ValueError. Guidance then gives uncond + scale (e_pos + sum_i w_i e_i_perp).
    """
    if bool((on_cpu(weights) > 0.0).any()):
        raise ValueError("Perp-Neg pushes away: its weights must be 0 or negative")
    toward = conditional.eps - unconditional.eps
    length = toward.flatten(1).square().sum(1).clamp_min(_SMALLEST)
    shares = [
        ((other.eps - unconditional.eps) * toward).flatten(1).sum(1) / length for other in opposed
    ]  # of e_pos in each e_i

    def combine(form: str) -> Tensor:
        c, u = getattr(conditional, form), getattr(unconditional, form)
        result = c
        for index, (other, share) in enumerate(zip(opposed, shares, strict=True)):
            beside = getattr(other, form) - u - per_sample(share, c) * (c - u)
            result = result + per_sample(weights[:, index], c) * beside
        return result

    return Prediction(eps=combine("eps"), x0=combine("x0"), v=combine("v"))


def rescale(
    guided: Prediction,
    conditional: Prediction,
    z: Float[Tensor, "B C h w"],
    alpha: Float[Tensor, " B"],
    sigma: Float[Tensor, " B"],
    amount: float,
    group: int,
) -> Prediction:
    """Remove a share of the contrast that a large guidance scale adds (Lin et al. 2024, "Common Diffusion Noise
    Schedules and Sample Steps are Flawed").

    x0 is multiplied by std(x0 cond) / std(x0 guided), blended in by `amount` in [0, 1]. The std is joint over
    `group` consecutive views, all channels and pixels, as in MVDream (Shi et al. 2023, arXiv:2308.16512): one std
    per view would make the colours of the views inconsistent. Raises ValueError if the batch is not whole groups.
    """
    if len(z) % group:
        raise ValueError(f"{len(z)} views do not divide into groups of {group}")

    def spread(x0: Tensor) -> Tensor:
        return x0.reshape(len(x0) // group, -1).std(1)

    factor = spread(conditional.x0) / spread(guided.x0).clamp_min(1e-8)
    factor = 1.0 + amount * (factor.repeat_interleave(group) - 1.0)
    return Prediction.from_x0(z, per_sample(factor, z) * guided.x0, alpha, sigma)


def guided_prediction(
    prior: Prior, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition, scale: float
) -> Prediction:
    """The prediction under classifier-free guidance, and under Perp-Neg if the condition has opposed texts."""
    answer = branches(prior, z, t, condition, unconditional=scale != 1.0)
    if answer.unconditional is None or scale == 1.0:
        return answer.conditional
    return guide(answer.conditional, answer.unconditional, scale)


def ddim_step(prior: Prior, prediction: Prediction, there: Float[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
    """alpha x0_hat + sigma eps_hat at level `there`, higher or lower (Song et al. 2020, eq. 12, eta = 0)."""
    return (
        per_sample(prior.alpha(there), prediction.x0) * prediction.x0
        + per_sample(prior.sigma(there), prediction.eps) * prediction.eps
    )


def guidance_scale(prior: Prior, scale: Schedule | None, step: int, total: int) -> float:
    """The scheduled scale at a step; None: the default scale of the prior."""
    return prior.default_scale if scale is None else value_at(scale, step, total)


def preview_of(prior: Prior, x0: Float[Tensor, "B C h w"]) -> Callable[[], Float[Tensor, "H W 3"]]:
    """The preview of a Signal: the pictures of clean samples side by side, decoded only when it is called."""

    @torch.no_grad()
    def preview() -> Float[Tensor, "H W 3"]:
        return torch.cat(list(prior.decode(x0).clamp(0.0, 1.0)), dim=1)

    return preview
