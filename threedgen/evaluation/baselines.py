"""Baselines: predictors without a model, which every model should be better than."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.pictures import resize
from threedgen.core.types import Cameras, RenderOutput
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import ObjectSet

_SAME = 1e-4  # largest difference between the poses of a view in two objects that share their cameras


class MeanImage:
    """Answers with the mean of the training pictures, which is blurred, but hard to beat in PSNR.

    If all training objects were seen by the same cameras, there is a mean for each camera, and a view gets that
    of the nearest camera. Otherwise there is one mean of all pictures.
    """

    def __init__(self, training: ObjectSet) -> None:
        """training: at least one object; all pictures must have the same size. Each is loaded once."""
        first = training.load(0)
        pictures, alpha = first.images.double(), first.alpha.double()
        total = pictures.sum(0), alpha.sum(0)
        views, shared = len(first.images), True
        for index in range(1, len(training)):
            other = training.load(index)
            shared = shared and _same_views(first.cameras, other.cameras)
            views += len(other.images)
            total = total[0] + other.images.double().sum(0), total[1] + other.alpha.double().sum(0)
            if shared:
                pictures, alpha = pictures + other.images, alpha + other.alpha
        self.shared = shared
        self._cameras = first.cameras
        if shared:
            self._rgb, self._alpha = (value.float() / len(training) for value in (pictures, alpha))
        else:
            self._rgb, self._alpha = (value.float()[None] / views for value in total)

    def __call__(self, source: PosedPictures, cameras: Cameras, seed: int = 0) -> RenderOutput:
        index = (
            _nearest(cameras, self._cameras) if self.shared else torch.zeros(len(cameras), dtype=torch.long)
        )
        return _shown(self._rgb[index], self._alpha[index], cameras)


class NearestSource:
    """Answers with the source picture, unchanged; with the one whose camera is nearest if there are several."""

    def __call__(self, source: PosedPictures, cameras: Cameras, seed: int = 0) -> RenderOutput:
        index = _nearest(cameras, source.cameras)
        return _shown(source.images[index], source.alpha[index], cameras)


def _same_views(a: Cameras, b: Cameras) -> bool:
    return a.world_from_camera.shape == b.world_from_camera.shape and torch.allclose(
        a.world_from_camera, b.world_from_camera, atol=_SAME
    )


def _nearest(cameras: Cameras, others: Cameras) -> Tensor:
    """[B], which of the other cameras is nearest to each camera."""
    return torch.cdist(cameras.centers.cpu()[None], others.centers.cpu()[None])[0].argmin(dim=1)


def _shown(rgb: Float[Tensor, "B H W 3"], alpha: Float[Tensor, "B H W 1"], cameras: Cameras) -> RenderOutput:
    size = cameras.height, cameras.width
    return RenderOutput(resize(rgb, *size), resize(alpha, *size))
