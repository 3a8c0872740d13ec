"""Clips: a few frames of one motion, seen by one camera that does not move. The moments that clips show, their
features for video priors, and the sampler of training clips."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import OrbitSampler
from threedgen.core.random import generator
from threedgen.core.schedule import RangeSchedule, Schedule, range_at, value_at
from threedgen.core.schedule_checks import require_times
from threedgen.core.settings import above, at_least, between, finite, settings
from threedgen.core.types import Cameras

# The fraction of a motion's time that a clip shows: from frame rates at which a turning cube moves by a
# fraction of its quarter turn between two frames, so that its direction can be seen, to those that show the
# whole motion.
SPAN = (0.1, 1.0)
WHOLE_SHARE = 0.25  # share of the clips that show the whole motion
TIME_FEATURES = 8


def frame_times(start: Float[Tensor, " B"], span: Float[Tensor, " B"], frames: int) -> Float[Tensor, "B F"]:
    """The moment of each frame of a clip: evenly spaced from `start` to `start + span`, both included."""
    return start[:, None] + span[:, None] * torch.linspace(0.0, 1.0, frames, device=start.device)


def time_features(start: Float[Tensor, " B"], span: Float[Tensor, " B"]) -> Float[Tensor, "B 8"]:
    """The features of a clip's frame rate and place in the motion for a video prior: cos and sin of pi and 2 pi
    times its start, then its end."""
    angles = torch.pi * torch.stack([start, 2.0 * start, start + span, 2.0 * (start + span)], dim=1)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def draw_spans(
    count: int,
    rng: torch.Generator,
    bounds: tuple[float, float] = SPAN,
    whole: float = WHOLE_SHARE,
    until: float = 1.0,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """The start of each clip, and the fraction of the motion that it shows.

    The fraction is drawn uniformly from `bounds`; with probability `whole` it is 1. No clip ends after `until`.
    All are fractions of the motion's time.
    """
    span = bounds[0] + (bounds[1] - bounds[0]) * torch.rand(count, generator=rng)
    span = torch.where(torch.rand(count, generator=rng) < whole, torch.ones(count), span)
    span = span.clamp_max(until)
    return (until - span) * torch.rand(count, generator=rng), span


def as_channels(clips: Float[Tensor, "B F H W 3"]) -> Float[Tensor, "B H W F*3"]:
    """The frames of each clip side by side as channels, which is the input of the small networks."""
    return clips.permute(0, 2, 3, 1, 4).flatten(3)


def as_frames(clips: Float[Tensor, "B H W F*3"]) -> Float[Tensor, "B F H W 3"]:
    """The inverse of `as_channels`."""
    return clips.unflatten(3, (-1, 3)).permute(0, 3, 1, 2, 4)


class ClipSampler(OrbitSampler):
    """Training clips: `batch` cameras in front of the object, each of which takes `frames` pictures in turn."""

    together = 1

    frames_setting = "frames"

    @settings
    class Config(OrbitSampler.Config):
        """The training clips of each step; their cameras are further away, because motions need room.

        Attributes:
            batch: Number of clips in each step. Each has its own draws.
            azimuth (degrees): Range of the azimuth of a clip's camera, drawn uniformly.
            frames: Number of frames in each clip. It must be what the video prior expects.
            span: Range of the fraction of the motion's time that a clip shows, drawn uniformly. A small
            fraction is a
                high frame rate.
            whole: Share of the clips that show the whole motion.
            until: The part of the motion's time, from its beginning, that clips show. If it rises to 1 during
            the run,
                a turn is learnt from its beginning, where its direction can be seen, and continued from there.
        """

        batch: Annotated[int, at_least(1)] = 2
        radius: Annotated[tuple[float, float], above(0.0)] = (4.6, 5.2)
        elevation: Annotated[tuple[float, float], between(-90.0, 90.0)] = (0.0, 30.0)
        azimuth: Annotated[tuple[float, float], finite] = (-60.0, 60.0)
        frames: Annotated[int, at_least(2)] = 8
        span: Annotated[RangeSchedule, between(0.0, 1.0, open_low=True)] = SPAN
        whole: Annotated[Schedule, between(0.0, 1.0)] = WHOLE_SHARE
        until: Annotated[Schedule, between(0.0, 1.0, open_low=True)] = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            require_times(self.span, "span")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch x frames views, clip after clip: a function of the arguments alone."""
        config = self.config
        still = super().__call__(seed, step, total)
        span, whole = range_at(config.span, step, total), value_at(config.whole, step, total)
        until = value_at(config.until, step, total)
        start, span = draw_spans(config.batch, generator(seed, "clips", step), span, whole, until)
        views = still[torch.arange(config.batch).repeat_interleave(config.frames)]
        return replace(views, time=frame_times(start, span, config.frames).flatten().clamp(0.0, 1.0))
