"""Training pictures for NerfDiff: views of many objects, as bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import joined
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.random import generator
from threedgen.core.types import Cameras
from threedgen.datasets.given import require_something_seen
from threedgen.datasets.objects import ObjectSet
from threedgen.nerfdiff.field import scene_radius


@dataclass(frozen=True)
class PairBatch:
    """A batch of pairs of views.

    images: the target views. pictures: the source views. Both are [B, S, S, 3] in [0, 1]. cameras, sources: the
    cameras of target and source views, one for each object. radii: of the spheres that hold the objects, in world
    units.
    """

    images: Float[Tensor, "B S S 3"]
    pictures: Float[Tensor, "B S S 3"]
    cameras: Cameras
    sources: Cameras
    radii: list[float]


class PairBank:
    """All views of all objects of a set at `size` pixels, in memory.

    progress: called with the number of objects done and of all. Raises UserError for an object with a single view,
    and for one whose pictures show nothing.
    """

    def __init__(
        self, objects: ObjectSet, size: int, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._pictures: list[Tensor] = []
        self._cameras: list[Cameras] = []
        self._radii: list[float] = []
        for index in range(len(objects)):
            posed = objects.load(index)
            if len(posed.images) < 2:
                raise UserError(
                    f"object '{objects.names[index]}' has only one view, and training needs two views of "
                    "each object: add a view, or remove the object"
                )
            require_something_seen(posed, objects.names[index])
            images = resize_images(posed.images, size)
            self._pictures.append((images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8))
            self._cameras.append(posed.cameras.resized(size, size))
            self._radii.append(scene_radius(posed.cameras))
            if progress is not None:
                progress(index + 1, len(objects))

    def batch(self, count: int, seed: int, step: int) -> PairBatch:
        """Two different views of each of `count` objects, as a function of (seed, step)."""
        rng = generator(seed, "pair-batch", step)
        objects = torch.randint(len(self._pictures), (count,), generator=rng).tolist()
        pairs = [torch.randperm(len(self._pictures[item]), generator=rng)[:2] for item in objects]
        images, pictures = (
            torch.stack([self._pictures[i][pair[k]] for i, pair in zip(objects, pairs, strict=True)]).float()
            / 255.0
            for k in (0, 1)
        )
        cameras, sources = (
            joined([self._cameras[i][pair[k : k + 1]] for i, pair in zip(objects, pairs, strict=True)])
            for k in (0, 1)
        )
        return PairBatch(images, pictures, cameras, sources, [self._radii[item] for item in objects])
