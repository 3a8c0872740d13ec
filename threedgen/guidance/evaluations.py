"""Objectives that look at the prior once a step: one batched call, and a combination of what it said.

All but HiFA's image term are g = w(t) (a_c eps(y) + a_n eps(y_neg) + a_0 eps(null) + a_e eps) with coefficients
that sum to 0: otherwise the noise itself would be written into x (METHODS 1.9).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.errors import UserError
from threedgen.guidance.objectives import Answer, Coefficients, Evaluation, Objective, Question
from threedgen.guidance.priors.processes import per_sample
from threedgen.schedule import Schedule, value_at

_TRIED = 101  # points of a run at which schedules are checked


def guided_coefficients(scale: float) -> Coefficients:
    """Those of eps_hat - eps under classifier-free guidance."""
    return Coefficients(conditional=scale, negative=1.0 - scale, noise=-1.0)


class SDS(Objective):
    """g = w (eps_hat - eps): DreamFusion (Poole et al. 2022), eq. 3, the network's Jacobian left out."""

    def coefficients(self, question: Question) -> Coefficients:
        return guided_coefficients(question.scale)

    def __call__(self, question: Question) -> Answer:
        said = question.evaluate()
        difference = said.guided.eps - question.eps
        return Answer(per_sample(question.weight(), difference) * difference, said.guided.x0)


def _residual(question: Question, said: Evaluation) -> Float[Tensor, "B C h w"]:
    """w alpha / sigma (x - x0_hat), which equals w (eps_hat - eps) (METHODS 0.3)."""
    kappa = question.weight() * said.alpha / said.sigma
    return per_sample(kappa, question.x) * (question.x - said.guided.x0)


class Reconstruction(Objective):
    """g = kappa (x - x0_hat), kappa = w alpha / sigma: SDS through x0 (MVDream, Shi et al. 2023, eq. 4).

    It stays finite where eps_hat is ill-conditioned, and is the form that edits of x0 act on.
    """

    weighting: ClassVar[str] = "recon"

    def coefficients(self, question: Question) -> Coefficients:
        return guided_coefficients(question.scale)

    def __call__(self, question: Question) -> Answer:
        said = question.evaluate()
        return Answer(_residual(question, said), said.guided.x0)


class SJC(Reconstruction):
    """g = (x - D(z)) / sigma_VE with sigma_VE = sigma / alpha: Score Jacobian Chaining (Wang et al. 2022).

    D is the denoiser of the variance-exploding form; its own weight is 1 on (eps_hat - eps).
    """

    weighting: ClassVar[str] = "sjc"


class FlowMatching(Objective):
    """g = w (v_hat - (eps - x)) with the rectified-flow velocity v = eps - x0 (METHODS 1.14).

    It equals w / (1 - s) (eps_hat - eps) at flow time s = sigma / (alpha + sigma), and stays finite at s = 1.
    """

    weighting: ClassVar[str] = "uniform"

    def __call__(self, question: Question) -> Answer:
        said = question.evaluate()
        difference = said.guided.flow - (question.eps - question.x)
        return Answer(per_sample(question.weight(), difference) * difference, said.guided.x0)


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
        """negative, null: a_n and a_0, numbers or schedules; they must sum to -1 all the time."""

        negative: Schedule = 0.0
        null: Schedule = -1.0

        def __post_init__(self) -> None:
            for step in range(_TRIED):
                total = value_at(self.negative, step, _TRIED) + value_at(self.null, step, _TRIED)
                if abs(total + 1.0) > 1e-6:
                    raise UserError(
                        f"negative and null must sum to -1 all the time, or noise is written into the scene; they "
                        f"give {total:g} at {step / (_TRIED - 1):.0%} of the run"
                    )

    edits_x0: ClassVar[bool] = False

    def coefficients(self, question: Question) -> Coefficients:
        negative = value_at(self.config.negative, question.step, question.total)
        null = value_at(self.config.null, question.step, question.total)
        return Coefficients(question.scale, question.scale * negative, question.scale * null)

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


class HiFA(SDS):
    """SDS, and in image space g_I = image w alpha / sigma (I - decode(x0_hat)): HiFA (Zhu et al. 2023), eq. 8."""

    @dataclass(frozen=True)
    class Config:
        """image: weight of the image-space term, >= 0."""

        image: float = 0.1

        def __post_init__(self) -> None:
            if not self.image >= 0.0:
                raise UserError(f"image must be 0 or more, got {self.image:g}")

    image_space: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, question: Question) -> Answer:
        if question.images is None:
            raise ValueError("hifa needs Question.images")
        said = question.evaluate()
        kappa = self.config.image * question.weight() * said.alpha / said.sigma
        difference = question.images - question.prior.decode(said.guided.x0)
        towards = per_sample(kappa, difference) * difference
        return Answer(_residual(question, said), said.guided.x0, image_gradient=towards)
