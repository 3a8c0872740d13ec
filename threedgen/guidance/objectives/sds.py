"""Objectives that look at the prior once a step: one batched call, and a combination of what it said.

All but HiFA's image term are g = w(t) (a_c eps(y) + a_n eps(y_neg) + a_0 eps(null) + a_e eps) with coefficients
that sum to 0: otherwise the noise itself would be written into x (METHODS 1.9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.objectives.base import Answer, Coefficients, Evaluation, Objective, Question
from threedgen.guidance.priors.processes import per_sample


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
    return per_sample(question.through_x0(), question.x) * (question.x - said.guided.x0)


class Reconstruction(Objective):
    """g = kappa (x - x0_hat), kappa = w alpha / sigma: SDS through x0 (MVDream, Shi et al. 2023, eq. 4).

    It stays finite at every t under its own weight (kappa = 1), and is the form that edits of x0 act on.
    """

    weighting: ClassVar[str] = "recon"
    divides: ClassVar[bool] = True

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


class HiFA(SDS):
    """SDS, and in image space g_I = image w alpha / sigma (I - decode(x0_hat)): HiFA (Zhu et al. 2023), eq. 8."""

    @dataclass(frozen=True)
    class Config:
        """image: weight of the image-space term, >= 0."""

        image: float = 0.1

        def __post_init__(self) -> None:
            if not 0.0 <= self.image < math.inf:
                raise UserError(f"image must be a number >= 0, got {self.image:g}")

    image_space: ClassVar[bool] = True
    divides: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, question: Question) -> Answer:
        if question.images is None:
            raise ValueError("hifa needs Question.images")
        said = question.evaluate()
        kappa = self.config.image * question.through_x0()
        difference = question.images - question.prior.decode(said.guided.x0)
        towards = per_sample(kappa, difference) * difference
        return Answer(_residual(question, said), said.guided.x0, image_gradient=towards)
