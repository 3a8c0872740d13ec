"""Training clips of the shape world in motion, rendered once as layers and coloured anew for each batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.clips import as_channels, draw_spans, frame_times, time_features
from threedgen.cameras.orbit import view_features
from threedgen.core.random import derive_seed, generator
from threedgen.datasets import motions, world
from threedgen.datasets.shapes import COLORS
from threedgen.training.render_bank import draw_backgrounds, draw_colors, drawn_cameras, reworded

RADIUS = (4.6, 5.2)  # world units; further away than still objects, so that moving ones stay in the picture
# Degrees. From the front half, an object that slides, sways or spins moves in the same direction in every
# picture. This takes half as many clips to learn as views from all around: from behind, the same words mean the
# opposite motion.
AZIMUTH = (-60.0, 60.0)
ELEVATION = (0.0, 30.0)  # degrees
CLIPS_PER_OBJECT = 4


@dataclass(frozen=True)
class ClipBatch:
    """A batch of clips.

    images: [B, H, W, F 3] in [0, 1], with the frames one after the other as channels. captions: B strings. views:
    [B, 16], see `view_features`. times: [B, 8], see `time_features`.
    """

    images: Float[Tensor, "B H W F*3"]
    captions: list[str]
    views: Float[Tensor, "B 16"]
    times: Float[Tensor, "B 8"]


class ClipBank:
    """`clips` clips of `frames` frames at `size` pixels: layers as bytes (5 for each pixel), camera and time
    features, and objects without colours. Everything is a function of `seed`.

    progress: called with the number of objects done and of all.
    """

    def __init__(
        self,
        clips: int,
        size: int,
        frames: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        rng = np.random.default_rng(derive_seed(seed, "clip-bank", 0))
        drawn = generator(seed, "clip-bank", 0)
        objects = max(1, clips // CLIPS_PER_OBJECT)
        self.layers = torch.empty(objects * CLIPS_PER_OBJECT, frames, size, size, 5, dtype=torch.uint8)
        self.moving: list[motions.MovingObject] = []
        views, times = [], []
        for index in range(objects):
            moving = motions.sample(rng)
            built = motions.build(moving)
            start, span = draw_spans(CLIPS_PER_OBJECT, drawn)
            draw = torch.rand(3, CLIPS_PER_OBJECT, generator=drawn)
            cameras = drawn_cameras(draw, ELEVATION, RADIUS, size, AZIMUTH)
            for clip, seen in enumerate(frame_times(start, span, frames).tolist()):
                camera = cameras[torch.tensor([clip])]
                frame = torch.cat([world.render_layers(built.at(time), camera, 1) for time in seen])
                self.layers[index * CLIPS_PER_OBJECT + clip] = (frame * 255.0).round().to(torch.uint8)
            views.append(view_features(cameras))
            times.append(time_features(start, span))
            self.moving.extend([moving] * CLIPS_PER_OBJECT)
            if progress is not None:
                progress(index + 1, objects)
        self.views, self.times = torch.cat(views), torch.cat(times)

    def __len__(self) -> int:
        return len(self.layers)

    def batch(self, count: int, seed: int, step: int) -> ClipBatch:
        """`count` random clips with random colours and backgrounds, as a function of (seed, step)."""
        rng = np.random.default_rng(derive_seed(seed, "clip-batch", step))
        index = torch.randint(len(self), (count,), generator=generator(seed, "clip-index", step))
        colors, captions = [], []
        for i in index.tolist():
            moving = self.moving[i]
            (name,) = draw_colors((moving.item.shape,), rng)
            colors.append(COLORS[name])
            item = world.WorldObject(moving.item.shape, name, moving.item.parameters)
            captions.append(reworded(motions.MovingObject(item, moving.motion, moving.amount).caption, rng))
        images = colored(self.layers[index], torch.tensor(colors), draw_backgrounds(count, rng))
        return ClipBatch(images, captions, self.views[index], self.times[index])


def colored(
    layers: Tensor, colors: Float[Tensor, "B 3"], backgrounds: Float[Tensor, "B 3"]
) -> Float[Tensor, "B H W F*3"]:
    """Clips from the bytes of their layers [B, F, H, W, 5], with one colour and one background for each clip."""
    count, frames, size = layers.shape[:3]
    flat = layers.flatten(0, 1).float() / 255.0
    pictures = world.compose(
        flat, colors.repeat_interleave(frames, 0)[:, None], backgrounds.repeat_interleave(frames, 0)
    )
    return as_channels(pictures.clamp(0.0, 1.0).reshape(count, frames, size, size, 3))
