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
from threedgen.datasets.things.thing_set import ThingSet
from threedgen.datasets.things.thing_views import class_layers, object_layers
from threedgen.datasets.things.wording import draw_coat, draw_object
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
    """`views` pictures at `size` pixels as bytes, eight of each scene. Everything is a function of the arguments.

    things: what a share `things_share` of the scenes shows, with light from any direction: words take turns by
    chance, then the classes and the objects of a word that are not held out. 70 % of the other scenes are random
    assemblies, the rest are of the shape world. progress: called with the number of scenes done and of all.
    """

    def __init__(
        self,
        views: int,
        size: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
        things: ThingSet | None = None,
        things_share: float = 0.0,
    ) -> None:
        rng = np.random.default_rng(derive_seed(seed, "view-bank", 0))
        self._things, self._share = things, things_share if things is not None else 0.0
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
            shown = self._render(rng, self._cameras(azimuth, elevation, radius))
            pictures.append((shown * 255.0).round().byte())
            angles.append(torch.stack([azimuth, elevation, radius], dim=1))
            if progress is not None:
                progress(index + 1, scenes)
        self.pictures, self.angles = torch.stack(pictures), torch.stack(angles)

    def _cameras(self, azimuth: Tensor, elevation: Tensor, radius: Tensor) -> Cameras:
        return orbit(azimuth, elevation, radius, FOV, self.size, self.size)

    def _render(self, rng: np.random.Generator, cameras: Cameras) -> Float[Tensor, "B H W 3"]:
        """Pictures of one random object on white."""
        if self._things is not None and self._share > 0.0 and rng.random() < self._share:
            return _thing(self._things, rng, cameras)
        return _solids(rng, cameras)

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


def _thing(things: ThingSet, rng: np.random.Generator, cameras: Cameras) -> Float[Tensor, "B H W 3"]:
    """Pictures of one random thing on white, in drawn colours and light."""
    words = [word for word in things.words if things.classes(word) or things.objects(word)]
    word = words[rng.integers(len(words))]
    sources = (*things.classes(word), *things.objects(word))
    source = sources[rng.integers(len(sources))]
    light = (rng.normal(), rng.uniform(0.2, 1.5), rng.normal())
    if source.thing is not None:
        layers = class_layers(source, cameras, rng, light)
        colors = torch.tensor(draw_coat(source, rng).colors)
    else:
        layers, look = object_layers(source, cameras, light=light)
        colors = draw_object(source, look, rng)[0]
    count = len(cameras)
    return world.compose(layers, colors.expand(count, -1, -1), torch.ones(count, 3)).clamp(0.0, 1.0)


def _solids(rng: np.random.Generator, cameras: Cameras) -> Float[Tensor, "B H W 3"]:
    """Pictures of one random assembly, or of a scene of the shape world, on white."""
    if rng.random() < ASSEMBLY_SHARE:
        return render_assembly(sample_assembly(rng), cameras)[0].clamp(0.0, 1.0)
    scene = world.sample_pair(rng) if rng.random() < 0.2 else Scene((world.sample_object(rng),))
    return world.render(scene, cameras)[0].clamp(0.0, 1.0)
