"""The guidance that repairs a render: noise it a little, let the prior denoise it, match the result.

DreamGaussian's second stage (Tang et al. 2023, section 3.3; METHODS 10.5), after SDEdit (Meng et al. 2021): a
multi-step denoising keeps what the render shows and sharpens it, where score distillation would blur it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.reference import free_views
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.roles import GuidanceRoles
from threedgen.core.schedule import Schedule, bounds, value_at
from threedgen.core.schedule_checks import require_numbers
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.guidance.priors.base import Condition, Prior
from threedgen.guidance.priors.guided import ddim_step, guidance_scale, guided_prediction, preview_of
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.prompting.conditioning import Prompting, ViewConditions


class DenoiseAndMatch(GuidanceRoles):
    """L = 1/2 sum (x - target)^2 / B in the prior's space, target = the render after noise and DDIM.

    Deterministic: the noise comes from random.generator(seed, "guidance/denoise-and-match", step).
    """

    prior_setting = "prior"
    reference_setting = "reference"

    @dataclass(frozen=True)
    class Config(Prompting):
        """prior: which frozen model. scale: uncond + scale (cond - uncond); null takes the prior's own.

        t:        the noise level in [0, 1] that a render is taken to, a number or a schedule. DreamGaussian counts
                  the other way: its start index of 0.8 to 0.95 is t = 0.2 to 0.05.
        denoise_steps: DDIM steps from t down to 0.
        The rest: see conditioning.Prompting.
        """

        prior: PriorConfig = field(default_factory=PriorConfig)
        scale: Schedule | None = None
        t: Schedule = 0.2
        denoise_steps: int = 5

        def __post_init__(self) -> None:
            super().__post_init__()
            require_numbers(scale=self.scale, t=self.t)
            low, high = bounds(self.t)
            if not 0.0 < low <= high <= 1.0:
                raise UserError(f"t must lie in (0, 1] all the time, got {low:g} to {high:g}")
            if self.denoise_steps < 1:
                raise UserError(f"denoise_steps must be at least 1, got {self.denoise_steps}")

    def __init__(
        self, config: Config, device: torch.device | str = "cpu", prior: Prior | None = None
    ) -> None:
        """prior: an object to use instead of loading config.prior. Raises UserError when it cannot be loaded."""
        self.config = config
        self.prior = load_prior(config.prior, device) if prior is None else prior
        self._conditions = ViewConditions(self.prior, config)

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """What the prior makes of the renders of `cameras` at `step` of `total`, as a loss on output.rgb.

        Metrics: t, distance (root mean square between render and target, in the prior's space). Preview:
        the targets side by side.
        """
        output, cameras = free_views(output, cameras)
        condition = self._conditions(prompt, cameras, step, total, output)
        x = self.prior.encode(output.rgb)
        rng = generator(seed, "guidance/denoise-and-match", step)
        t = value_at(self.config.t, step, total)
        scale = guidance_scale(self.prior, self.config.scale, step, total)
        eps = torch.randn(x.shape, generator=rng).to(x)
        target = denoised(self.prior, x, eps, t, condition, scale, self.config.denoise_steps)
        distance = x - target
        metrics = {"t": t, "distance": distance.detach().square().mean().sqrt().item()}
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
    """x noised to level t with eps, then taken back to 0 by `steps` DDIM steps (Song et al. 2020, eq. 12, eta = 0)
    of equal length under classifier-free guidance."""
    levels = [t * (1.0 - index / steps) for index in range(steps + 1)]
    z = prior.add_noise(x.detach(), eps, torch.full((len(x),), t, device=x.device))
    for here, there in itertools.pairwise(levels):
        level = torch.full((len(x),), here, device=x.device)
        guided = guided_prediction(prior, z, level, condition, scale)
        if there == 0.0:
            return guided.x0
        z = ddim_step(prior, guided, torch.full((len(x),), there, device=x.device))
    raise AssertionError("the last level is 0")
