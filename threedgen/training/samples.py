"""Grids of samples of a text prior in training, for a few prompts and cameras."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit, view_features
from threedgen.core.png import to_uint8, write_png
from threedgen.core.random import generator
from threedgen.training.render_bank import FOV

if TYPE_CHECKING:
    from threedgen.training.prior_trainer import PriorTrainer

PROMPTS = (
    "a red cube",
    "a green cube",
    "a purple torus",
    "an orange chair",
    "a green table",
    "a cyan mug",
    "a cyan car",
    "a red cube on a blue cylinder",
)


@torch.no_grad()
def sample(
    trainer: PriorTrainer,
    prompts: list[str],
    views: Float[Tensor, "B 16"],
    steps: int = 24,
    scale: float = 2.0,
    seed: int = 0,
) -> Float[Tensor, "B H W 3"]:
    """DDIM samples of the averaged model in [0, 1]. scale: s of the guidance uncond + s (cond - uncond)."""
    model, device = trainer.average, trainer.config.device
    count, size = len(prompts), model.architecture.size
    tokens, mask = trainer.tokens([*prompts, *([""] * count)])
    views = torch.cat([views, views]).to(device)
    z = torch.randn(count, 3, size, size, generator=generator(seed, "samples", 0)).to(device)

    def predict(z: Tensor, now: Tensor) -> Tensor:
        v = model(torch.cat([z, z]), now.expand(2 * count).to(device), tokens, mask, views)
        return v[count:] + scale * (v[:count] - v[count:])

    return ddim(predict, z, trainer.alpha, trainer.sigma, steps)


def ddim(
    predict: Callable[[Tensor, Tensor], Tensor],
    z: Float[Tensor, "B 3 H W"],
    alpha: Float[Tensor, " T"],
    sigma: Float[Tensor, " T"],
    steps: int,
) -> Float[Tensor, "B H W 3"]:
    """Pictures in [0, 1] by DDIM from the noise z.

    predict: (z, time step) -> v. alpha, sigma: tables over the T time steps.
    """

    def clean(z: Tensor, now: Tensor) -> Tensor:
        return (alpha[now].item() * z - sigma[now].item() * predict(z, now)).clamp(-1.0, 1.0)

    z = ddim_path(clean, z, alpha, sigma, steps)
    return (z.clamp(-1.0, 1.0) * 0.5 + 0.5).permute(0, 2, 3, 1).cpu()


def ddim_path(
    clean: Callable[[Tensor, Tensor], Tensor],
    z: Float[Tensor, "B ..."],
    alpha: Float[Tensor, " T"],
    sigma: Float[Tensor, " T"],
    steps: int,
) -> Float[Tensor, "B ..."]:
    """What DDIM (Song et al. 2021, arXiv:2010.02502) makes of the noise z in so many steps, which end at time step
    0. clean: (z, time step) -> the estimate of what is clean. alpha, sigma: tables over the T time steps."""
    for now, after in itertools.pairwise(torch.linspace(len(alpha) - 1, 0, steps + 1).long()):
        a, s = alpha[now].item(), sigma[now].item()
        estimate = clean(z, now)
        z = alpha[after].item() * estimate + sigma[after].item() * (z - a * estimate) / s
    return z


def write_sample_grid(trainer: PriorTrainer, path: Path) -> None:
    """Writes a picture with a row for each prompt of PROMPTS and a column for each quarter turn of the camera."""
    azimuth = torch.tensor([20.0, 110.0, 200.0, 290.0]).repeat(len(PROMPTS))
    full = torch.ones_like(azimuth)
    size = trainer.average.architecture.size
    views = view_features(orbit(azimuth, 25.0 * full, 2.85 * full, FOV, size, size))
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    grid = sample(trainer, prompts, views).reshape(len(PROMPTS), 4, size, size, 3)
    picture = grid.permute(0, 2, 1, 3, 4).reshape(len(PROMPTS) * size, 4 * size, 3)
    write_png(path, to_uint8(picture))
