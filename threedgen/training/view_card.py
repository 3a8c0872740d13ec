"""The model card of a view-conditioned prior, with its measurements, and a picture of its samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit, relative_view_features
from threedgen.core.png import to_uint8, write_png
from threedgen.core.random import derive_seed, generator
from threedgen.datasets import world
from threedgen.datasets.assemblies import render_assembly, sample_assembly
from threedgen.training.render_bank import ELEVATION, FOV, RADIUS
from threedgen.training.samples import ddim
from threedgen.training.view_bank import SHARES
from threedgen.training.view_scenes import SOURCE_ELEVATION, VIEWS_PER_SCENE

if TYPE_CHECKING:
    from threedgen.training.view_trainer import ViewTrainer

NOISE_LEVEL = 0.9
GRID_TURNS = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)
_CLASSES = ("cube", "chair", "table", "mug", "car")


def held_out_pictures(size: int, azimuth: Tensor, elevation: Tensor) -> Float[Tensor, "N V S S 3"]:
    """V views of objects that a training with seed 0 does not draw: five of the shape world, then five
    assemblies."""
    rng = np.random.default_rng(derive_seed(0, "view-bank/held-out", 0))
    cameras = orbit(azimuth, elevation, torch.full_like(azimuth, 2.85), FOV, size, size)
    pictures = [
        world.render(world.Scene((world.sample_object(rng, (shape,)),)), cameras)[0] for shape in _CLASSES
    ]
    pictures += [render_assembly(sample_assembly(rng), cameras)[0] for _ in _CLASSES]
    return torch.stack(pictures).clamp(0.0, 1.0)


@torch.no_grad()
def view_errors(trainer: ViewTrainer) -> list[tuple[str, float, float, float]]:
    """Mean squared errors of x0 (pictures in [-1, 1]) of the averaged model at t = NOISE_LEVEL, over views all
    around held-out objects: with the picture and the true pose, with a pose that is 60 degrees off, and without a
    picture.

    Each row starts with the class of the object.
    """
    model, device = trainer.average, trainer.config.device
    size, timestep = model.architecture.size, round(NOISE_LEVEL * 1000)
    azimuth = torch.tensor([*GRID_TURNS])
    pictures = held_out_pictures(size, azimuth + 25.0, torch.full_like(azimuth, 15.0)).to(device)
    alpha, sigma = trainer.alpha[timestep].item(), trainer.sigma[timestep].item()
    count = len(azimuth)
    noise = torch.randn(count, 3, size, size, generator=generator(0, "view-card", 0)).to(device)

    def poses(off: float) -> Tensor:
        views = orbit(
            azimuth + off, torch.full_like(azimuth, 15.0), torch.full_like(azimuth, 2.85), FOV, size, size
        )
        return relative_view_features(views, 0.0, 15.0, 2.85).to(device)

    rows = []
    for name, views in zip((*_CLASSES, *("assembly",) * len(_CLASSES)), pictures, strict=True):
        clean = views.permute(0, 3, 1, 2) * 2.0 - 1.0
        source = clean[:1].expand(count, -1, -1, -1)
        noisy = alpha * clean + sigma * noise
        errors = []
        for given, share in ((poses(0.0), 1.0), (poses(60.0), 1.0), (poses(0.0), 0.0)):
            kept = torch.full((count,), share, device=device)
            v = model(noisy, torch.full((count,), timestep, device=device), source, kept, given)
            errors.append(float((alpha * noisy - sigma * v - clean).square().mean()))
        rows.append((name, *errors))
    return rows


@torch.no_grad()
def turned(
    trainer: ViewTrainer,
    picture: Float[Tensor, "S S 3"],
    elevation: float = 15.0,
    steps: int = 12,
    scale: float = 2.0,
) -> Float[Tensor, "V S S 3"]:
    """DDIM samples of the averaged model in [0, 1]: the object of `picture` turned by GRID_TURNS.

    elevation: of the picture and of the samples, in degrees. scale: of the guidance.
    """
    model, device = trainer.average, trainer.config.device
    size, count = model.architecture.size, len(GRID_TURNS)
    azimuth = torch.tensor([*GRID_TURNS])
    views = orbit(
        azimuth, torch.full_like(azimuth, elevation), torch.full_like(azimuth, 2.85), FOV, size, size
    )
    poses = relative_view_features(views, 0.0, elevation, 2.85).to(device).repeat(2, 1)
    source = (picture.permute(2, 0, 1) * 2.0 - 1.0).to(device).expand(2 * count, -1, -1, -1)
    kept = torch.tensor([1.0] * count + [0.0] * count, device=device)
    z = torch.randn(count, 3, size, size, generator=generator(0, "view-samples", 0)).to(device)

    def predict(z: Tensor, now: Tensor) -> Tensor:
        v = model(torch.cat([z, z]), now.expand(2 * count).to(device), source, kept, poses)
        return v[count:] + scale * (v[:count] - v[count:])

    return ddim(predict, z, trainer.alpha, trainer.sigma, steps)


def write_view_grid(trainer: ViewTrainer, path: Path) -> None:
    """Writes a picture with two rows for each of some held-out objects: true views from all around, and what the
    prior draws when it is given the first of them."""
    size = trainer.average.architecture.size
    azimuth = torch.tensor([*GRID_TURNS])
    truth = held_out_pictures(size, azimuth + 25.0, torch.full_like(azimuth, 15.0))[::2]
    rows = [row for views in truth for row in (views, turned(trainer, views[0]))]
    picture = torch.stack(rows).permute(0, 2, 1, 3, 4).reshape(len(rows) * size, len(azimuth) * size, 3)
    write_png(path, to_uint8(picture))


def write_view_card(trainer: ViewTrainer, folder: Path, loss: float, machine: str) -> None:
    """Writes README.md into a pipeline folder: the model, its training data, and the cost of the training."""
    config, size = trainer.config, trainer.average.architecture.size
    parameters = sum(value.numel() for value in trainer.average.parameters()) / 1e6
    rows = "\n".join("| {} | {:.4f} | {:.4f} | {:.4f} |".format(*row) for row in view_errors(trainer))
    origin = f" Its UNet started with the weights of {trainer.origin}." if trainer.origin else ""
    numbers = {
        "steps": trainer.step,
        "pairs": f"{trainer.pictures / 1000:.0f} thousand",
        "rate": f"{config.learning_rate:g}",
        "fall": f"{100 * config.decay:.0f}",
        "hours": f"{trainer.seconds / 3600:.2f}",
        "shares": ", ".join(f"{kind} {share:g}" for kind, share in SHARES.items()),
        "low": f"{ELEVATION[0]:.0f}",
        "high": f"{ELEVATION[1]:.0f}",
    }
    text = f"""# threedgen's embedded view-conditioned prior

A pixel diffusion model that draws a {size}x{size} view of an object from one picture of it and a relative
camera: {parameters:.1f} million parameters, v-prediction, squared-cosine schedule, 1000 steps. Stored as
diffusers and transformers models (`unet`, `image_encoder`, `scheduler`) in half precision, safetensors only.
Licence: Apache-2.0, like the project that trained it.

**Purpose.** Image to 3D in minutes without a GPU or a download, and tests with a real network. From a real picture
it makes a plausible coarse back, not the true one.

**Conditions.** Those of Zero-1-to-3 (Liu et al. 2023), on pixels: the picture, on white, is concatenated to the
noisy view (six input channels); the UNet attends to its tokens, which a small CLIP vision model makes; the
class projection of the UNet takes 20 numbers, see `threedgen.cameras.orbit.relative_view_features`. A withheld
picture is zeros, and so are its tokens. Use guidance scales of 1 to 3.

**Data.** Pictures that threedgen renders itself, {VIEWS_PER_SCENE} of each scene. Shares of a batch:
{numbers["shares"]}; objects are those of Sweet Home 3D's furniture libraries, if these were installed
(ATTRIBUTION.md in the repository names their creators), classes are procedural things, assemblies are random
solids that touch each other, and shapes are the shape world's. Light comes from any direction above. Colour
channels are exchanged and pictures mirrored at random. Elevation of the pictures {SOURCE_ELEVATION[0]:.0f} to
{SOURCE_ELEVATION[1]:.0f} degrees, of the views {numbers["low"]} to {numbers["high"]} degrees; distance
{RADIUS[0]} to {RADIUS[1]}, field of view {FOV:.0f} degrees, white background.

**Training.** `threedgen train prior --kind view`: {numbers["steps"]} steps, {numbers["pairs"]} pairs, AdamW
with a learning rate of {numbers["rate"]} that falls to zero over the last {numbers["fall"]} %, moving average
{config.ema}, {config.precision}; {numbers["hours"]} hours on {machine}. Mean loss of the last steps:
{loss:.4f}.{origin}

**Does it use the picture and the camera?** Mean squared error of x0 at t = {NOISE_LEVEL} over six views around
objects that it was not trained on, with the picture and the true pose, with a pose that is 60 degrees off, and
without a picture:

| object | true pose | 60 degrees off | no picture |
|---|---|---|---|
{rows}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
