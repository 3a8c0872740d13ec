"""Training pairs for the view-conditioned prior: a picture of an object and another view of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit, relative_view_features
from threedgen.core.random import derive_seed, generator
from threedgen.core.types import Cameras
from threedgen.datasets import world
from threedgen.datasets.assemblies import render_assembly, sample_assembly
from threedgen.datasets.world import Scene
from threedgen.training.render_bank import ELEVATION, FOV, RADIUS

VIEWS_PER_SCENE = 8
SOURCES_PER_SCENE = 4
"""Only the first views of a scene are sources. They are from elevations at which people take pictures."""
SOURCE_ELEVATION = (-10.0, 40.0)  # degrees
ASSEMBLY_SHARE = 0.7  # share of the scenes that are random assemblies


@dataclass(frozen=True)
class ViewBatch:
    """A batch of pairs.

    images: the views that the prior learns. pictures: the given pictures of the same objects. Both are [B, H, W, 3]
    in [0, 1] on white. poses: [B, 20], see `relative_view_features`.
    """

    images: Float[Tensor, "B H W 3"]
    pictures: Float[Tensor, "B H W 3"]
    poses: Float[Tensor, "B 20"]


class ViewBank:
    """`views` pictures at `size` pixels as bytes, eight of each scene. 70 % of the scenes are random assemblies,
    the others are of the shape world. Everything is a function of `seed`.

    progress: called with the number of scenes done and of all.
    """

    def __init__(
        self, views: int, size: int, seed: int, progress: Callable[[int, int], None] | None = None
    ) -> None:
        rng = np.random.default_rng(derive_seed(seed, "view-bank", 0))
        self.size = size
        scenes = max(1, views // VIEWS_PER_SCENE)
        pictures, angles = [], []
        for index in range(scenes):
            draw = torch.from_numpy(rng.random((3, VIEWS_PER_SCENE))).float()
            elevation = ELEVATION[0] + (ELEVATION[1] - ELEVATION[0]) * draw[1]
            low, high = SOURCE_ELEVATION
            elevation[:SOURCES_PER_SCENE] = low + (high - low) * draw[1, :SOURCES_PER_SCENE]
            azimuth = 360.0 * draw[0]
            # Half of the first sources see the front, from which an assembly is its own mirror image.
            if rng.random() < 0.5:
                azimuth[0] = 30.0 * draw[0, 0] - 15.0
            radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * draw[2]
            pictures.append((_render(rng, self._cameras(azimuth, elevation, radius)) * 255.0).round().byte())
            angles.append(torch.stack([azimuth, elevation, radius], dim=1))
            if progress is not None:
                progress(index + 1, scenes)
        self.pictures, self.angles = torch.stack(pictures), torch.stack(angles)

    def _cameras(self, azimuth: Tensor, elevation: Tensor, radius: Tensor) -> Cameras:
        return orbit(azimuth, elevation, radius, FOV, self.size, self.size)

    def __len__(self) -> int:
        return len(self.pictures) * VIEWS_PER_SCENE

    def batch(self, count: int, seed: int, step: int) -> ViewBatch:
        """`count` random pairs, as a function of (seed, step). Colour channels are exchanged and pairs are mirrored
        at random; the azimuth of a mirrored pair changes its sign."""
        rng = generator(seed, "view-batch", step)
        scene = torch.randint(len(self.pictures), (count,), generator=rng)
        source = torch.randint(SOURCES_PER_SCENE, (count,), generator=rng)
        source = torch.where(torch.rand(count, generator=rng) < 0.3, 0, source)
        target = (source + torch.randint(1, VIEWS_PER_SCENE, (count,), generator=rng)) % VIEWS_PER_SCENE
        channels = torch.argsort(torch.rand(count, 3, generator=rng), dim=1)
        flip = torch.rand(count, generator=rng) < 0.5

        def augmented(view: Tensor) -> Tensor:
            images = self.pictures[scene, view].float() / 255.0
            images = torch.gather(images, 3, channels[:, None, None, :].expand_as(images))
            return torch.where(flip[:, None, None, None], images.flip(2), images)

        azimuth, elevation, radius = self.angles[scene, target].unbind(1)
        known = self.angles[scene, source]
        turn = torch.where(flip, -1.0, 1.0) * (azimuth - known[:, 0])
        views = self._cameras(turn, elevation, radius)
        return ViewBatch(
            augmented(target), augmented(source), relative_view_features(views, 0.0, known[:, 1], known[:, 2])
        )


def _render(rng: np.random.Generator, cameras: Cameras) -> Float[Tensor, "B H W 3"]:
    """Pictures of one random object on white."""
    if rng.random() < ASSEMBLY_SHARE:
        return render_assembly(sample_assembly(rng), cameras)[0].clamp(0.0, 1.0)
    scene = world.sample_pair(rng) if rng.random() < 0.2 else Scene((world.sample_object(rng),))
    return world.render(scene, cameras)[0].clamp(0.0, 1.0)
