"""Objectives that obtain the noise of a render by DDIM inversion instead of drawing it: ISM and SDI."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.schedule import Schedule, value_at
from threedgen.core.settings import at_least, between, finite, settings
from threedgen.core.transfer import on_cpu, sent_as
from threedgen.guidance.objectives.base import Answer, Objective, Question
from threedgen.guidance.priors.base import Prediction, Prior
from threedgen.guidance.priors.guided import ddim_step, guided_prediction
from threedgen.guidance.priors.processes import per_sample, unit_levels

STREAM = "guidance/inversion"
Predict = Callable[[Tensor, Tensor], Prediction]
"""(z, t) -> the prediction that an inversion follows."""


def rungs(end: Float[Tensor, " B"], stride: float, max_steps: int) -> list[Float[Tensor, " B"]]:
    """Levels from 0 (or from end - stride max_steps if that is higher) to `end`, `stride` apart.

    Only the last step may be shorter. Samples of a batch may end at different levels: a sample that has reached its
    end stays there.
    """
    start = (end - stride * max_steps).clamp_min(0.0)
    last = on_cpu(end)
    longest = ((last - (last - stride * max_steps).clamp_min(0.0)) / stride).max()
    steps = math.ceil(float(longest) - 1e-6)
    return [torch.minimum(start + index * stride, end) for index in range(steps)] + [end]


@torch.no_grad()
def invert(
    question: Question, levels: list[Float[Tensor, " B"]], predict: Predict, eta: float = 0.0
) -> Float[Tensor, "B C h w"]:
    """x taken up the levels by DDIM steps in the direction of more noise. At the first level it is clean if that
    level is 0, else it is noised by eps.

    eta: share of fresh noise, as the eta of DDIM, drawn from the generator of the question. The noise that is
    kept is reduced accordingly, so that each level keeps its variance.
    """
    prior, x = question.prior, question.x
    noisy = per_sample((levels[0] > 0.0).to(x), x) * question.eps
    z = prior.add_noise(x, noisy, levels[0])
    rng = question.generator(STREAM) if eta > 0.0 else None
    for here, there in itertools.pairwise(levels):
        predicted = predict(z, here)
        if rng is not None:
            fresh = sent_as(torch.randn(x.shape, generator=rng), x)
            predicted = _renoised(prior, predicted, here, there, eta, fresh)
        moved = per_sample((there > here).to(x), x) > 0.0
        z = torch.where(moved, ddim_step(prior, predicted, there), z)
    return z


def _renoised(
    prior: Prior, predicted: Prediction, here: Tensor, there: Tensor, eta: float, fresh: Tensor
) -> Prediction:
    """The prediction with the share of its noise replaced by `fresh` that DDIM replaces from `here` to `there`."""
    alpha, sigma = unit_levels(prior.alpha(here), prior.sigma(here))
    alpha_there, sigma_there = unit_levels(prior.alpha(there), prior.sigma(there))
    variance = (sigma / sigma_there).square() * (1.0 - (alpha_there / alpha).square())
    share = (eta * variance.clamp_min(0.0).sqrt() / sigma_there).clamp(max=1.0)
    kept = per_sample((1.0 - share.square()).sqrt(), fresh)
    return Prediction(kept * predicted.eps + per_sample(share, fresh) * fresh, predicted.x0, predicted.v)


class ISM(Objective):
    """g = w (eps_hat(z_t; y) - eps(z_s; null)): interval score matching, LucidDreamer (Liang et al. 2023), eq. 17.

    z_s is x inverted to s = t - delta_t under the empty text, and z_t is one DDIM step further. The second term is
    the prediction of that step, so it needs no further pass. No noise is used unless max_steps is too low to start
    at level 0.
    """

    @settings
    class Config:
        """Options of ISM, whose levels are noise levels from 0 to 1.

        Attributes:
            delta_t: Interval t - s between the two compared levels, a number or a schedule.
            delta_s: Length of a step of the inversion.
            max_steps: Largest number of steps of the inversion.
        """

        delta_t: Annotated[Schedule, between(0.0, 1.0, open_low=True)] = 0.08
        delta_s: Annotated[float, between(0.0, 1.0, open_low=True)] = 0.2
        max_steps: Annotated[int, at_least(1)] = 5

    weighting: ClassVar[str] = "ism"

    @torch.no_grad()
    def __call__(self, question: Question) -> Answer:
        config, prior = self.config, question.prior
        null = question.condition.null()

        def predict(z: Tensor, t: Tensor) -> Prediction:
            return prior.predict(z, t, null)

        delta = value_at(config.delta_t, question.step, question.total)
        s = sent_as((on_cpu(question.t) - delta).clamp_min(0.0), question.t)
        z = invert(question, rungs(s, config.delta_s, config.max_steps), predict)
        before = predict(z, s)
        guided = question.evaluate(ddim_step(prior, before, question.t)).guided
        difference = guided.eps - before.eps
        return Answer(per_sample(question.weight(), difference) * difference, guided.x0)


class SDI(Objective):
    """g = w (eps_hat(z_t; y) - eps_inv), eps_inv = (z_t - alpha x) / sigma of x inverted to t.

    Score distillation via reparametrized DDIM (Lukoianov et al. 2024, arXiv:2405.15891): instead of random noise,
    the noise that the prior itself would denoise to x, obtained under the prompt at a negative guidance scale.
    """

    @settings
    class Config:
        """Options of SDI.

        Attributes:
            inversion_scale: Guidance scale of the inversion.
            inversion_steps: Number of steps of an inversion up to t = 1; a lower t takes proportionally fewer.
            eta: Share of fresh noise in each step, as the eta of DDIM.
        """

        inversion_scale: Annotated[float, finite] = -7.5
        inversion_steps: Annotated[int, at_least(1)] = 10
        eta: Annotated[float, between(0.0, 1.0)] = 0.3

    divides: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, question: Question) -> Answer:
        config, prior = self.config, question.prior

        def predict(z: Tensor, t: Tensor) -> Prediction:
            return guided_prediction(prior, z, t, question.condition, config.inversion_scale)

        levels = rungs(question.t, 1.0 / config.inversion_steps, config.inversion_steps)
        guided = question.evaluate(invert(question, levels, predict, config.eta)).guided
        # w (eps_hat - eps_inv) computed through x0, without dividing a difference of large numbers by sigma.
        towards = question.x - guided.x0
        return Answer(per_sample(question.through_x0(), towards) * towards, guided.x0)
