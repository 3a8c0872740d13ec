"""Codes from noise by DDIM (Song et al. 2021) and DPM-Solver++ (Lu et al. 2022), with the schedulers of
diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.guidance.priors.processes import NoiseSchedule, per_sample
from threedgen.ssdnerf.model import LatentModel

Sampler = Literal["ddim", "dpm-solver++"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)
STEPS = 50
_AT_ONCE = 16  # samples in a batch, so that memory does not grow with their number

Corrector = Callable[[Tensor, Tensor, int], Tensor]


def draw_noise(model: LatentModel, numbers: Sequence[int], seed: int) -> Float[Tensor, "B K R R"]:
    """The noise that samples of these numbers start with; it does not depend on which of them are drawn
    together."""
    drawn = [torch.randn(model.shape, generator=rng) for rng in _draws(numbers, seed)]
    return torch.stack(drawn).to(model.device)


def _draws(numbers: Sequence[int], seed: int) -> list[torch.Generator]:
    """A generator for each sample, so that no sample depends on the others."""
    return [generator(seed, "latent/sample", number) for number in numbers]


@torch.no_grad()
def sample_codes(
    model: LatentModel,
    numbers: Sequence[int],
    seed: int = 0,
    caption: str | None = None,
    scale: float = 1.0,
    steps: int = STEPS,
    sampler: str = "ddim",
) -> Float[Tensor, "B K R R"]:
    """Samples of these numbers, as codes in +-2.

    caption: of all samples; None for samples without one. scale: guidance scale of the caption. steps: of the
    sampler. Up to rounding, a sample does not depend on the others that are drawn with it. Coarse-to-fine kinds are
    sampled by a DDIM of their own. Raises UserError for words that the model does not know, and for a sampler that
    it does not have.
    """
    batches = [numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE)]
    if len(batches) > 1:
        return torch.cat([sample_codes(model, few, seed, caption, scale, steps, sampler) for few in batches])
    if model.coarse_to_fine is None:
        return denoise_codes(model, draw_noise(model, numbers, seed), caption, scale, steps, sampler)
    if sampler != "ddim":
        raise UserError(
            f"a {model.config.diffusion.kind} diffusion is sampled by ddim only, not by {sampler}: use the sampler "
            "ddim"
        )
    _require_steps(steps, len(model.schedule.alphas_cumprod))
    tokens = _tokens(model, caption, len(numbers))

    def network(noisy: Any, timesteps: Tensor) -> Any:
        return model.network(noisy, timesteps, tokens, scale)

    normalised = model.coarse_to_fine.sample(
        network, model.shape, steps, _draws(numbers, seed), device=model.device
    )
    return model.codes_of(normalised)


@torch.no_grad()
def denoise_codes(
    model: LatentModel,
    noise: Float[Tensor, "B K R R"],
    caption: str | None = None,
    scale: float = 1.0,
    steps: int = STEPS,
    sampler: str = "ddim",
) -> Float[Tensor, "B K R R"]:
    """The codes that a plain diffusion makes of noise. The other parameters are those of `sample_codes`."""
    require_plain(model, "sampling from given noise")
    tokens = _tokens(model, caption, len(noise))

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        return model.clean(z, t, tokens, scale)

    return model.codes_of(integrate(denoise, noise, model.schedule, steps, sampler))


def require_plain(model: LatentModel, what: str) -> None:
    """Raises UserError unless the diffusion of the model is plain. what: what needs it, for the message."""
    if model.coarse_to_fine is not None:
        raise UserError(
            f"{what} needs a plain diffusion, and that of this model is {model.config.diffusion.kind}: train one "
            "with diffusion.kind=plain"
        )


def _tokens(model: LatentModel, caption: str | None, count: int) -> Tensor | None:
    return None if not caption else model.denoiser.tokens([caption] * count).to(model.device)


def integrate(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Float[Tensor, "B K R R"],
    schedule: NoiseSchedule,
    steps: int = STEPS,
    sampler: str = "ddim",
    after: Corrector | None = None,
) -> Float[Tensor, "B K R R"]:
    """Follows the probability flow from noise to a clean sample, and returns the last x_hat.

    denoise: (z [B, K, R, R], t [B]) -> x_hat. after: called after each step but the last, at the noise level where
    the step ends: (z, t [B], step) -> z. Raises UserError for an unknown sampler, and for fewer than one step.
    """
    scheduler = make_scheduler(schedule, steps, sampler)
    z, clean = noise, noise
    times = scheduler.timesteps.tolist()
    for number, step in enumerate(times):
        t = torch.full((len(z),), float(step) / len(schedule.alphas_cumprod), device=z.device)
        alpha, sigma = per_sample(schedule.alpha(t), z), per_sample(schedule.sigma(t), z)
        clean = denoise(z, t)
        v = (alpha * z - clean) / sigma
        z = scheduler.step(v, step, z).prev_sample
        if after is not None and number + 1 < len(times):
            z = after(z, torch.full_like(t, times[number + 1] / len(schedule.alphas_cumprod)), number)
    return clean


def make_scheduler(schedule: NoiseSchedule, steps: int, sampler: str) -> Any:
    """The scheduler of diffusers over this table, for `steps` steps that start at pure noise. Raises UserError."""
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    total = len(schedule.alphas_cumprod)
    _require_steps(steps, total)
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler '{sampler}': use {' or '.join(SAMPLERS)}")
    cumulative = schedule.alphas_cumprod.double()
    before = torch.cat([cumulative.new_ones(1), cumulative[:-1]])
    scheduler: Any = DPMSolverMultistepScheduler(
        num_train_timesteps=total,
        trained_betas=(1.0 - cumulative / before).tolist(),
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        # Its first order is DDIM. The DDIM of diffusers does not step to the noise level of the next step if the
        # number of steps does not divide the length of the table.
        solver_order=1 if sampler == "ddim" else 2,
        # Unless the last noise level is 0, the last step divides by nearly 0.
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    return scheduler


def _require_steps(steps: int, most: int) -> None:
    if not 1 <= steps <= most:
        raise UserError(f"a sampler takes between 1 and {most} steps, got {steps}")


def interpolate(
    first: Float[Tensor, "K R R"], last: Float[Tensor, "K R R"], count: int
) -> Float[Tensor, "B K R R"]:
    """`count` noises on the great circle from one to the other, both included. Each is as likely as the two
    ends."""
    a, b = first.flatten(), last.flatten()
    angle = torch.arccos((torch.dot(a, b) / (a.norm() * b.norm())).clamp(-1.0, 1.0))
    if float(angle) < 1e-4:
        return first.expand(count, *first.shape).clone()
    shares = torch.linspace(0.0, 1.0, count, device=first.device).reshape(-1, 1, 1, 1)
    return (torch.sin((1.0 - shares) * angle) * first + torch.sin(shares * angle) * last) / math.sin(
        float(angle)
    )
