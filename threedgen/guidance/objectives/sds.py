"""Objectives with one batched call of the prior per step: SDS, recon, SJC, flow matching and HiFA.

All except the image term of HiFA are g = w(t) (a_c eps(y) + a_n eps(y_neg) + a_0 eps(null) + a_e eps) with
coefficients that sum to 0: otherwise the noise itself would be written into x (docs/methods.md, "Linear
combinations of branches").
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.settings import at_least, settings
from threedgen.guidance.objectives.base import Answer, Coefficients, Objective, Question
from threedgen.guidance.priors.base import Prediction
from threedgen.guidance.priors.processes import per_sample


def guided_coefficients(scale: float) -> Coefficients:
    """The coefficients of eps_hat - eps under classifier-free guidance."""
    return Coefficients(conditional=scale, negative=1.0 - scale, noise=-1.0)


class SDS(Objective):
    """g = w (eps_hat - eps), without the Jacobian of the network: DreamFusion (Poole et al. 2022), eq. 3."""

    def coefficients(self, question: Question) -> Coefficients:
        return guided_coefficients(question.scale)

    def __call__(self, question: Question) -> Answer:
        guided = question.evaluate().guided
        difference = guided.eps - question.eps
        return Answer(per_sample(question.weight(), difference) * difference, guided.x0)


def _residual(question: Question, guided: Prediction) -> Float[Tensor, "B C h w"]:
    """w alpha / sigma (x - x0_hat), which equals w (eps_hat - eps) (docs/methods.md, "Predictions and their
    conversions")."""
    return per_sample(question.through_x0(), question.x) * (question.x - guided.x0)


class Reconstruction(Objective):
    """g = kappa (x - x0_hat), kappa = w alpha / sigma: SDS through x0 (MVDream, Shi et al. 2023, eq. 4).

    It is finite at every t with its default weight (kappa = 1), and it is the form on which edits of x0 act.
    """

    weighting: ClassVar[str] = "recon"
    divides: ClassVar[bool] = True

    def coefficients(self, question: Question) -> Coefficients:
        return guided_coefficients(question.scale)

    def __call__(self, question: Question) -> Answer:
        guided = question.evaluate().guided
        return Answer(_residual(question, guided), guided.x0)


class SJC(Reconstruction):
    """g = (x - D(z)) / sigma_VE with sigma_VE = sigma / alpha: Score Jacobian Chaining (Wang et al. 2022).

    D is the denoiser of the variance-exploding form; the default weight is 1 on (eps_hat - eps).
    """

    weighting: ClassVar[str] = "sjc"


class FlowMatching(Objective):
    """g = w (v_hat - (eps - x)) with the rectified-flow velocity v = eps - x0 (docs/methods.md, "Rectified-flow
    velocity (flow)").

    It equals w / (1 - s) (eps_hat - eps) at flow time s = sigma / (alpha + sigma), and is finite at s = 1.
    """

    weighting: ClassVar[str] = "uniform"

    def __call__(self, question: Question) -> Answer:
        guided = question.evaluate().guided
        difference = guided.flow - (question.eps - question.x)
        return Answer(per_sample(question.weight(), difference) * difference, guided.x0)


class HiFA(SDS):
    """SDS plus a term in image space, g_I = image w alpha / sigma (I - decode(x0_hat)): HiFA (Zhu and Zhuang
    2023), eq. 8."""

    @settings
    class Config:
        """Options of HiFA.

        Attributes:
            image: Weight of the term in image space.
        """

        image: Annotated[float, at_least(0.0)] = 0.1

    image_space: ClassVar[bool] = True
    divides: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, question: Question) -> Answer:
        if question.images is None:
            raise ValueError("hifa needs Question.images")
        guided = question.evaluate().guided
        kappa = self.config.image * question.through_x0()
        difference = question.images - question.prior.decode(guided.x0)
        towards = per_sample(kappa, difference) * difference
        return Answer(_residual(question, guided), guided.x0, image_gradient=towards)
