"""For tests of evaluation: small sets of objects, a model that knows them, and features of colours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, RenderOutput
from threedgen.datasets import world
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import ObjectSet


class MeanColour:
    """The mean colour as a feature network, for tests of the code around it."""

    label, size, weights = "colour", 3, "none"

    def __call__(self, images: Tensor) -> Tensor:
        return images.double().mean((1, 2))


def seen(views: int, size: int, color: str = "red", turn: float = 0.0) -> PosedPictures:
    full = torch.ones(views)
    azimuth = turn + torch.arange(views) * (360.0 / views)
    cameras = orbit(azimuth, 20.0 * full, 2.85 * full, 40.0, size, size)
    rgb, alpha = world.render(world.canonical("car", color), cameras)
    return PosedPictures(rgb.clamp(0.0, 1.0), alpha, cameras)


def objects(views: int = 10, size: int = 16, **more: Any) -> ObjectSet:
    loaded = [seen(views, size, color, **more) for color in ("red", "blue", "green")]
    return ObjectSet(["red", "blue", "green"], loaded.__getitem__)


class Knowing:
    """Answers with the true views of a set, in their order. spoil: changes the answer."""

    def __init__(self, known: ObjectSet, spoil: Any = lambda output: output) -> None:
        self.known, self.spoil = known, spoil
        self.asked: list[tuple[PosedPictures, Cameras, int]] = []

    def __call__(self, source: PosedPictures, cameras: Cameras, seed: int, /) -> RenderOutput:
        truth = self.known.load(len(self.asked))
        self.asked.append((source, cameras, seed))
        index = torch.cdist(cameras.centers[None], truth.cameras.centers[None])[0].argmin(1)
        return self.spoil(RenderOutput(truth.images[index], truth.alpha[index]))
