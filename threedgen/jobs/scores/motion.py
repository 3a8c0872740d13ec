"""The measures of motion that every run and every evaluation of a moving asset reports."""

from __future__ import annotations

import torch

from threedgen.cameras.orbit import orbit
from threedgen.export.animation import ELEVATION, FOV_Y
from threedgen.export.moving import MovingAsset
from threedgen.metrics.features import Features, load_features
from threedgen.metrics.motion import motion_scores, picture_scores

_MOMENTS = 25  # independent of the fps of the files: jerk and flicker are comparable only for equal numbers
_SIZE = 96  # pixels

MOVING_SCORES = ("motion", "local", "jerk", "loop", "change", "flicker", "identity")


@torch.no_grad()
def moving_scores(moving: MovingAsset, features: Features | None = None) -> dict[str, float]:
    """The numbers of MOVING_SCORES: those of `MotionScores`, whose amount is called motion, and `PictureScores`.

    The pictures are taken from the first position of the camera of its film. features: the network that identity is
    measured with; None: the embedded one.
    """
    scene, film, times = moving.scene, moving.config, torch.linspace(0.0, 1.0, _MOMENTS)
    paths = motion_scores(scene.moved(times))
    one, white = torch.ones(1), torch.ones(3)
    camera = orbit(film.azimuth * one, ELEVATION * one, film.radius * one, FOV_Y, _SIZE, _SIZE)
    clip = torch.cat([moving.renderer(scene.at(time), camera, white).rgb for time in times.split(1)])
    seen = picture_scores(clip.clamp(0.0, 1.0), load_features() if features is None else features)
    values = (paths.amount, paths.local, paths.jerk, paths.loop, seen.change, seen.flicker, seen.identity)
    return {name: round(value, 4) for name, value in zip(MOVING_SCORES, values, strict=True)}
