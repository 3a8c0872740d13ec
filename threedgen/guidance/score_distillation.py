"""Score distillation as guidance: the gradient of a render from a frozen diffusion model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.cameras.reference import free_views
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.random import generator
from threedgen.core.roles import GuidanceRoles
from threedgen.core.schedule import RangeSchedule, Schedule, value_at
from threedgen.core.schedule_checks import require_times
from threedgen.core.settings import SettingError, at_least, between, finite, numbers, settings
from threedgen.core.transfer import on_cpu, sent, sent_as
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
from threedgen.guidance.priors.base import Condition, Prior, roles_of
from threedgen.guidance.priors.guided import guidance_scale, preview_of
from threedgen.guidance.priors.linear_latents import (
    LinearLatents,
    fit_linear_latents,
    require_picture_latents,
)
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.prompting.conditioning import Prompting, ViewConditions
from threedgen.guidance.timesteps import TimeOrder, timesteps

STREAM = "guidance/score-distillation"


class ScoreDistillation(nn.Module, GuidanceRoles):
    """L with dL/dx = g / B on the renders of a step; for SDS g = w(t) (eps_hat - eps) (DreamFusion, Poole et al.
    2022, eq. 3).

    t and eps come from random.generator(seed, "guidance/score-distillation", step). It is an nn.Module for
    objectives that learn: its parameters and its state are those of the objective, never those of the frozen prior.
    Deterministic in (seed, step) and in what the objective has learned before.
    """

    prior_setting = "prior"
    reference_setting = "reference"

    @settings
    class Config(Prompting):
        """Settings of score distillation.

        Attributes:
            objective: Rule of the gradient, by name (docs/objectives.md) or as package.module:Class.
            options: Options of the objective.
            prior: The frozen diffusion model.
            scale: Scale of classifier-free guidance, uncond + scale (cond - uncond), a number or a schedule; null
                is the default of the prior.
            t: Range [low, high] of the noise level, or a schedule {from: [low, high], to: [low, high]}.
            t_order: Order of the noise levels over the run. random draws them; annealed, sqrt and dreamtime go from
                the highest to the lowest.
            group: Number of consecutive views with a common t and a common factor of `rescale`; 0 is all views of a
                step.
            weighting: Weight w(t) of the gradient by name; null is the default of the objective.
            rescale: Share that is removed of the contrast that a large scale adds (Lin et al. 2024).
            clip_x0: Clip the predicted clean picture to the range of pictures; only for priors on pixels.
            amplify: Factor on the difference of the frames of a clip in the gradient of a video prior, a number
                or a schedule; 0 is off. It is meant for the objective csd, whose gradient contains no noise.
            linear_until: Share of the run, at its start, in which a linear map of colours that is fitted to the
                autoencoder of the prior takes the encoder's place: most of the time of the encoder is saved, and
                the gradient knows no detail finer than a pixel of the latents.
        """

        objective: str = "sds"
        options: Mapping[str, Any] = field(default_factory=dict)
        prior: PriorConfig = field(default_factory=PriorConfig)
        scale: Annotated[Schedule | None, finite] = None
        t: Annotated[RangeSchedule, between(0.0, 1.0)] = (0.02, 0.98)
        t_order: TimeOrder = "random"
        group: Annotated[int, at_least(0)] = 0
        weighting: WeightName | None = None
        rescale: Annotated[float, between(0.0, 1.0)] = 0.0
        clip_x0: bool = False
        amplify: Annotated[Schedule, at_least(0.0)] = 0.0
        linear_until: Annotated[float, between(0.0, 1.0)] = 0.0

        def __post_init__(self) -> None:
            require_times(self.t)
            kind = find_objective(self.objective)
            options = configure(self.objective, self.options)
            if (self.rescale or self.clip_x0) and not kind.edits_x0:
                raise SettingError(
                    "rescale" if self.rescale else "clip_x0",
                    f"has no effect on the objective '{self.objective}': leave it out",
                )
            if self.rescale and self.scale is not None and set(numbers(self.scale)) == {1.0}:
                raise SettingError("rescale", "has no effect at scale 1, which is no guidance: leave it out")
            # Perp-Neg needs the unconditional branch, whatever the objective does.
            if self.negative and not any(numbers(self.perp_neg)) and not kind.reads_negative(options):
                raise SettingError(
                    "negative",
                    f"has no effect on the objective '{self.objective}' with these options: set options.negative "
                    "(docs/objectives.md), or leave it out",
                )

    def __init__(
        self,
        config: Config,
        device: torch.device | str = "cpu",
        prior: Prior | None = None,
    ) -> None:
        """prior: an object to use instead of loading config.prior.

        Raises UserError if the prior cannot be loaded or does not fit the config.
        """
        super().__init__()
        self.config = config
        prior = load_prior(config.prior, device) if prior is None else prior
        # Not an attribute of nn.Module, which would register a prior that is a module as one that learns.
        object.__setattr__(self, "prior", prior)
        if config.clip_x0 and self.prior.latent:
            raise UserError("clip_x0 needs a prior that works on pixels: this one works on latents")
        self._conditions = ViewConditions(self.prior, config)
        roles = roles_of(prior)
        self._frames, self._latent_frames = roles.frames, roles.latent_frames or roles.frames
        if self._frames == 1 and any(numbers(config.amplify)):
            raise UserError("amplify has no effect, because this prior takes single pictures: leave it out")
        if config.linear_until:
            require_picture_latents(prior)
        self._linear: LinearLatents | None = None  # fitted when it is first needed: that takes some encodings
        kind = find_objective(config.objective)
        self.objective = kind(configure(config.objective, config.options), self.prior)
        self._weighting = weight_function(config.weighting or kind.weighting)
        # An edited x0 is converted back to eps by a division by sigma.
        divided = kind.divides or bool(config.rescale) or config.clip_x0
        require_limits(self.prior, config.t, self._weighting, plain=not kind.divides, divided=divided)

    prior: Prior

    def forward(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """The loss on the renders of `cameras` at `step` of `total`, without those of given pictures
        (`free_views`).

        The loss is differentiable in output.rgb. Metrics: t (mean), gradient (its length in the space of the prior,
        mean over the views), dropped (share of views whose gradient was not finite), and those of the objective.
        Preview: the pictures that the prior predicts from the noised renders, side by side in the order of the
        views.
        """
        config = self.config
        output, cameras = free_views(output, cameras)
        condition = self._condition(prompt, cameras, step, total, output)
        x = self._encoded(output.rgb, step, total)
        group = config.group or len(x)
        if len(x) % group:
            raise UserError(f"guidance group {group} does not divide the {len(x)} views of a step")
        rng = generator(seed, STREAM, step)
        t = timesteps(config.t_order, config.t, self.prior, len(x), group, step, total, rng)
        images = resize_images(output.rgb, self.prior.image_size) if self.objective.image_space else None
        question = Question(
            prior=self.prior,
            x=x.detach(),
            eps=sent_as(torch.randn(x.shape, generator=rng), x),
            t=sent(t, x.device),
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
            gradient = amplified(gradient, self._latent_frames, factor)
        gradient, dropped = drop_overflow(gradient)
        loss = inject(x, gradient)
        if images is not None and answer.image_gradient is not None:
            loss = loss + inject(images, drop_overflow(answer.image_gradient)[0])
        metrics = {
            "t": t.mean().item(),
            "gradient": gradient.flatten(1).norm(dim=1).mean(),
            "loss": loss.detach(),
            "dropped": dropped,
            **answer.metrics,
        }

        return Signal(loss, metrics, preview_of(self.prior, answer.x0))

    def _encoded(self, images: Float[Tensor, "B H W 3"], step: int, total: int) -> Float[Tensor, "B C h w"]:
        if step >= self.config.linear_until * total:
            return self.prior.encode(images)
        if self._linear is None:
            self._linear = fit_linear_latents(self.prior, images.device)
        return self._linear.encode(images)

    def _condition(
        self, prompt: str, cameras: Cameras, step: int, total: int, output: RenderOutput
    ) -> Condition:
        """The condition of each sample: a view, or for a video prior a clip of as many views as it has frames."""
        if self._frames == 1:
            return self._conditions(prompt, cameras, step, total, output)
        times = on_cpu(cameras.time)
        still = bool((times == times[0]).all())
        if still or len(cameras) % self._frames:
            way = "name it with --video-prior of text-to-4d, or " if still else ""
            raise UserError(
                f"this video prior needs clips of {self._frames} frames, not {len(cameras)} views: {way}set "
                f"cameras.name=clips cameras.frames={self._frames}"
            )
        clips = self._conditions(prompt, cameras[:: self._frames], step, total)
        return replace(clips, times=cameras.time.reshape(-1, self._frames))
