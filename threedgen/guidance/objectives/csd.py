"""Objectives that use the difference of classifier-free guidance by itself: CSD and NFSD."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch

from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule, value_at
from threedgen.core.schedule_checks import RUN, decisive_steps
from threedgen.core.settings import between, finite, numbers, settings
from threedgen.guidance.objectives.base import Answer, Coefficients, GuidedPrediction, Objective, Question


def _unguided(question: Question, *, unconditional: bool, null: bool) -> GuidedPrediction:
    """The branches without guidance, for objectives that combine them themselves."""
    return replace(question, scale=1.0).evaluate(unconditional=unconditional, null=null)


class CSD(Objective):
    """g = scale w (eps(y) + a_n eps(y_neg) + a_0 eps(null)), a_n + a_0 = -1: classifier score distillation.

    Yu et al. 2023, arXiv:2310.19415: only the term of SDS that guidance adds. The scale of the paper is 1. If both
    branches have the same spread the gradient does not vanish anywhere, so the render has to be bounded
    (docs/methods.md, "Linear combinations of branches").
    """

    @settings
    class Config:
        """Options of CSD: the coefficients of two branches, numbers or schedules, which sum to -1 all the time.

        Attributes:
            negative: Coefficient a_n of the negative prompt.
            empty: Coefficient a_0 of the empty text. (YAML reads a key named null as no key, hence this name.)
        """

        negative: Annotated[Schedule, finite] = 0.0
        empty: Annotated[Schedule, finite] = -1.0

        def __post_init__(self) -> None:
            for step in decisive_steps(self.negative, self.empty):
                total = value_at(self.negative, step, RUN + 1) + value_at(self.empty, step, RUN + 1)
                if abs(total + 1.0) > 1e-6:
                    raise UserError(
                        f"negative and empty must sum to -1 all the time, or noise is written into the scene; they "
                        f"give {total:g} at {step / RUN:.0%} of the run"
                    )

    edits_x0: ClassVar[bool] = False

    @classmethod
    def reads_negative(cls, config: Config) -> bool:
        return any(numbers(config.negative))

    def coefficients(self, question: Question) -> Coefficients:
        negative = value_at(self.config.negative, question.step, question.total)
        empty = value_at(self.config.empty, question.step, question.total)
        return Coefficients(question.scale, question.scale * negative, question.scale * empty)

    def __call__(self, question: Question) -> Answer:
        share = self.coefficients(question)
        predicted = _unguided(question, unconditional=bool(share.negative), null=bool(share.null))
        return Answer(share.gradient(question, predicted), predicted.conditional.x0)


class NFSD(Objective):
    """g = w (delta_D + scale delta_C): noise-free score distillation (Katzir et al. 2023).

    delta_C = eps(y) - eps(null); delta_D = eps(null) - eps(y_neg), and below `threshold` it is eps(null) alone: the
    paper considers the noise term of the prior negligible there, and the coefficients sum to 1. The negative prompt
    should describe bad pictures: without one, delta_D is 0 above the threshold and NFSD is CSD.
    """

    @settings
    class Config:
        """Options of NFSD.

        Attributes:
            threshold: Noise level t below which eps(y_neg) is not subtracted.
        """

        threshold: Annotated[float, between(0.0, 1.0)] = 0.2

    edits_x0: ClassVar[bool] = False

    def coefficients(self, question: Question) -> Coefficients:
        negative = torch.where(question.t < self.config.threshold, 0.0, -1.0)
        return Coefficients(question.scale, negative, 1.0 - question.scale)

    def __call__(self, question: Question) -> Answer:
        predicted = _unguided(question, unconditional=True, null=True)
        return Answer(self.coefficients(question).gradient(question, predicted), predicted.conditional.x0)
