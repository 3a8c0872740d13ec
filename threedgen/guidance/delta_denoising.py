"""Editing as guidance: towards a prompt, and away from a source prompt that describes the given pictures.

Delta denoising score (Hertz et al. 2023): the error of score distillation for a render is also its error for the
given picture of the same view, and the difference cancels it.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.roles import GuidanceRoles
from threedgen.core.schedule import RangeSchedule, Schedule
from threedgen.core.schedule_checks import require_times
from threedgen.core.settings import between, finite, settings
from threedgen.core.transfer import on_cpu, rows, sent, sent_as
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.datasets.given import read_pictures
from threedgen.guidance.given_pictures import require_white
from threedgen.guidance.objectives.base import (
    WeightName,
    drop_overflow,
    inject,
    require_limits,
    weight_function,
)
from threedgen.guidance.priors.base import Condition, Prediction, Prior
from threedgen.guidance.priors.guided import guidance_scale, guided_prediction, preview_of
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.priors.processes import per_sample, unit_levels
from threedgen.guidance.prompting.conditioning import Prompting, ViewConditions
from threedgen.guidance.timesteps import TimeOrder, timesteps

STREAM = "guidance/delta-denoising"


class DeltaDenoising(GuidanceRoles):
    """L with dL/dx = w(t) (eps_hat(z; y) - eps_hat(z'; y')) / B; z and z' are render and picture with the same
    noise.

    Deterministic: t and eps come from random.generator(seed, "guidance/delta-denoising", step).
    """

    prior_setting = "prior"
    reference_setting = "reference"

    @settings
    class Config(Prompting):
        """Settings of editing by delta denoising.

        Attributes:
            source: Prompt that describes the given pictures.
            path: Folder of the given pictures, the same as cameras.path.
            prior: The frozen diffusion model.
            scale: Scale of classifier-free guidance, uncond + scale (cond - uncond), a number or a schedule; null
                is the default of the prior.
            t: Range [low, high] of the noise level, or a schedule {from: [low, high], to: [low, high]}.
            t_order: Order of the noise levels over the run. random draws them; annealed, sqrt and dreamtime go from
                the highest to the lowest.
            weighting: Weight w(t) of the gradient by name.
        """

        source: str = ""
        path: str = ""
        prior: PriorConfig = field(default_factory=PriorConfig)
        scale: Annotated[Schedule | None, finite] = None
        t: Annotated[RangeSchedule, between(0.0, 1.0)] = (0.02, 0.98)
        t_order: TimeOrder = "random"
        weighting: WeightName = "sds"

        def __post_init__(self) -> None:
            require_times(self.t)

    def __init__(
        self, config: Config, device: torch.device | str = "cpu", prior: Prior | None = None
    ) -> None:
        """prior: an object to use instead of loading config.prior.

        Raises UserError if the prior or the pictures cannot be loaded, or if source is missing.
        """
        if not config.source:
            raise UserError(
                'the guidance "delta-denoising" needs `source`: a prompt that describes the given pictures'
            )
        if not config.path:
            raise UserError(
                'the `path` of guidance "delta-denoising" names no folder of pictures: set it to that of '
                "cameras.path"
            )
        self.config = config
        self.images = read_pictures(config.path).images.to(device)
        self.prior = load_prior(config.prior, device) if prior is None else prior
        self._target = ViewConditions(self.prior, config)
        self._source = ViewConditions(self.prior, config)
        self._weighting = weight_function(config.weighting)
        require_limits(self.prior, config.t, self._weighting)

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """The loss on the renders, beside the pictures that `cameras.index` names.

        Differentiable in output.rgb. Metrics: t (mean), gradient (its length in the space of the prior, mean over
        the views), loss, dropped (share of views whose gradient was not finite). Preview: the pictures that the
        prior predicts from the noised renders. Raises UserError for cameras without pictures, and for a
        background that is not white.
        """
        if cameras.index is None or bool((on_cpu(cameras.index) < 0).any()):
            raise UserError(
                'these cameras have no pictures: guidance "delta-denoising" needs cameras.name=given'
            )
        require_white(output)
        config = self.config
        x = self.prior.encode(output.rgb)
        with torch.no_grad():
            given = rows(self.images, cameras.index).to(output.rgb)
            reference = self.prior.encode(given)
        rng = generator(seed, STREAM, step)
        drawn = timesteps(config.t_order, config.t, self.prior, len(x), len(x), step, total, rng)
        t = sent(drawn, x.device)
        eps = sent_as(torch.randn(x.shape, generator=rng), x)
        scale = guidance_scale(self.prior, config.scale, step, total)
        target = self._target(prompt, cameras, step, total, output)
        source = self._source(config.source, cameras, step, total)
        # Only the texts differ: the pictures that the network receives are the same on both sides.
        source = replace(source, pictures=target.pictures, reference=target.reference)
        gradient, predicted = delta(self.prior, x.detach(), reference, eps, t, (target, source), scale)
        weight = self._weighting(*unit_levels(self.prior.alpha(t), self.prior.sigma(t)))
        gradient, dropped = drop_overflow(per_sample(weight, gradient) * gradient)
        loss = inject(x, gradient)
        metrics = {
            "t": drawn.mean().item(),
            "gradient": gradient.flatten(1).norm(dim=1).mean(),
            "loss": loss.detach(),
            "dropped": dropped,
        }

        return Signal(loss, metrics, preview_of(self.prior, predicted.x0))


@torch.no_grad()
def delta(
    prior: Prior,
    x: Float[Tensor, "B C h w"],
    reference: Float[Tensor, "B C h w"],
    eps: Float[Tensor, "B C h w"],
    t: Float[Tensor, " B"],
    conditions: tuple[Condition, Condition],
    scale: float,
) -> tuple[Float[Tensor, "B C h w"], Prediction]:
    """eps_hat(z; target) - eps_hat(z'; source) from one call of the prior, and the prediction for z.

    x, reference: clean samples of the same views. conditions: target and source. Equal samples under equal
    conditions give exactly 0.
    """
    target, source = conditions
    both = replace(target.followed_by(source), opposed=target.opposed + source.opposed)
    z = torch.cat([prior.add_noise(sample, eps, t) for sample in (x, reference)])
    ours, theirs = guided_prediction(prior, z, t.repeat(2), both, scale).chunk(2)
    return ours.eps - theirs.eps, ours
