"""Objectives that take the classifier-free guidance difference apart: CSD and NFSD."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule, value_at
from threedgen.core.schedule_checks import RUN, decisive_steps, numbers, require_numbers
from threedgen.guidance.objectives.base import Answer, Coefficients, Evaluation, Objective, Question


def _unguided(question: Question, *, unconditional: bool, null: bool) -> Evaluation:
    """The branches as they are, for objectives that combine them on their own."""
    return replace(question, scale=1.0).evaluate(unconditional=unconditional, null=null)


class CSD(Objective):
    """g = scale w (eps(y) + a_n eps(y_neg) + a_0 eps(null)), a_n + a_0 = -1: classifier score distillation.

    Yu et al. 2023: only the part of SDS that guidance adds. A scale of 1 is the paper's. The gradient does not
    vanish where both branches agree on the spread, so it needs a bounded render (METHODS 1.9).
    """

    @dataclass(frozen=True)
    class Config:
        """negative, empty: a_n and a_0, numbers or schedules; they must sum to -1 all the time.

        empty: of the empty text (YAML reads a key that is called null as no key).
        """

        negative: Schedule = 0.0
        empty: Schedule = -1.0

        def __post_init__(self) -> None:
            require_numbers(negative=self.negative, empty=self.empty)
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
        said = _unguided(question, unconditional=bool(share.negative), null=bool(share.null))
        return Answer(share.gradient(question, said), said.conditional.x0)


class NFSD(Objective):
    """g = w (delta_D + scale delta_C): noise-free score distillation (Katzir et al. 2023).

    delta_C = eps(y) - eps(null); delta_D = eps(null) - eps(y_neg), and below `threshold` eps(null) alone: there the
    paper takes the prior's noise term for negligible, and the coefficients sum to 1. The negative prompt should
    describe bad pictures: without one, delta_D is 0 above the threshold and what is left is CSD.
    """

    @dataclass(frozen=True)
    class Config:
        """threshold: the t in [0, 1] below which eps(y_neg) is not subtracted."""

        threshold: float = 0.2

        def __post_init__(self) -> None:
            if not 0.0 <= self.threshold <= 1.0:
                raise UserError(f"threshold must lie between 0 and 1, got {self.threshold:g}")

    edits_x0: ClassVar[bool] = False

    def coefficients(self, question: Question) -> Coefficients:
        negative = torch.where(question.t < self.config.threshold, 0.0, -1.0)
        return Coefficients(question.scale, negative, 1.0 - question.scale)

    def __call__(self, question: Question) -> Answer:
        said = _unguided(question, unconditional=True, null=True)
        return Answer(self.coefficients(question).gradient(question, said), said.conditional.x0)
