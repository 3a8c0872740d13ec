"""Refinement as guidance: a render is noised a little, the prior denoises it, and the render is fitted to the
result.

The second stage of DreamGaussian (Tang et al. 2023, arXiv:2309.16653, section 3.3), after SDEdit (Meng et al.
2021): denoising in several steps keeps the content of the render and sharpens it, while score distillation would
blur it.
"""

from __future__ import annotations

import itertools
from dataclasses import field
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.reference import free_views
from threedgen.core.random import generator
from threedgen.core.roles import GuidanceRoles
from threedgen.core.schedule import Schedule, value_at
from threedgen.core.settings import at_least, between, finite, settings
from threedgen.core.transfer import sent_as
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.guidance.priors.base import Condition, Prior
from threedgen.guidance.priors.guided import ddim_step, guidance_scale, guided_prediction, preview_of
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.prompting.conditioning import Prompting, ViewConditions


class DenoiseAndMatch(GuidanceRoles):
    """L = 1/2 sum (x - target)^2 / B in the space of the prior, where target is the render after noise and DDIM.

    Deterministic: the noise comes from random.generator(seed, "guidance/denoise-and-match", step).
    """

    prior_setting = "prior"
    reference_setting = "reference"

    @settings
    class Config(Prompting):
        """Settings of the refinement.

        Attributes:
            prior: The frozen diffusion model.
            scale: Scale of classifier-free guidance, uncond + scale (cond - uncond), a number or a schedule; null
                is the default of the prior.
            t: Noise level to which a render is noised, a number or a schedule. DreamGaussian counts in the opposite
                direction: its start index of 0.8 to 0.95 is t = 0.2 to 0.05.
            denoise_steps: Number of DDIM steps from t down to 0.
        """

        prior: PriorConfig = field(default_factory=PriorConfig)
        scale: Annotated[Schedule | None, finite] = None
        t: Annotated[Schedule, between(0.0, 1.0, open_low=True)] = 0.2
        denoise_steps: Annotated[int, at_least(1)] = 5

    def __init__(
        self, config: Config, device: torch.device | str = "cpu", prior: Prior | None = None
    ) -> None:
        """prior: an object to use instead of loading config.prior. Raises UserError if it cannot be loaded."""
        self.config = config
        self.prior = load_prior(config.prior, device) if prior is None else prior
        self._conditions = ViewConditions(self.prior, config)

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """The distance of the renders of `cameras` at `step` of `total` from their denoised targets.

        Differentiable in output.rgb. Metrics: t, distance (root mean square between render and target in the
        space of the prior). Preview: the targets, side by side.
        """
        output, cameras = free_views(output, cameras)
        condition = self._conditions(prompt, cameras, step, total, output)
        x = self.prior.encode(output.rgb)
        rng = generator(seed, "guidance/denoise-and-match", step)
        t = value_at(self.config.t, step, total)
        scale = guidance_scale(self.prior, self.config.scale, step, total)
        eps = sent_as(torch.randn(x.shape, generator=rng), x)
        target = denoised(self.prior, x, eps, t, condition, scale, self.config.denoise_steps)
        distance = x - target
        metrics = {"t": t, "distance": distance.detach().square().mean().sqrt()}
        return Signal(0.5 * distance.square().sum() / len(x), metrics, preview_of(self.prior, target))


@torch.no_grad()
def denoised(
    prior: Prior,
    x: Float[Tensor, "B C h w"],
    eps: Float[Tensor, "B C h w"],
    t: float,
    condition: Condition,
    scale: float,
    steps: int,
) -> Float[Tensor, "B C h w"]:
    """x noised to level t with eps, then denoised to level 0 by `steps` DDIM steps of equal length (Song et al.
    2020, eq. 12, eta = 0) under classifier-free guidance."""
    levels = [t * (1.0 - index / steps) for index in range(steps + 1)]
    z = prior.add_noise(x.detach(), eps, torch.full((len(x),), t, device=x.device))
    for here, there in itertools.pairwise(levels):
        level = torch.full((len(x),), here, device=x.device)
        guided = guided_prediction(prior, z, level, condition, scale)
        if there == 0.0:
            return guided.x0
        z = ddim_step(prior, guided, torch.full((len(x),), there, device=x.device))
    raise AssertionError("the last level is 0")
