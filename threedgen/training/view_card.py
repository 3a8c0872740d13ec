"""The model card of a view-conditioned prior, its measurements, and a picture of what it draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit, relative_view_features
from threedgen.core.random import derive_seed, generator
from threedgen.datasets import world
from threedgen.datasets.assemblies import render_assembly, sample_assembly
from threedgen.training.render_bank import ELEVATION, FOV, RADIUS
from threedgen.training.samples import ddim
from threedgen.training.view_bank import ASSEMBLY_SHARE, SOURCE_ELEVATION, VIEWS_PER_SCENE

if TYPE_CHECKING:
    from threedgen.training.view_trainer import ViewTrainer

NOISE_LEVEL = 0.9
GRID_TURNS = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)
_CLASSES = ("cube", "chair", "table", "mug", "car")


def held_out_pictures(size: int, azimuth: Tensor, elevation: Tensor) -> Float[Tensor, "N V S S 3"]:
    """Objects that no training of seed 0 drew, seen from V views: five of the shape world, then five assemblies."""
    rng = np.random.default_rng(derive_seed(0, "view-bank/held-out", 0))
    cameras = orbit(azimuth, elevation, torch.full_like(azimuth, 2.85), FOV, size, size)
    pictures = [
        world.render(world.Scene((world.sample_object(rng, (shape,)),)), cameras)[0] for shape in _CLASSES
    ]
    pictures += [render_assembly(sample_assembly(rng), cameras)[0] for _ in _CLASSES]
    return torch.stack(pictures).clamp(0.0, 1.0)


@torch.no_grad()
def view_errors(trainer: ViewTrainer) -> list[tuple[str, float, float, float]]:
    """Mean squared x0 error (pictures in [-1, 1]) at t = NOISE_LEVEL over views all around held-out objects,
    when the averaged model is told the picture and the true pose, a pose that is 60 degrees off, and no
    picture."""
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
    for name, seen in zip((*_CLASSES, *("assembly",) * len(_CLASSES)), pictures, strict=True):
        clean = seen.permute(0, 3, 1, 2) * 2.0 - 1.0
        source = clean[:1].expand(count, -1, -1, -1)
        noisy = alpha * clean + sigma * noise
        errors = []
        for told, kept in ((poses(0.0), 1.0), (poses(60.0), 1.0), (poses(0.0), 0.0)):
            shown = torch.full((count,), kept, device=device)
            v = model(noisy, torch.full((count,), timestep, device=device), source, shown, told)
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
    """DDIM samples of the averaged model: `picture` turned by GRID_TURNS, seen from its own elevation, in [0,
    1]."""
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
    """Two rows an object that it was not trained on: how it looks from all around, and what the prior draws when it
    is shown the first of these views."""
    import imageio.v3 as imageio

    size = trainer.average.architecture.size
    azimuth = torch.tensor([*GRID_TURNS])
    truth = held_out_pictures(size, azimuth + 25.0, torch.full_like(azimuth, 15.0))[::2]
    rows = [row for seen in truth for row in (seen, turned(trainer, seen[0]))]
    picture = torch.stack(rows).permute(0, 2, 1, 3, 4).reshape(len(rows) * size, len(azimuth) * size, 3)
    imageio.imwrite(path, (picture * 255.0).round().to(torch.uint8).numpy())


def write_view_card(trainer: ViewTrainer, folder: Path, loss: float, machine: str) -> None:
    """Writes README.md into a pipeline folder: what it knows, what it was trained on, what that took."""
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
        "share": f"{100 * ASSEMBLY_SHARE:.0f}",
        "low": f"{ELEVATION[0]:.0f}",
        "high": f"{ELEVATION[1]:.0f}",
    }
    text = f"""# threedgen's embedded view-conditioned prior

A pixel diffusion model of {size}x{size} views: one picture of an object and a relative camera in, that view out.
{parameters:.1f} million parameters, v-prediction, squared-cosine schedule, 1000 steps. Stored as diffusers and
transformers parts (`unet`, `image_encoder`, `scheduler`) in half precision, safetensors only. Licence: Apache-2.0,
like the project that trained it.

**What it is for.** Image to 3D in minutes without a GPU or a download, and tests with a real network. It has seen
simple coloured solids only: of a real picture it makes a plausible coarse back, not a true one.

**Conditioning.** The contract of Zero-1-to-3 (Liu et al. 2023) on pixels: the picture, on white, is concatenated to
the noisy view (six input channels); its tokens, of a small CLIP vision model, are attended to; the UNet's class
projection takes 20 numbers, see `threedgen.cameras.orbit.relative_view_features`. Withheld pictures are zeros,
tokens and all. Guidance scales of 1 to 3 suit it.

**Data.** {config.bank_views} pictures that threedgen renders itself, {VIEWS_PER_SCENE} a scene:
{numbers["share"]} % random assemblies (`threedgen/datasets/assemblies.py`: two to fifteen solids grown onto one
another, mostly mirror-symmetric, with painted surfaces and a random light), the others of the shape world
(`threedgen/datasets/world.py`). Colour channels are exchanged and pictures mirrored at random. Elevations of
the pictures: {SOURCE_ELEVATION[0]:.0f} to {SOURCE_ELEVATION[1]:.0f} degrees, of the views {numbers["low"]} to
{numbers["high"]}; distance {RADIUS[0]} to {RADIUS[1]}, field of view {FOV:.0f} degrees, white background.

**Training.** `threedgen train prior --kind view`: {numbers["steps"]} steps, {numbers["pairs"]} pairs, AdamW with a
learning rate of {numbers["rate"]} that falls to zero over the last {numbers["fall"]} %, moving average
{config.ema}, {config.precision}; {numbers["hours"]} hours on {machine}. Mean loss of the last steps:
{loss:.4f}.{origin}

**Does it look at the picture, and know the camera?** Mean squared x0 error at t = {NOISE_LEVEL} over six views
around objects that it was not trained on, when told the picture and the true pose, a pose 60 degrees off, and no
picture:

| object | true pose | 60 degrees off | no picture |
|---|---|---|---|
{rows}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
