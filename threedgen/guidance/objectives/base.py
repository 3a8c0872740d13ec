"""Score distillation objectives as plug-ins: a `Question` about clean samples -> an `Answer`, their gradient.

An objective is a class with a frozen `Config` dataclass (the guidance's `options`) that is called with a Question.
A third party subclasses `Objective` and writes `objective: package.module:Class` in a recipe. `inject` turns the
gradient into a loss. Reductions follow the field's convention: sum over pixels, mean over the batch (METHODS 0.5).
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
from threedgen.core.schedule_checks import numbers
from threedgen.guidance.priors.base import Condition, Prediction, Prior
from threedgen.guidance.priors.guided import branches, guide, rescale
from threedgen.guidance.priors.processes import SMALLEST_LEVEL, per_sample, unit_levels
from threedgen.recipes import typed

_NO_LIMIT = 1e3  # a ratio at SMALLEST_LEVEL that is larger grows with 1 / level

WeightFunction = Callable[[Tensor, Tensor], Tensor]
WeightName = Literal["sds", "uniform", "fantasia3d", "recon", "ism", "sjc"]

# w(t) on (eps_hat - eps), from alpha and sigma of the variance-preserving sample (METHODS 1.3).
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
    """The named w(alpha, sigma); UserError lists the names when it is unknown."""
    if name not in WEIGHTS:
        raise UserError(f"unknown weight '{name}': use one of {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def through_x0(
    weighting: WeightFunction, alpha: Float[Tensor, " B"], sigma: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """w alpha / sigma with levels of at least SMALLEST_LEVEL."""
    alpha, sigma = alpha.clamp_min(SMALLEST_LEVEL), sigma.clamp_min(SMALLEST_LEVEL)
    return weighting(*unit_levels(alpha, sigma)) * alpha / sigma


def require_limits(
    prior: Prior, times: object, weighting: WeightFunction, *, plain: bool = True, divided: bool = False
) -> None:
    """UserError when t reaches 0 or 1, the prior has no noise or no signal left there, and the weight has no limit.

    times: a range schedule. plain, divided: whether w itself and whether w alpha / sigma is asked for.
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
                f"t {side} (0.02 to 0.98, say), or set weighting=sds"
            )


@dataclass(frozen=True)
class Evaluation:
    """A noised batch and what the prior said about it. Tensors [B, C, h, w], no graph.

    alpha, sigma: [B]. conditional: the prompt's branch. unconditional: the negative prompt's. null: the empty
    text's. None where nobody asked. guided: their combination after rescale and clip, what most objectives follow.
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
    """What an objective is asked at a step: in which direction should x move?

    prior:     the frozen model. x: clean samples in its space, detached. eps: noise ~ N(0, I). t: [B] in [0, 1].
    condition: what each sample shall show. prompt: the text without words for the view.
    scale:     uncond + scale (cond - uncond). weighting: w(alpha, sigma). rescale, clip_x0: edit the guided x0.
    group:     consecutive samples that are views of one object at one t.
    images:    the renders at prior.image_size, [B, S, S, 3] in [0, 1], where `image_space` is set, else None.
    step, total, seed: of the run; every draw beyond eps and t comes from `generator`.
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
        """w(t), the same for every form (VP, VE, flow) of one prior at the same ratio of noise to signal."""
        return self.weighting(*unit_levels(self.prior.alpha(self.t), self.prior.sigma(self.t)))

    def through_x0(self) -> Float[Tensor, " B"]:
        """w alpha / sigma, the factor on (x - x0_hat) that makes it w (eps_hat - eps).

        Where alpha or sigma is 0 it is the limit: as it stands it would be 0 times infinity (a flow at t = 1 under
        w = sigma / alpha, for which it is 1). See require_limits for the weights that have none.
        """
        return through_x0(self.weighting, self.prior.alpha(self.t), self.prior.sigma(self.t))

    def generator(self, stream: str) -> torch.Generator:
        """Draws of an objective's own, see random.generator."""
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
    ) -> Evaluation:
        """What the prior says about z (x noised to t by default), all branches in one batch.

        unconditional, null: ask for these branches even where guidance does not need them.
        """
        z = self.noised() if z is None else z
        alpha, sigma = self.prior.alpha(self.t), self.prior.sigma(self.t)
        said = branches(
            self.prior,
            z,
            self.t,
            self.condition,
            unconditional=unconditional or self.scale != 1.0,
            null=null,
        )
        guided = said.conditional
        if said.unconditional is not None and self.scale != 1.0:
            guided = guide(guided, said.unconditional, self.scale)
            if self.rescale > 0.0:
                guided = rescale(guided, said.conditional, z, alpha, sigma, self.rescale, self.group)
        if self.clip_x0:
            guided = Prediction.from_x0(z, guided.x0.clamp(-1.0, 1.0), alpha, sigma)
        return Evaluation(z, alpha, sigma, said.conditional, said.unconditional, said.null, guided)


@dataclass(frozen=True)
class Answer:
    """gradient: d loss / d x times the batch size, to be descended, in x's dtype and without a graph.

    x0: the picture the prior sees, for previews. metrics: numbers of this objective's own.
    image_gradient: the same as gradient for Question.images, for objectives with `image_space`.
    """

    gradient: Float[Tensor, "B C h w"]
    x0: Float[Tensor, "B C h w"]
    metrics: Mapping[str, float] = field(default_factory=dict)
    image_gradient: Float[Tensor, "B S S 3"] | None = None


@dataclass(frozen=True)
class Coefficients:
    """Of g = w (a_c eps(y) + a_n eps(y_neg) + a_0 eps(null) + a_e eps): each a number or [B] (METHODS 1.9)."""

    conditional: float | Tensor
    negative: float | Tensor = 0.0
    null: float | Tensor = 0.0
    noise: float | Tensor = 0.0

    def gradient(self, question: Question, said: Evaluation) -> Float[Tensor, "B C h w"]:
        """w(t) times the combination; a branch that was not asked for must have the coefficient 0."""
        terms = [
            (self.conditional, said.conditional.eps),
            (self.negative, None if said.unconditional is None else said.unconditional.eps),
            (self.null, None if said.null is None else said.null.eps),
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

    weighting:   the name of w(t) that the paper uses, taken where a recipe names none.
    edits_x0:    False where there is no guided x0, so that rescale and clip_x0 would have no effect.
    image_space: True where Question.images is needed.
    divides:     True where the gradient is w alpha / sigma (x - x0_hat), so that this factor must have a limit.
    What learns is an nn.Module too: its state_dict holds everything that a resumed run needs.
    """

    @dataclass(frozen=True)
    class Config:
        """No options."""

    weighting: ClassVar[str] = "sds"
    edits_x0: ClassVar[bool] = True
    image_space: ClassVar[bool] = False
    divides: ClassVar[bool] = False

    @classmethod
    def reads_negative(cls, config: Any) -> bool:
        """Whether it ever asks for the negative prompt, with these options."""
        return True

    def __init__(self, config: Any, prior: Prior) -> None:
        """Raises UserError where the objective cannot work with this prior."""
        self.config = config

    def __call__(self, question: Question) -> Answer:
        raise NotImplementedError

    def coefficients(self, question: Question) -> Coefficients | None:
        """Those of an objective that combines branches and noise linearly, None for the others."""
        return None


def find_objective(name: str) -> type[Objective]:
    """The class of a built-in or installed name, or of `package.module:Class`; UserError lists the names."""
    return plugins.find("objective", name)


def configure(name: str, options: Mapping[str, Any]) -> Any:
    """The objective's Config from a recipe's `options`; UserError names the nearest key of a misspelt one."""
    return typed.build(find_objective(name).Config, options, "options")


def inject(x: Float[Tensor, "B ..."], gradient: Float[Tensor, "B ..."]) -> Float[Tensor, ""]:
    """A loss whose gradient with respect to x is gradient / B, to the last bit (METHODS 0.5).

    Its value is half the squared length of the gradient, per sample, as in the target trick
    1/2 |x - (x - g)|^2, whose difference would lose the low bits of a gradient that is small beside x.
    """
    gradient = gradient.detach()
    linear = (gradient * (x - x.detach())).sum()
    return (linear + 0.5 * gradient.square().sum()) / x.shape[0]


def drop_overflow(gradient: Float[Tensor, "B ..."]) -> tuple[Float[Tensor, "B ..."], float]:
    """Zero the views whose gradient overflowed (half precision does it now and then); their share.

    When every view is bad something is broken, and the values stay for the watchdog to see.
    """
    bad = ~gradient.isfinite().flatten(1).all(dim=1)
    share = bad.float().mean().item()
    if 0.0 < share < 1.0:
        gradient = gradient.clone()
        gradient[bad] = 0.0
    return gradient, share
