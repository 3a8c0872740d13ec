"""Gaussians as they were seen while they were optimised.

A splatting renderer widens every Gaussian by 0.3 pixel^2 on the screen. At 64 pixels that is a fair part of an
object, and the optimised scales count on it: drawn larger, or meshed, the same Gaussians come out too thin
(Mip-Splatting, Yu et al. 2024, sec. 3). Folding the blur of the training pictures into the scales keeps the
asset as it looked, in every file.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.types import Cameras, GaussianCloud

SCREEN_VARIANCE = 0.3  # pixels^2, the renderers' low-pass filter


def pixel_size(cameras: Cameras, target: Float[Tensor, " 3"] | None = None) -> float:
    """World size of a pixel at the target (default: the origin), median over the cameras."""
    aim = torch.zeros(3, device=cameras.device) if target is None else target
    distances = (cameras.centers - aim).norm(dim=1)
    return float((distances / cameras.intrinsics[:, 1, 1]).median())


def as_seen(cloud: GaussianCloud, pixel: float) -> GaussianCloud:
    """The cloud with the blur of pictures whose pixels are `pixel` world units wide, at the object."""
    return replace(cloud, scales=(cloud.scales.square() + SCREEN_VARIANCE * pixel**2).sqrt())
