"""The conditional denoiser alone: its prediction as an image estimate, noise levels, and samples of views by
DDIM."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.random import generator
from threedgen.nerfdiff.model import NerfDiffModel
from threedgen.training.denoiser_trainer import cosine_alphas

TRAINED_STEPS = 1000


def signed(images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """Pictures in [0, 1] with channels last, as pictures in [-1, 1] with channels first."""
    return images.permute(0, 3, 1, 2) * 2.0 - 1.0


def unsigned(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W 3"]:
    """Pictures in [-1, 1] with channels first, as clamped pictures in [0, 1] with channels last."""
    return (pictures.clamp(-1.0, 1.0) * 0.5 + 0.5).permute(0, 2, 3, 1)


def levels(t: float) -> tuple[float, float]:
    """alpha and sigma at t in [0, 1] of the schedule that the denoiser is trained with."""
    alpha, sigma = cosine_alphas()
    step = time_step(t)
    return alpha[step].item(), sigma[step].item()


def time_step(t: float) -> int:
    """The time step of t in [0, 1]."""
    return min(max(round(t * TRAINED_STEPS) - 1, 0), TRAINED_STEPS - 1)


@torch.no_grad()
def predict_clean(
    model: NerfDiffModel,
    noisy: Float[Tensor, "B 3 S S"],
    t: float,
    renders: Float[Tensor, "B 3 S S"],
    picture: Float[Tensor, "1 3 S S"],
) -> Float[Tensor, "B 3 S S"]:
    """The denoised views x0 = alpha z - sigma v, in [-1, 1]. renders, picture: as in `NerfDiffModel.denoise`."""
    alpha, sigma = levels(t)
    count = len(noisy)
    steps = torch.full((count,), time_step(t), device=noisy.device)
    v = model.denoise(noisy, steps, renders, picture.expand(count, -1, -1, -1)).float()
    return (alpha * noisy - sigma * v).clamp(-1.0, 1.0)


@torch.no_grad()
def sample_views(
    model: NerfDiffModel,
    renders: Float[Tensor, "B 3 S S"],
    picture: Float[Tensor, "1 3 S S"],
    seed: int = 0,
    steps: int = 24,
) -> Float[Tensor, "B 3 S S"]:
    """Views that are sampled by DDIM from pure noise, each on its own: they are sharp, but do not agree."""
    z = torch.randn(renders.shape, generator=generator(seed, "nerfdiff/views", 0)).to(renders)
    clean = z
    times = torch.linspace(1.0, 0.0, steps + 1).tolist()
    for now, after in itertools.pairwise(times):
        clean = predict_clean(model, z, now, renders, picture)
        alpha, sigma = levels(now)
        noise = (z - alpha * clean) / sigma
        alpha, sigma = levels(after)
        z = alpha * clean + sigma * noise
    return clean
