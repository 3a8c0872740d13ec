"""The cameras of a scene for models of several views at once: a picture, a ring around what it shows, and other
views; framed as `threedgen.datasets.cut_outs` frames a picture."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.types import Cameras
from threedgen.datasets.cut_outs import DISTANCE, framing, moved
from threedgen.training.things_store import cameras_of
from threedgen.training.view_scenes import SOURCE_ELEVATION, Rgba, Rig, Subject

RING = 12
"""Views of the ring, 30 degrees apart: every third is a view of a group of four, every second of a group of six."""
OTHERS = 3
FIRST, OTHER = 1, 1 + RING
"""Where the ring and the other views begin. View 0 is the picture, from the azimuth of the ring's first view."""
_FRONT = 0.4  # share of the pictures that are from the front or nearly so
_LEVEL = 0.7  # share of the rings at elevation 0
_RING_ELEVATION = (-10.0, 40.0)  # degrees, of the other rings
_OTHER_ELEVATION = (-25.0, 65.0)  # degrees
_LARGEST = 2.0  # times its size in the unit ball: what is seen from its narrow end is not enlarged further
_PIXELS = 64  # of the pictures by which a scene is framed


class RingRig(Rig):
    """1 + RING + OTHERS views.

    The object is moved and scaled so that it fills the picture as a cut-out does, so that a model learns in the
    frame in which `image-to-3d` shows it the object.
    """

    count: ClassVar[int] = 1 + RING + OTHERS

    def angles(self, rng: np.random.Generator) -> Float[Tensor, "V 3"]:
        azimuth = rng.normal(0.0, 10.0) if rng.random() < _FRONT else rng.uniform(0.0, 360.0)
        level = 0.0 if rng.random() < _LEVEL else rng.uniform(*_RING_ELEVATION)
        elevation = [rng.uniform(*SOURCE_ELEVATION), *[level] * RING, *rng.uniform(*_OTHER_ELEVATION, OTHERS)]
        around = [0.0, *(360.0 * view / RING for view in range(RING)), *rng.uniform(0.0, 360.0, OTHERS)]
        angles = np.stack(
            [azimuth + np.array(around), np.array(elevation), np.full(self.count, DISTANCE)], axis=1
        )
        return torch.from_numpy(angles).float()

    def cameras(self, angles: Float[Tensor, "V 3"], size: int, subject: Subject) -> Cameras:
        source = cameras_of(angles[:1], _PIXELS)
        shift, scale = framing(source, lambda camera: subject.render(camera)[0, ..., 3], _LARGEST)
        return moved(cameras_of(angles, size), shift, scale)


class NormalRingRig(RingRig):
    """The same cameras. All views but the picture show normals, in the frame of the object."""

    def pictures(self, cameras: Cameras, subject: Subject) -> Rgba:
        return torch.cat([subject.render(cameras[:1]), subject.normals(cameras[1:])])
