"""The model card of a video prior, with its measurements, and a picture of its samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.clips import SPAN, as_channels, as_frames, time_features
from threedgen.cameras.orbit import orbit, view_features
from threedgen.core.png import to_uint8, write_png
from threedgen.core.random import generator
from threedgen.datasets import motions, world
from threedgen.datasets.shapes import CLASSES, COLORS
from threedgen.training.clip_bank import AZIMUTH, ELEVATION, RADIUS
from threedgen.training.render_bank import FOV
from threedgen.training.samples import ddim

if TYPE_CHECKING:
    from threedgen.training.video_trainer import VideoTrainer

NOISE_LEVEL = 0.9
_VIEWS = 16
_MEASURED = (("cube", "spinning"), ("cube", "bouncing"), ("torus", "sliding"), ("chair", "swaying"))
_GRID = (  # the last three pairs are held out
    ("red", "cube", "spinning"),
    ("blue", "cube", "bouncing"),
    ("green", "torus", "sliding"),
    ("yellow", "cone", "growing"),
    ("purple", "chair", "swaying"),
    ("red", "car", "spinning"),
    ("orange", "mug", "opening"),
    ("cyan", "cone", "bouncing"),
    ("green", "table", "spinning"),
    ("red", "chair", "sliding"),
)


def true_clips(
    shape: str, color: str, motion: str, azimuth: Float[Tensor, " B"], size: int, frames: int
) -> Float[Tensor, "B F H W 3"]:
    """Exact clips of the average object of a class, over its whole motion, seen from B azimuths (degrees) on
    white."""
    built = motions.build(motions.canonical(shape, color, motion))
    cameras = _cameras(azimuth, size)
    palette = torch.tensor(COLORS[color]).expand(len(azimuth), 1, 3)
    pictures = [
        world.compose(world.render_layers(built.at(time), cameras, 1), palette, torch.ones(len(azimuth), 3))
        for time in torch.linspace(0.0, 1.0, frames).tolist()
    ]
    return torch.stack(pictures, dim=1).clamp(0.0, 1.0)


def _cameras(azimuth: Float[Tensor, " B"], size: int):
    full = torch.ones_like(azimuth)
    return orbit(azimuth, 15.0 * full, 0.5 * sum(RADIUS) * full, FOV, size, size)


@torch.no_grad()
def motion_errors(trainer: VideoTrainer, shape: str, motion: str) -> tuple[float, float, float, float]:
    """Mean squared errors of x0 (clips in [-1, 1]) of the averaged model at t = NOISE_LEVEL, for red objects of a
    class: with the true conditions, with another motion, with the times of the second half instead of the whole,
    and with a camera that is 60 degrees off, towards the other side."""
    model, device = trainer.average, trainer.config.device
    size, timestep = model.architecture.size, round(NOISE_LEVEL * 1000)
    rng = generator(0, "video-card", 0)
    azimuth = AZIMUTH[0] + (AZIMUTH[1] - AZIMUTH[0]) * torch.rand(_VIEWS, generator=rng)
    clips = true_clips(shape, "red", motion, azimuth, size, model.architecture.frames)
    clean = as_channels(clips).permute(0, 3, 1, 2) * 2.0 - 1.0
    alpha, sigma = trainer.alpha[timestep], trainer.sigma[timestep]
    noisy = alpha * clean + sigma * torch.randn(clean.shape, generator=rng)
    full = torch.ones(_VIEWS)
    views, whole = view_features(_cameras(azimuth, size)), time_features(0.0 * full, full)
    across = azimuth - 60.0 * azimuth.sign()
    aside, late = view_features(_cameras(across, size)), time_features(0.5 * full, 0.5 * full)
    other = "bouncing" if motion != "bouncing" else "spinning"
    errors = []
    for word, seen, times in (
        (motion, views, whole),
        (other, views, whole),
        (motion, views, late),
        (motion, aside, whole),
    ):
        text = trainer.tokens([f"a red {shape} {word}"] * _VIEWS)
        numbers = torch.cat([seen, times], dim=1).to(device)
        v = model(noisy.to(device), torch.full((_VIEWS,), timestep, device=device), *text, numbers)
        errors.append(float((alpha * noisy - sigma * v.cpu() - clean).square().mean()))
    return errors[0], errors[1], errors[2], errors[3]


@torch.no_grad()
def sample(
    trainer: VideoTrainer,
    prompts: list[str],
    azimuth: Float[Tensor, " B"],
    steps: int = 24,
    scale: float = 2.0,
) -> Float[Tensor, "B F H W 3"]:
    """DDIM samples of the averaged model in [0, 1], over a whole motion. azimuth: degrees. scale: of the
    guidance."""
    model, device = trainer.average, trainer.config.device
    count, size = len(prompts), model.architecture.size
    tokens, mask = trainer.tokens([*prompts, *([""] * count)])
    full = torch.ones(count)
    numbers = torch.cat([view_features(_cameras(azimuth, size)), time_features(0.0 * full, full)], dim=1)
    numbers = numbers.repeat(2, 1).to(device)
    shape = (count, 3 * model.architecture.frames, size, size)
    z = torch.randn(shape, generator=generator(0, "video-samples", 0)).to(device)

    def predict(z: Tensor, now: Tensor) -> Tensor:
        v = model(torch.cat([z, z]), now.expand(2 * count).to(device), tokens, mask, numbers)
        return v[count:] + scale * (v[:count] - v[count:])

    return as_frames(ddim(predict, z, trainer.alpha, trainer.sigma, steps))


def write_video_grid(trainer: VideoTrainer, path: Path) -> None:
    """Writes a picture with two rows for each prompt: the true clip, and what the prior draws."""
    architecture = trainer.average.architecture
    azimuth = torch.full((len(_GRID),), 25.0)
    drawn = sample(trainer, [" ".join(("a", *words)) for words in _GRID], azimuth)
    size, frames = architecture.size, architecture.frames
    true = torch.cat(
        [true_clips(shape, color, motion, azimuth[:1], size, frames) for color, shape, motion in _GRID]
    )
    rows = torch.stack([true, drawn], dim=1).flatten(0, 1)
    picture = rows.permute(0, 2, 1, 3, 4).reshape(len(rows) * size, frames * size, 3)
    write_png(path, to_uint8(picture))


def write_video_card(trainer: VideoTrainer, folder: Path, loss: float, machine: str) -> None:
    """Writes README.md into a pipeline folder: the model, its training data, and the cost of the training."""
    config, architecture = trainer.config, trainer.average.architecture
    parameters = sum(value.numel() for value in trainer.average.parameters()) / 1e6
    rows = "\n".join(
        "| {} {} | {:.4f} | {:.4f} | {:.4f} | {:.4f} |".format(*pair, *motion_errors(trainer, *pair))
        for pair in (*_MEASURED, *sorted(motions.HELD_OUT))
    )
    origin = f" It started with the weights of {trainer.origin} that fit." if trainer.origin else ""
    held_out = ", ".join(f"{shape} {motion}" for shape, motion in sorted(motions.HELD_OUT))
    colors = ", ".join(f"{color} {shape}" for color, shape in sorted(world.HELD_OUT))
    frames, size, channels = architecture.frames, architecture.size, 3 * architecture.frames
    low, high = (f"{100 * share:.0f}" for share in SPAN)
    span, tilt = f"{low} to {high} %", f"{ELEVATION[0]:.0f} to {ELEVATION[1]:.0f}"
    side = f"{AZIMUTH[0]:.0f} to {AZIMUTH[1]:.0f}"
    clips, hours = f"{trainer.pictures / 1000:.0f} thousand", f"{trainer.seconds / 3600:.2f}"
    rate, fall = f"{config.learning_rate:g}", f"{100 * config.decay:.0f} %"
    text = f"""# threedgen's embedded video prior

A text-, camera- and time-conditioned pixel diffusion model of clips of {frames} frames at {size}x{size}:
{parameters:.1f} million parameters, v-prediction, squared-cosine schedule, 1000 steps. A diffusers
`UNet2DConditionModel` over the channels of all frames, one after the other ({channels} in, {channels} out), in
half precision, safetensors only. Licence: Apache-2.0, like the project that trained it.

**Purpose.** Text to 4D in minutes without a GPU or a download, tests with a real network, and benchmarks
against a known truth. The model has seen only the shape world below; it is not a model of real motion.

**Conditions.** The caption goes through a two-layer CLIP text encoder (cross-attention and pooled). The class
projection of the UNet takes 24 numbers: those of the camera (`threedgen.cameras.orbit.view_features`; zeros
mean any camera) and those of the times of the first and the last frame
(`threedgen.cameras.clips.time_features`), which also give the frame rate. Use guidance scales of 1 to 4.

**Data.** Clips that threedgen renders itself (`threedgen/datasets/motions.py`): {", ".join(CLASSES)}, in
{", ".join(COLORS)}; {", ".join(motions.MOTIONS)}. Clips show {span} of the duration of a motion. Azimuth {side}
degrees, elevation {tilt} degrees, distance {RADIUS[0]} to {RADIUS[1]}, field of view {FOV:.0f} degrees, one
light fixed in the world. Objects that look the same from all sides (spheres, cones, ...) do not spin.

**Never trained on:** {held_out}; {colors}.

**Training.** `threedgen train prior --kind video`: {trainer.step} steps, {clips} clips, which are
{config.bank_views} rendered ones in random colours, AdamW with a learning rate of {rate} that falls to zero
over the last {fall}, moving average {config.ema}, {config.precision}; {hours} hours on {machine}. Mean loss of
the last steps: {loss:.4f}.{origin}

**Does it use motion, time and camera?** Mean squared error of x0 at t = {NOISE_LEVEL} for red objects, with the
true conditions, with another motion, with the times of the second half instead of the whole, and with a camera
that is 60 degrees off:

| clip | true conditions | other motion | other times | other camera |
|---|---|---|---|---|
{rows}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
