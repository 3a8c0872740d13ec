"""Objectives of score distillation as plug-ins: from a `Question` about clean samples to an `Answer`, their
gradient.

An objective is a class with a frozen dataclass `Config` (the `options` of the guidance) that is called with a
Question. A third party subclasses `Objective` and writes `objective: package.module:Class` in a recipe. `inject`
turns the gradient into a loss: a sum over pixels and a mean over the batch (docs/methods.md, "From a gradient to a
loss").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.schedule import parse_range
from threedgen.core.settings import numbers, settings
from threedgen.core.transfer import Number
from threedgen.guidance.priors.base import Condition, Prediction, Prior
from threedgen.guidance.priors.guided import branches, guide, rescale
from threedgen.guidance.priors.processes import SMALLEST_LEVEL, per_sample, unit_levels
from threedgen.recipes import typed

_NO_LIMIT = 1e3  # a ratio above this at SMALLEST_LEVEL grows with 1 / level

WeightFunction = Callable[[Tensor, Tensor], Tensor]
WeightName = Literal["sds", "uniform", "fantasia3d", "recon", "ism", "sjc"]

# w(t) on (eps_hat - eps), from alpha and sigma of the variance-preserving sample (docs/methods.md, "Weights w(t)").
WEIGHTS: Mapping[str, WeightFunction] = MappingProxyType(
    {
        "sds": lambda alpha, sigma: sigma.square(),  # DreamFusion, DreamGaussian, ProlificDreamer
        "uniform": lambda alpha, sigma: torch.ones_like(sigma),  # Magic3D's coarse stage
        "fantasia3d": lambda alpha, sigma: alpha * sigma.square(),
        "recon": lambda alpha, sigma: sigma / alpha,  # MVDream: plain 1/2 |x - x0|^2
        "ism": lambda alpha, sigma: sigma / alpha,  # LucidDreamer
        "sjc": lambda alpha, sigma: torch.ones_like(sigma),  # Score Jacobian Chaining
    }
)


def weight_function(name: str) -> WeightFunction:
    """The named w(alpha, sigma). Raises UserError, which lists the names, for any other."""
    if name not in WEIGHTS:
        raise UserError(f"unknown weight '{name}': use one of {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def through_x0(
    weighting: WeightFunction, alpha: Float[Tensor, " B"], sigma: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """w alpha / sigma, with levels of at least SMALLEST_LEVEL."""
    alpha, sigma = alpha.clamp_min(SMALLEST_LEVEL), sigma.clamp_min(SMALLEST_LEVEL)
    return weighting(*unit_levels(alpha, sigma)) * alpha / sigma


def require_limits(
    prior: Prior, times: object, weighting: WeightFunction, *, plain: bool = True, divided: bool = False
) -> None:
    """Raises UserError if t reaches 0 or 1, the prior has no noise or no signal there, and the weight has no limit.

    times: a range schedule. plain, divided: whether the objective uses w itself, and w alpha / sigma.
    """
    bottom, top = parse_range(times)
    for end in (min(numbers(bottom)), max(numbers(top))):
        t = torch.tensor([end], dtype=torch.float64)
        alpha, sigma = prior.alpha(t).double().cpu(), prior.sigma(t).double().cpu()
        if float(torch.minimum(alpha, sigma)) >= SMALLEST_LEVEL:
            continue
        weights = [weighting(*unit_levels(alpha, sigma))] if plain else []
        weights += [through_x0(weighting, alpha, sigma)] if divided else []
        if any(float(weight) > _NO_LIMIT for weight in weights):
            side = "below 1" if float(alpha) < float(sigma) else "above 0"
            raise UserError(
                f"t reaches {end:g}, where the weight of this objective grows without limit with this prior: keep "
                f"t {side} (0.02 to 0.98 for example), or set weighting=sds"
            )


@dataclass(frozen=True)
class GuidedPrediction:
    """A noised batch and the predictions of the prior for it. Tensors [B, C, h, w] without a graph.

    alpha, sigma: [B]. conditional, unconditional, null: the branches of the prompt, of the negative prompt and of
    the empty text; None for a branch that was not computed. guided: their combination under guidance, after
    rescale and clip, which most objectives follow.
    """

    z: Float[Tensor, "B C h w"]
    alpha: Float[Tensor, " B"]
    sigma: Float[Tensor, " B"]
    conditional: Prediction
    unconditional: Prediction | None
    null: Prediction | None
    guided: Prediction


@dataclass(frozen=True)
class Question:
    """The input of an objective at a step: in which direction should x move?

    prior:     the frozen model. x: clean samples in its space, detached. eps: noise ~ N(0, I). t: [B] in [0, 1].
    condition: what each sample should show. prompt: the text without words for the view.
    scale:     uncond + scale (cond - uncond). weighting: w(alpha, sigma). rescale, clip_x0: edits of the guided x0.
    group:     number of consecutive samples that are views of one object with one t.
    images:    the renders at prior.image_size, [B, S, S, 3] in [0, 1]; None for objectives without `image_space`.
    step, total, seed: of the run; every random draw except eps and t comes from `generator`.
    """

    prior: Prior
    x: Float[Tensor, "B C h w"]
    eps: Float[Tensor, "B C h w"]
    t: Float[Tensor, " B"]
    condition: Condition
    prompt: str = ""
    scale: float = 1.0
    weighting: WeightFunction = WEIGHTS["sds"]
    group: int = 1
    rescale: float = 0.0
    clip_x0: bool = False
    images: Float[Tensor, "B S S 3"] | None = None
    step: int = 0
    total: int = 1
    seed: int = 0

    def weight(self) -> Float[Tensor, " B"]:
        """w(t), the same for all forms (VP, VE, flow) of a prior at the same ratio of noise to signal."""
        return self.weighting(*unit_levels(self.prior.alpha(self.t), self.prior.sigma(self.t)))

    def through_x0(self) -> Float[Tensor, " B"]:
        """w alpha / sigma, the factor that turns (x - x0_hat) into w (eps_hat - eps).

        If alpha or sigma is 0 it is the limit, because the formula would give 0 times infinity (for example a flow
        at t = 1 with w = sigma / alpha, where the limit is 1). See require_limits for weights without a limit.
        """
        return through_x0(self.weighting, self.prior.alpha(self.t), self.prior.sigma(self.t))

    def generator(self, stream: str) -> torch.Generator:
        """The random stream of an objective at this step, see random.generator."""
        return generator(self.seed, stream, self.step)

    def noised(self) -> Float[Tensor, "B C h w"]:
        """x at level t."""
        return self.prior.add_noise(self.x, self.eps, self.t)

    @torch.no_grad()
    def evaluate(
        self,
        z: Float[Tensor, "B C h w"] | None = None,
        *,
        unconditional: bool = False,
        null: bool = False,
    ) -> GuidedPrediction:
        """The predictions of the prior for z (by default x noised to t), with all branches in one batch.

        unconditional, null: compute these branches even if guidance does not need them.
        """
        z = self.noised() if z is None else z
        alpha, sigma = self.prior.alpha(self.t), self.prior.sigma(self.t)
        answer = branches(
            self.prior,
            z,
            self.t,
            self.condition,
            unconditional=unconditional or self.scale != 1.0,
            null=null,
        )
        guided = answer.conditional
        if answer.unconditional is not None and self.scale != 1.0:
            guided = guide(guided, answer.unconditional, self.scale)
            if self.rescale > 0.0:
                guided = rescale(guided, answer.conditional, z, alpha, sigma, self.rescale, self.group)
        if self.clip_x0:
            guided = Prediction.from_x0(z, guided.x0.clamp(-1.0, 1.0), alpha, sigma)
        return GuidedPrediction(
            z, alpha, sigma, answer.conditional, answer.unconditional, answer.null, guided
        )


@dataclass(frozen=True)
class Answer:
    """The output of an objective.

    gradient: d loss / d x times the batch size, for gradient descent, in the dtype of x and without a graph. x0:
    the sample that the prior predicts, for previews. metrics: further numbers to report. image_gradient: as
    gradient, but with respect to Question.images, for objectives with `image_space`.
    """

    gradient: Float[Tensor, "B C h w"]
    x0: Float[Tensor, "B C h w"]
    metrics: Mapping[str, Number] = field(default_factory=dict)
    image_gradient: Float[Tensor, "B S S 3"] | None = None


@dataclass(frozen=True)
class Coefficients:
    """Those of g = w (a_c eps(y) + a_n eps(y_neg) + a_0 eps(null) + a_e eps), each a number or [B]
    (docs/methods.md, "Linear combinations of branches")."""

    conditional: float | Tensor
    negative: float | Tensor = 0.0
    null: float | Tensor = 0.0
    noise: float | Tensor = 0.0

    def gradient(self, question: Question, predicted: GuidedPrediction) -> Float[Tensor, "B C h w"]:
        """w(t) times the combination; a branch that was not computed must have the coefficient 0."""
        terms = [
            (self.conditional, predicted.conditional.eps),
            (self.negative, None if predicted.unconditional is None else predicted.unconditional.eps),
            (self.null, None if predicted.null is None else predicted.null.eps),
            (self.noise, question.eps),
        ]
        weight = question.weight()
        gradient = torch.zeros_like(question.x)
        for share, eps in terms:
            if eps is not None:
                gradient = gradient + per_sample(weight * share, eps) * eps
        return gradient


class Objective:
    """The base of an objective; subclasses are called with a Question and return an Answer.

    weighting:   the name of the w(t) of the paper, which is used if a recipe names none.
    edits_x0:    False if there is no guided x0, so that rescale and clip_x0 would have no effect.
    image_space: True if Question.images is needed.
    divides:     True if the gradient is w alpha / sigma (x - x0_hat), so that this factor must have a limit.
    An objective that learns is an nn.Module too: its state_dict holds everything that a resumed run needs.
    """

    @settings
    class Config:
        """This objective has no options."""

    weighting: ClassVar[str] = "sds"
    edits_x0: ClassVar[bool] = True
    image_space: ClassVar[bool] = False
    divides: ClassVar[bool] = False

    @classmethod
    def reads_negative(cls, config: Any) -> bool:
        """Whether it ever uses the negative prompt, with these options."""
        return True

    def __init__(self, config: Any, prior: Prior) -> None:
        """Raises UserError if the objective cannot work with this prior."""
        self.config = config

    def __call__(self, question: Question) -> Answer:
        raise NotImplementedError

    def coefficients(self, question: Question) -> Coefficients | None:
        """Those of an objective that combines branches and noise linearly; None for other objectives."""
        return None


def find_objective(name: str) -> type[Objective]:
    """The class of a built-in or installed name, or of `package.module:Class`. Raises UserError for any other."""
    return plugins.find("objective", name)


def configure(name: str, options: Mapping[str, Any]) -> Any:
    """The Config of an objective from the `options` of a recipe. Raises UserError for unknown or wrong options."""
    return typed.build(find_objective(name).Config, options, "options")


def inject(x: Float[Tensor, "B ..."], gradient: Float[Tensor, "B ..."]) -> Float[Tensor, ""]:
    """A loss whose gradient with respect to x is gradient / B, to the last bit.

    Its value is half the squared length of the gradient, per sample. That is also the value of the usual form
    1/2 |x - (x - g)|^2, whose difference loses the low bits of a gradient that is small beside x.
    """
    gradient = gradient.detach()
    linear = (gradient * (x - x.detach())).sum()
    return (linear + 0.5 * gradient.square().sum()) / x.shape[0]


def drop_overflow(gradient: Float[Tensor, "B ..."]) -> tuple[Float[Tensor, "B ..."], Float[Tensor, ""]]:
    """The gradient with zeros for each view that overflowed (which half precision sometimes does), and their share.

    If all views overflowed, something is broken, and the gradient stays as it is so that the watchdog finds it.
    """
    bad = ~gradient.isfinite().flatten(1).all(dim=1)
    dropped = (bad & ~bad.all()).reshape(-1, *(1,) * (gradient.ndim - 1))
    # A copy keeps the order of the gradient in memory, and with it the order of later sums.
    return gradient.clone().masked_fill_(dropped, 0.0), bad.float().mean()
