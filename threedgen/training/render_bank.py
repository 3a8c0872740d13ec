"""Training pictures of the shape world, rendered once as layers and coloured anew for each batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import FOV, orbit, view_features
from threedgen.core.random import derive_seed, generator
from threedgen.core.types import Cameras
from threedgen.datasets import world
from threedgen.datasets.shapes import COLORS
from threedgen.datasets.world import Scene, WorldObject

RADIUS = (2.6, 3.1)  # world units
ELEVATION = (-15.0, 60.0)  # degrees
VIEWS_PER_SCENE = 8
WHITE_SHARE = 0.75  # share of white backgrounds; a twentieth are black, and the others have random colours
_TEMPLATES = ("{}", "{}", "{}", "a photo of {}", "a 3d model of {}", "a rendering of {}")


@dataclass(frozen=True)
class Batch:
    """A batch of pictures.

    images: [B, H, W, 3] in [0, 1]. captions: B strings. views: [B, 16], see `view_features`.
    """

    images: Float[Tensor, "B H W 3"]
    captions: list[str]
    views: Float[Tensor, "B 16"]


class RenderBank:
    """`views` pictures at `size` pixels: layers as bytes (6 for each pixel), camera features, objects without
    colours.

    A share `pair_share` of the scenes are stacks of two objects. Everything is a function of `seed`. progress:
    called with the number of scenes done and of all.
    """

    def __init__(
        self,
        views: int,
        size: int,
        seed: int,
        pair_share: float = 0.2,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        rng = np.random.default_rng(derive_seed(seed, "bank", 0))
        scene_count = max(1, views // VIEWS_PER_SCENE)
        layers, features = [], []
        self.shapes: list[tuple[str, ...]] = []
        for index in range(scene_count):
            pair = rng.random() < pair_share
            scene = world.sample_pair(rng) if pair else Scene((world.sample_object(rng),))
            draw = torch.from_numpy(rng.random((3, VIEWS_PER_SCENE))).float()
            cameras = drawn_cameras(draw, ELEVATION, RADIUS, size)
            picture = world.render_layers(world.build(scene), cameras)
            layers.append((picture * 255.0).round().to(torch.uint8))
            features.append(view_features(cameras))
            self.shapes.extend([tuple(item.shape for item in scene.objects)] * VIEWS_PER_SCENE)
            if progress is not None:
                progress(index + 1, scene_count)
        self.layers = torch.cat(layers)
        self.features = torch.cat(features)

    def __len__(self) -> int:
        return len(self.layers)

    def batch(self, count: int, seed: int, step: int) -> Batch:
        """`count` random views with random colours and backgrounds, as a function of (seed, step)."""
        rng = np.random.default_rng(derive_seed(seed, "batch", step))
        index = torch.randint(len(self), (count,), generator=generator(seed, "batch-index", step))
        colors, captions = [], []
        for i in index.tolist():
            names = draw_colors(self.shapes[i], rng)
            colors.append([COLORS[name] for name in (*names, names[0])[:2]])
            scene = Scene(tuple(WorldObject(s, c, {}) for s, c in zip(self.shapes[i], names, strict=True)))
            captions.append(reworded(scene.caption, rng))
        images = world.compose(
            self.layers[index].float() / 255.0, torch.tensor(colors), draw_backgrounds(count, rng)
        )
        return Batch(images.clamp(0.0, 1.0), captions, self.features[index])


def drawn_cameras(
    draw: Float[Tensor, "3 V"],
    elevation: tuple[float, float],
    radius: tuple[float, float],
    size: int,
    azimuth: tuple[float, float] = (0.0, 360.0),
) -> Cameras:
    """Cameras with azimuths and elevations, in degrees, and distances between their bounds. draw: numbers in [0,
    1)."""
    azimuths, elevations, distances = (
        low + (high - low) * numbers
        for (low, high), numbers in zip((azimuth, elevation, radius), draw, strict=True)
    )
    return orbit(azimuths, elevations, distances, FOV, size, size)


def draw_colors(shapes: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """Different colours for the objects, without the held-out pairs of colour and class."""
    names: list[str] = []
    for shape in shapes:
        free = [name for name in COLORS if (name, shape) not in world.HELD_OUT and name not in names]
        names.append(free[rng.integers(len(free))])
    return names


def draw_backgrounds(count: int, rng: np.random.Generator) -> Float[Tensor, "B 3"]:
    """Backgrounds that are mostly white, and some black or of a random colour."""
    background = rng.random((count, 3))
    background[rng.random(count) < WHITE_SHARE] = 1.0
    background[rng.random(count) < 0.05] = 0.0
    return torch.from_numpy(background).float()


def reworded(phrase: str, rng: np.random.Generator) -> str:
    """A caption in one of a few wordings, sometimes without its first article."""
    if rng.random() < 0.15 and phrase.startswith(("a ", "an ")):
        phrase = phrase.split(" ", 1)[1]
    return _TEMPLATES[rng.integers(len(_TEMPLATES))].format(phrase)
