"""The model card of a text prior, with the measurement that shows whether it uses the camera."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from threedgen.cameras.orbit import orbit, view_features
from threedgen.core.random import generator
from threedgen.datasets import world
from threedgen.datasets.shapes import CLASSES, COLORS
from threedgen.training.render_bank import ELEVATION, FOV, RADIUS, WHITE_SHARE

if TYPE_CHECKING:
    from threedgen.training.prior_trainer import PriorTrainer

NOISE_LEVEL = 0.9
_VIEWS = 32


@torch.no_grad()
def camera_errors(trainer: PriorTrainer, shape: str) -> tuple[float, float, float]:
    """Mean squared errors of x0 (pictures in [-1, 1]) of the averaged model at t = NOISE_LEVEL, for red objects of a
    class: with the true camera, with a camera that is 45 degrees off in azimuth, and without a camera."""
    size, timestep = trainer.average.architecture.size, round(NOISE_LEVEL * 1000)
    rng = generator(0, "model-card", 0)
    azimuth, full = 360.0 * torch.rand(_VIEWS, generator=rng), torch.ones(_VIEWS)
    elevation, radius = 25.0 * full, 2.85 * full
    cameras = orbit(azimuth, elevation, radius, FOV, size, size)
    pictures, _ = world.render(world.canonical(shape, "red"), cameras)
    clean = pictures.permute(0, 3, 1, 2) * 2.0 - 1.0
    alpha, sigma = trainer.alpha[timestep], trainer.sigma[timestep]
    noisy = alpha * clean + sigma * torch.randn(clean.shape, generator=rng)
    text = trainer.tokens([f"a red {shape}"] * _VIEWS)
    device = trainer.config.device
    wrong = view_features(orbit(azimuth + 45.0, elevation, radius, FOV, size, size))
    true = view_features(cameras)
    errors = []
    for views in (true, wrong, torch.zeros_like(true)):
        v = trainer.average(
            noisy.to(device), torch.full((_VIEWS,), timestep, device=device), *text, views.to(device)
        )
        errors.append(float((alpha * noisy - sigma * v.cpu() - clean).square().mean()))
    return errors[0], errors[1], errors[2]


def write_model_card(trainer: PriorTrainer, folder: Path, loss: float, machine: str) -> None:
    """Writes README.md into a pipeline folder: the model, its training data, and the cost of the training."""
    config, architecture = trainer.config, trainer.average.architecture
    parameters = sum(value.numel() for value in trainer.average.parameters()) / 1e6
    held_out = ", ".join(f"{color} {shape}" for color, shape in sorted(world.HELD_OUT))
    rows = "\n".join(
        "| {} | {:.4f} | {:.4f} | {:.4f} |".format(shape, *camera_errors(trainer, shape))
        for shape in ("cube", "chair", "table", "mug", "car")
    )
    size = architecture.size
    origin = f" It started with the weights of {trainer.origin}." if trainer.origin else ""
    text = f"""# threedgen's embedded prior

A text- and camera-conditioned pixel diffusion model of {size}x{size} pictures: {parameters:.1f} million parameters,
v-prediction, squared-cosine schedule, 1000 steps. Stored as a diffusers `IFPipeline` folder in half precision,
safetensors only. Licence: Apache-2.0, like the project that trained it.

**Purpose.** A first picture in a minute without a GPU or a download, tests with a real network, and benchmarks
against a known truth. The model has seen only the shape world below; it is not a model of real objects.

**Conditions.** The caption goes through a two-layer CLIP text encoder (cross-attention and pooled). The camera goes
through the class projection of the UNet: 16 numbers, see `threedgen.cameras.orbit.view_features`; zeros mean any
camera. A plain call of `IFPipeline` cannot pass them, and the loader of threedgen does. Use guidance scales of 1 to 4.

**Data.** Pictures that threedgen renders itself (`threedgen/datasets/world.py`): {", ".join(CLASSES)},
in {", ".join(COLORS)}, with random class parameters; {100 * config.pair_share:.0f} % of the scenes are stacks of two.
Any azimuth, elevation {ELEVATION[0]:.0f} to {ELEVATION[1]:.0f} degrees, distance {RADIUS[0]} to {RADIUS[1]}, field of view
{FOV:.0f} degrees, one light fixed in the world; {100 * WHITE_SHARE:.0f} % of the backgrounds are white, and most others have a random colour.

**Never trained on:** {held_out}.

**Training.** `threedgen train prior`: {trainer.step} steps, {trainer.pictures / 1000:.0f} thousand pictures, AdamW with a
learning rate of {config.learning_rate:g} that falls to zero over the last {100 * config.decay:.0f} %, moving average
{config.ema}, {config.precision}; {trainer.seconds / 3600:.2f} hours on {machine}. Mean loss of the last steps: {loss:.4f}.{origin}

**Does it use the camera?** Mean squared error of x0 at t = {NOISE_LEVEL} for red objects, with the true camera, with a
camera that is 45 degrees off, and without a camera:

| class | true | 45 degrees off | none |
|---|---|---|---|
{rows}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
