"""Clips: a few frames of one motion, seen by one camera that stands still. Which moments they show, and training
cameras that take them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import OrbitSampler
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.schedule import RangeSchedule, Schedule, bounds, parse_range, range_at, value_at
from threedgen.core.schedule_checks import require_times
from threedgen.core.types import Cameras

# Of a motion's time, that a clip shows: from frame rates at which a turning cube goes on by a fraction of its
# quarter turn between frames, so that one sees which way, to those that show all of it.
SPAN = (0.1, 1.0)
WHOLE_SHARE = 0.25  # of clips that show all of it
TIME_FEATURES = 8


def frame_times(start: Float[Tensor, " B"], span: Float[Tensor, " B"], frames: int) -> Float[Tensor, "B F"]:
    """When each frame of a clip is seen: evenly from `start` to `start + span`, both included."""
    return start[:, None] + span[:, None] * torch.linspace(0.0, 1.0, frames, device=start.device)


def time_features(start: Float[Tensor, " B"], span: Float[Tensor, " B"]) -> Float[Tensor, "B 8"]:
    """What a video prior is told of a clip's frame rate and place in the motion: cos and sin of pi and 2 pi times
    when it starts and ends."""
    angles = torch.pi * torch.stack([start, 2.0 * start, start + span, 2.0 * (start + span)], dim=1)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def draw_spans(
    count: int,
    rng: torch.Generator,
    bounds: tuple[float, float] = SPAN,
    whole: float = WHOLE_SHARE,
    until: float = 1.0,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Where clips start, and how much of the motion they show: `bounds`, uniform, or with probability `whole` all
    of it; nothing after `until`."""
    span = bounds[0] + (bounds[1] - bounds[0]) * torch.rand(count, generator=rng)
    span = torch.where(torch.rand(count, generator=rng) < whole, torch.ones(count), span)
    span = span.clamp_max(until)
    return (until - span) * torch.rand(count, generator=rng), span


def as_channels(clips: Float[Tensor, "B F H W 3"]) -> Float[Tensor, "B H W F*3"]:
    """Frames side by side as channels, which is how a small network sees a clip."""
    return clips.permute(0, 2, 3, 1, 4).flatten(3)


def as_frames(clips: Float[Tensor, "B H W F*3"]) -> Float[Tensor, "B F H W 3"]:
    """What `as_channels` did, undone."""
    return clips.unflatten(3, (-1, 3)).permute(0, 3, 1, 2, 4)


class ClipSampler(OrbitSampler):
    """Training clips: `batch` cameras in front, each of which takes `frames` pictures one after the other."""

    together = 1

    frames_setting = "frames"

    @dataclass(frozen=True)
    class Config(OrbitSampler.Config):
        """See OrbitSampler.Config; further away, because what moves needs room, and one draw a clip.

        batch: clips a step. frames: of each, what the video prior wants. span: the share of the motion's time that
        a clip shows (its frame rate), uniform between [low, high], or a schedule of such pairs. whole: how often
        one shows all of it, a number or a schedule. until: clips are of the motion's time up to this share of it, a
        number or a schedule that rises to 1: what turns is learnt from its beginning on, where one sees which way,
        and carried on from there."""

        batch: int = 2
        radius: tuple[float, float] = (4.6, 5.2)
        elevation: tuple[float, float] = (0.0, 30.0)
        azimuth: tuple[float, float] = (-60.0, 60.0)
        frames: int = 8
        span: RangeSchedule = SPAN
        whole: Schedule = WHOLE_SHARE
        until: Schedule = 1.0

        def __post_init__(self) -> None:
            if self.frames < 2:
                raise UserError(f"cameras.frames is {self.frames}: a clip has at least 2 frames")
            require_times(self.span, "cameras.span")
            if not bounds(parse_range(self.span)[0])[0] > 0.0:
                raise UserError("cameras.span must be above 0: a clip that shows no time shows no motion")
            if not 0.0 <= bounds(self.whole)[0] <= bounds(self.whole)[1] <= 1.0:
                raise UserError(f"cameras.whole must lie between 0 and 1, got {self.whole}")
            if not 0.0 < bounds(self.until)[0] <= bounds(self.until)[1] <= 1.0:
                raise UserError(f"cameras.until must lie above 0 and not above 1, got {self.until}")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch * frames views, clip after clip; a function of the arguments alone."""
        config = self.config
        still = super().__call__(seed, step, total)
        span, whole = range_at(config.span, step, total), value_at(config.whole, step, total)
        until = value_at(config.until, step, total)
        start, span = draw_spans(config.batch, generator(seed, "clips", step), span, whole, until)
        views = still[torch.arange(config.batch).repeat_interleave(config.frames)]
        return replace(views, time=frame_times(start, span, config.frames).flatten().clamp(0.0, 1.0))
