"""The guidance that asks a frozen diffusion model how a render should look (score distillation)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.errors import UserError
from threedgen.guidance import objectives
from threedgen.guidance.conditioning import ViewConditions
from threedgen.guidance.priors.base import Prior
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.random import generator
from threedgen.schedule import RangeSchedule, Schedule, progress, range_at, value_at
from threedgen.types import Cameras, RenderOutput, Signal


class ScoreDistillation:
    """L with dL/dx = w(t) (eps_hat - eps) / B on the renders of a step (METHODS 1.1).

    Deterministic: t and eps come from random.generator(seed, "guidance/score-distillation", step).
    """

    @dataclass(frozen=True)
    class Config:
        """objective: which gradient. prior: which frozen model.

        scale:      uncond + scale (cond - uncond), a number or a schedule; null takes the prior's own.
        t:          [low, high] in [0, 1], or {from: [low, high], to: [low, high]}.
        t_order:    random: uniform in the range. annealed: from the first range's top straight down to the
                    last range's bottom, without chance (DreamGaussian).
        group:      consecutive views that share one t and one rescale factor; 0 = all views of a step.
        weighting:  w(t), see objectives.WEIGHTS.
        rescale:    share in [0, 1] of the contrast added by a large scale that is taken back (METHODS 1.13).
        clip_x0:    keep the prior's picture in the range of pictures; pixel priors only.
        negative:   text of the unconditional branch.
        view_prompts: append ", front view" and so on to the prompt; auto: unless the prior knows cameras.
        view_convention: where front, side, back and overhead begin, see prompts.CONVENTIONS.
        """

        objective: Literal["sds", "recon"] = "sds"
        prior: PriorConfig = field(default_factory=PriorConfig)
        scale: Schedule | None = None
        t: RangeSchedule = (0.02, 0.98)
        t_order: Literal["random", "annealed"] = "random"
        group: int = 0
        weighting: Literal["sds", "uniform", "fantasia3d", "recon", "ism", "sjc"] = "sds"
        rescale: float = 0.0
        clip_x0: bool = False
        negative: str = ""
        view_prompts: Literal["auto", "always", "never"] = "auto"
        view_convention: Literal["dreamfusion", "mvdream", "dreamgaussian"] = "dreamfusion"

        def __post_init__(self) -> None:
            bounds = [range_at(self.t, step, 101) for step in range(101)]
            for low, high in bounds:
                if not 0.0 <= low <= high <= 1.0:
                    raise UserError(f"t must be a range [low, high] inside [0, 1], got [{low:g}, {high:g}]")
            if not 0.0 <= self.rescale <= 1.0:
                raise UserError(f"rescale must lie between 0 and 1, got {self.rescale}")
            if self.group < 0:
                raise UserError(f"group must be 0 (all views) or more, got {self.group}")

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        prior: Prior | None = None,
    ) -> None:
        """prior: an object to use instead of loading config.prior.

        Raises UserError when the prior cannot be loaded or does not fit the config.
        """
        self.config = config
        self.prior = load_prior(config.prior, device) if prior is None else prior
        if config.clip_x0 and self.prior.latent:
            raise UserError("clip_x0 needs a prior that works on pixels: this one works on latents")
        self._conditions = ViewConditions(
            self.prior, config.negative, config.view_prompts, config.view_convention
        )
        self._objective = objectives.objective(config.objective)
        self._weighting = objectives.weight_function(config.weighting)

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """What the prior says about the renders of `cameras` at `step` of `total`.

        The loss is differentiable in output.rgb. Metrics: t (mean), gradient (its length, mean over the
        views, in the prior's space), dropped (share of views whose gradient was not finite).
        Preview: the pictures the prior sees in the noised renders, side by side in the order of the views.
        """
        config = self.config
        condition = self._conditions(prompt, cameras)
        x = self.prior.encode(output.rgb)
        group = config.group or len(x)
        if len(x) % group:
            raise UserError(f"guidance group {group} does not divide the {len(x)} views of a step")
        rng = generator(seed, "guidance/score-distillation", step)
        t = self._timesteps(len(x), group, step, total, rng).to(device=x.device)
        eps = torch.randn(x.shape, generator=rng).to(x)
        scale = self.prior.default_scale if config.scale is None else value_at(config.scale, step, total)
        evaluation = objectives.evaluate(
            self.prior, x, eps, t, condition, scale, config.rescale, group, config.clip_x0
        )
        weight = self._weighting(evaluation.alpha, evaluation.sigma)
        gradient, dropped = _drop_overflow(self._objective(evaluation, weight))
        loss = objectives.inject(x, gradient)
        metrics = {
            "t": t.mean().item(),
            "gradient": gradient.flatten(1).norm(dim=1).mean().item(),
            "loss": loss.item(),
            "dropped": dropped,
        }
        x0 = evaluation.guided.x0

        @torch.no_grad()
        def preview() -> Float[Tensor, "H W 3"]:
            return torch.cat(list(self.prior.decode(x0).clamp(0.0, 1.0)), dim=1)

        return Signal(loss, metrics, preview)

    def _timesteps(
        self, count: int, group: int, step: int, total: int, rng: torch.Generator
    ) -> Float[Tensor, " B"]:
        if self.config.t_order == "annealed":
            top, bottom = range_at(self.config.t, 0, total)[1], range_at(self.config.t, total - 1, total)[0]
            return torch.full((count,), top + (bottom - top) * progress(step, total))
        low, high = range_at(self.config.t, step, total)
        draws = torch.rand(count // group, generator=rng)
        return (low + (high - low) * draws).repeat_interleave(group)


def _drop_overflow(gradient: Float[Tensor, "B ..."]) -> tuple[Float[Tensor, "B ..."], float]:
    """Zero the views whose gradient overflowed (half precision does it now and then); their share.

    When every view is bad something is broken, and the values stay for the watchdog to see.
    """
    bad = ~gradient.isfinite().flatten(1).all(dim=1)
    share = bad.float().mean().item()
    if 0.0 < share < 1.0:
        gradient = gradient.clone()
        gradient[bad] = 0.0
    return gradient, share
