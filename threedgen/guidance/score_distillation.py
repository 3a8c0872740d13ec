"""The guidance that asks a frozen diffusion model how a render should look (score distillation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from threedgen.cameras.reference import free_views
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.random import generator
from threedgen.core.roles import GuidanceRoles
from threedgen.core.schedule import RangeSchedule, Schedule, bounds, value_at
from threedgen.core.schedule_checks import numbers, require_numbers, require_times
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.guidance.motion_amplifier import amplified
from threedgen.guidance.objectives.base import (
    Question,
    WeightName,
    configure,
    drop_overflow,
    find_objective,
    inject,
    require_limits,
    weight_function,
)
from threedgen.guidance.priors.base import Condition, Prior
from threedgen.guidance.priors.guided import guidance_scale, preview_of
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.prompting.conditioning import Prompting, ViewConditions
from threedgen.guidance.timesteps import TimeOrder, timesteps

STREAM = "guidance/score-distillation"


class ScoreDistillation(nn.Module, GuidanceRoles):
    """L with dL/dx = g / B on the renders of a step; for SDS g = w(t) (eps_hat - eps) (METHODS 1.1).

    t and eps come from random.generator(seed, "guidance/score-distillation", step). An nn.Module for the sake of
    objectives that learn: its parameters and its state are theirs, and never the frozen prior's. Deterministic
    in (seed, step) and, for these, in what was learnt before.
    """

    prior_setting = "prior"
    reference_setting = "reference"

    @dataclass(frozen=True)
    class Config(Prompting):
        """objective: which gradient, a name (docs/objectives.md) or package.module:Class. prior: the frozen model.

        options:    of the objective, see its Config.
        scale:      uncond + scale (cond - uncond), a number or a schedule; null takes the prior's own.
        t:          [low, high] in [0, 1], or {from: [low, high], to: [low, high]}.
        t_order:    random, annealed, sqrt or dreamtime, see timesteps.
        group:      consecutive views that share one t and one rescale factor; 0 = all views of a step.
        weighting:  w(t), see objectives.WEIGHTS; null takes the objective's own.
        rescale:    share in [0, 1] of the contrast added by a large scale that is taken back (METHODS 1.13).
        clip_x0:    keep the prior's picture in the range of pictures; pixel priors only.
        amplify:    factor >= 0, a number or a schedule, on what tells a clip's frames apart in a video prior's
                    gradient (`motion_amplifier`; meant for the objective csd, which has no noise in it); 0: off.
        """

        objective: str = "sds"
        options: Mapping[str, Any] = field(default_factory=dict)
        prior: PriorConfig = field(default_factory=PriorConfig)
        scale: Schedule | None = None
        t: RangeSchedule = (0.02, 0.98)
        t_order: TimeOrder = "random"
        group: int = 0
        weighting: WeightName | None = None
        rescale: float = 0.0
        clip_x0: bool = False
        amplify: Schedule = 0.0

        def __post_init__(self) -> None:
            super().__post_init__()
            require_numbers(scale=self.scale, amplify=self.amplify)
            require_times(self.t)
            if not 0.0 <= self.rescale <= 1.0:
                raise UserError(f"rescale must lie between 0 and 1, got {self.rescale}")
            if bounds(self.amplify)[0] < 0.0:
                raise UserError(f"amplify must not be negative (0 is off), got {bounds(self.amplify)[0]:g}")
            if self.group < 0:
                raise UserError(f"group must be 0 (all views) or more, got {self.group}")
            kind = find_objective(self.objective)
            options = configure(self.objective, self.options)
            if (self.rescale or self.clip_x0) and not kind.edits_x0:
                name = "rescale" if self.rescale else "clip_x0"
                raise UserError(f"{name} has no effect on the objective '{self.objective}': leave it out")
            if self.rescale and self.scale is not None and set(numbers(self.scale)) == {1.0}:
                raise UserError("rescale has no effect at scale 1, which is no guidance: leave it out")
            # Perp-Neg asks for the unconditional branch, whatever the objective does.
            if self.negative and not any(numbers(self.perp_neg)) and not kind.reads_negative(options):
                raise UserError(
                    f"the objective '{self.objective}' never reads `negative` with these options: set "
                    "options.negative (docs/objectives.md), or leave it out"
                )

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        prior: Prior | None = None,
    ) -> None:
        """prior: an object to use instead of loading config.prior.

        Raises UserError when the prior cannot be loaded or does not fit the config.
        """
        super().__init__()
        self.config = config
        prior = load_prior(config.prior, device) if prior is None else prior
        # Past nn.Module, which would take a prior that is one for something that learns.
        object.__setattr__(self, "prior", prior)
        if config.clip_x0 and self.prior.latent:
            raise UserError("clip_x0 needs a prior that works on pixels: this one works on latents")
        self._conditions = ViewConditions(self.prior, config)
        self._frames: int = getattr(self.prior, "frames", 1)
        if self._frames == 1 and any(numbers(config.amplify)):
            raise UserError("amplify tells a clip's frames apart, but this prior sees pictures: leave it out")
        kind = find_objective(config.objective)
        self.objective = kind(configure(config.objective, config.options), self.prior)
        self._weighting = weight_function(config.weighting or kind.weighting)
        # An edited x0 becomes eps again by a division by sigma.
        divided = kind.divides or bool(config.rescale) or config.clip_x0
        require_limits(self.prior, config.t, self._weighting, plain=not kind.divides, divided=divided)

    prior: Prior

    def forward(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """What the prior says about the renders of `cameras` at `step` of `total` (`free_views` of them).

        The loss is differentiable in output.rgb. Metrics: t (mean), gradient (its length, mean over the
        views, in the prior's space), dropped (share of views whose gradient was not finite), the objective's own.
        Preview: the pictures the prior sees in the noised renders, side by side in the order of the views.
        """
        config = self.config
        output, cameras = free_views(output, cameras)
        condition = self._condition(prompt, cameras, step, total, output)
        x = self.prior.encode(output.rgb)
        group = config.group or len(x)
        if len(x) % group:
            raise UserError(f"guidance group {group} does not divide the {len(x)} views of a step")
        rng = generator(seed, STREAM, step)
        t = timesteps(config.t_order, config.t, self.prior, len(x), group, step, total, rng)
        images = resize_images(output.rgb, self.prior.image_size) if self.objective.image_space else None
        question = Question(
            prior=self.prior,
            x=x.detach(),
            eps=torch.randn(x.shape, generator=rng).to(x),
            t=t.to(device=x.device),
            condition=condition,
            prompt=prompt,
            scale=guidance_scale(self.prior, config.scale, step, total),
            weighting=self._weighting,
            group=group,
            rescale=config.rescale,
            clip_x0=config.clip_x0,
            images=None if images is None else images.detach(),
            step=step,
            total=total,
            seed=seed,
        )
        answer = self.objective(question)
        gradient = answer.gradient
        if self._frames > 1:
            factor = value_at(config.amplify, step, total)
            gradient = amplified(gradient, getattr(self.prior, "latent_frames", self._frames), factor)
        gradient, dropped = drop_overflow(gradient)
        loss = inject(x, gradient)
        if images is not None and answer.image_gradient is not None:
            loss = loss + inject(images, drop_overflow(answer.image_gradient)[0])
        metrics = {
            "t": t.mean().item(),
            "gradient": gradient.flatten(1).norm(dim=1).mean().item(),
            "loss": loss.item(),
            "dropped": dropped,
            **answer.metrics,
        }

        return Signal(loss, metrics, preview_of(self.prior, answer.x0))

    def _condition(
        self, prompt: str, cameras: Cameras, step: int, total: int, output: RenderOutput
    ) -> Condition:
        """What each sample shows: a view, or for a video prior a clip of as many views as it has frames."""
        if self._frames == 1:
            return self._conditions(prompt, cameras, step, total, output)
        still = bool((cameras.time == cameras.time[0]).all())
        if still or len(cameras) % self._frames:
            way = "name it by --video-prior of text-to-4d, or " if still else ""
            raise UserError(
                f"this video prior sees clips of {self._frames} frames, not {len(cameras)} views: {way}set "
                f"cameras.name=clips cameras.frames={self._frames}"
            )
        clips = self._conditions(prompt, cameras[:: self._frames], step, total)
        return replace(clips, times=cameras.time.reshape(-1, self._frames))
