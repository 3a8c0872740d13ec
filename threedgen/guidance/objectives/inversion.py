"""Objectives that find the noise of a render by DDIM inversion instead of drawing it: ISM and SDI."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule, bounds, value_at
from threedgen.core.schedule_checks import require_numbers
from threedgen.guidance.objectives.base import Answer, Objective, Question
from threedgen.guidance.priors.base import Prediction, Prior
from threedgen.guidance.priors.guided import ddim_step, guided_prediction
from threedgen.guidance.priors.processes import per_sample, unit_levels

STREAM = "guidance/inversion"
Predict = Callable[[Tensor, Tensor], Prediction]
"""(z, t) -> the denoiser's answer that an inversion follows."""


def rungs(end: Float[Tensor, " B"], stride: float, max_steps: int) -> list[Float[Tensor, " B"]]:
    """Levels from 0 (or from end - stride max_steps where that is higher) to `end`, `stride` apart.

    The last step is the shorter one. Samples of a batch may end at different levels: one that has arrived stays.
    """
    start = (end - stride * max_steps).clamp_min(0.0)
    steps = math.ceil(float(((end - start) / stride).max()) - 1e-6)
    return [torch.minimum(start + index * stride, end) for index in range(steps)] + [end]


@torch.no_grad()
def invert(
    question: Question, levels: list[Float[Tensor, " B"]], predict: Predict, eta: float = 0.0
) -> Float[Tensor, "B C h w"]:
    """x taken up the levels by DDIM steps backwards; it enters the first one clean at 0, else with eps.

    eta: share of fresh noise, in the sense of DDIM's eta, drawn from the question's generator.
    The noise that is kept shrinks by as much, so that every level keeps its variance.
    """
    prior, x = question.prior, question.x
    noisy = per_sample((levels[0] > 0.0).to(x), x) * question.eps
    z = prior.add_noise(x, noisy, levels[0])
    rng = question.generator(STREAM) if eta > 0.0 else None
    for here, there in itertools.pairwise(levels):
        said = predict(z, here)
        if rng is not None:
            said = _renoised(prior, said, here, there, eta, torch.randn(x.shape, generator=rng).to(x))
        moved = per_sample((there > here).to(x), x) > 0.0
        z = torch.where(moved, ddim_step(prior, said, there), z)
    return z


def _renoised(
    prior: Prior, said: Prediction, here: Tensor, there: Tensor, eta: float, fresh: Tensor
) -> Prediction:
    """`said` with the share of its noise replaced that a step from `here` to `there` at `eta` replaces."""
    alpha, sigma = unit_levels(prior.alpha(here), prior.sigma(here))
    alpha_there, sigma_there = unit_levels(prior.alpha(there), prior.sigma(there))
    variance = (sigma / sigma_there).square() * (1.0 - (alpha_there / alpha).square())
    share = (eta * variance.clamp_min(0.0).sqrt() / sigma_there).clamp(max=1.0)
    kept = per_sample((1.0 - share.square()).sqrt(), fresh)
    return Prediction(kept * said.eps + per_sample(share, fresh) * fresh, said.x0, said.v)


class ISM(Objective):
    """g = w (eps_hat(z_t; y) - eps(z_s; null)): interval score matching, LucidDreamer (Liang et al. 2023), eq. 17.

    z_s is x inverted to s = t - delta_t under the empty text, z_t one DDIM step further; the second term is what
    that step is made of, so it costs nothing. No noise is drawn unless max_steps do not reach down to 0.
    """

    @dataclass(frozen=True)
    class Config:
        """delta_t: t - s, a number or a schedule. delta_s: length of an inversion step. max_steps: their limit."""

        delta_t: Schedule = 0.08
        delta_s: float = 0.2
        max_steps: int = 5

        def __post_init__(self) -> None:
            require_numbers(delta_t=self.delta_t)
            low, high = bounds(self.delta_t)
            if not 0.0 < low <= high <= 1.0:
                raise UserError(f"delta_t must lie in (0, 1] all the time, got {low:g} to {high:g}")
            if not 0.0 < self.delta_s <= 1.0:
                raise UserError(f"delta_s must lie in (0, 1], got {self.delta_s:g}")
            if self.max_steps < 1:
                raise UserError(f"max_steps must be at least 1, got {self.max_steps}")

    weighting: ClassVar[str] = "ism"

    @torch.no_grad()
    def __call__(self, question: Question) -> Answer:
        config, prior = self.config, question.prior
        null = question.condition.null()

        def predict(z: Tensor, t: Tensor) -> Prediction:
            return prior.predict(z, t, null)

        s = (question.t - value_at(config.delta_t, question.step, question.total)).clamp_min(0.0)
        z = invert(question, rungs(s, config.delta_s, config.max_steps), predict)
        before = predict(z, s)
        said = question.evaluate(ddim_step(prior, before, question.t))
        difference = said.guided.eps - before.eps
        return Answer(per_sample(question.weight(), difference) * difference, said.guided.x0)


class SDI(Objective):
    """g = w (eps_hat(z_t; y) - eps_inv), eps_inv = (z_t - alpha x) / sigma of x inverted to t.

    Score distillation via reparametrized DDIM (Lukoianov et al. 2024): the noise that the prior itself would have
    turned into x, found under the prompt at a negative guidance scale, instead of a random one.
    """

    @dataclass(frozen=True)
    class Config:
        """inversion_scale: guidance of the inversion. inversion_steps: those of an inversion up to t = 1.

        eta: share of fresh noise in each of them, in [0, 1], as DDIM's eta.
        """

        inversion_scale: float = -7.5
        inversion_steps: int = 10
        eta: float = 0.3

        def __post_init__(self) -> None:
            if self.inversion_steps < 1:
                raise UserError(f"inversion_steps must be at least 1, got {self.inversion_steps}")
            if not 0.0 <= self.eta <= 1.0:
                raise UserError(f"eta must lie between 0 and 1, got {self.eta:g}")
            require_numbers(inversion_scale=self.inversion_scale)

    divides: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, question: Question) -> Answer:
        config, prior = self.config, question.prior

        def predict(z: Tensor, t: Tensor) -> Prediction:
            return guided_prediction(prior, z, t, question.condition, config.inversion_scale)

        levels = rungs(question.t, 1.0 / config.inversion_steps, config.inversion_steps)
        said = question.evaluate(invert(question, levels, predict, config.eta))
        # w (eps_hat - eps_inv), through x0: no division by sigma of a difference of large numbers.
        towards = question.x - said.guided.x0
        return Answer(per_sample(question.through_x0(), towards) * towards, said.guided.x0)
