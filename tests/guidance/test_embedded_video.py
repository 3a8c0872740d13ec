"""The embedded video prior: its size, and that it depends on words, times and cameras."""

from __future__ import annotations

import pytest
import torch

from threedgen.cameras.clips import frame_times
from threedgen.cameras.orbit import orbit
from threedgen.core.random import generator
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import EMBEDDED_VIDEO_WEIGHTS, PriorConfig, load_prior
from threedgen.training.clip_bank import RADIUS
from threedgen.training.render_bank import FOV
from threedgen.training.video_card import true_clips

T = 0.9
AZIMUTH = torch.tensor([-50.0, 10.0])


def test_it_is_small_and_holds_nothing_but_weights_and_configs():
    files = [path for path in EMBEDDED_VIDEO_WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".md"}


def error(
    prior, shape: str, motion: str, said: str, azimuth: torch.Tensor = AZIMUTH, start: float = 0.0
) -> float:
    """Mean squared error of x0 on noised true clips of `shape` with `motion`, for the text `said`, cameras at
    `azimuth` and times from `start` to 1."""
    clips = true_clips(shape, "red", motion, AZIMUTH, prior.image_size, prior.frames)
    x = prior.encode(clips.flatten(0, 1))
    noise, t = torch.randn(x.shape, generator=generator(0, "test", 0)), torch.full((2,), T)
    full = torch.ones(2)
    cameras = orbit(azimuth, 15.0 * full, 0.5 * sum(RADIUS) * full, FOV, 32, 32)
    times = frame_times(start * full, (1.0 - start) * full, prior.frames)
    text = f"a red {shape} {said}"
    answer = prior.predict(
        prior.add_noise(x, noise, t), t, Condition((text,) * 2, cameras=cameras, times=times)
    )
    return float((answer.x0 - x).square().mean())


@pytest.mark.parametrize(
    ("shape", "motion", "other"),
    [("cube", "bouncing", "sliding"), ("chair", "swaying", "growing"), ("torus", "sliding", "bouncing")],
)
def test_it_knows_the_word_the_times_and_the_side(shape, motion, other):
    prior = load_prior(PriorConfig(name="embedded-video"))
    told = error(prior, shape, motion, motion)
    assert told < 0.5 * error(prior, shape, motion, other)
    assert told < 0.7 * error(prior, shape, motion, motion, start=0.5)
    assert told < 0.9 * error(prior, shape, motion, motion, azimuth=AZIMUTH.flip(0))
