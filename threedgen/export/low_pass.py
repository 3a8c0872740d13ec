"""Gaussians as they were seen while they were optimised.

A splatting renderer widens every Gaussian by 0.3 pixel^2 on the screen. At 64 pixels that is a fair part of an
object, and the optimised scales count on it: drawn larger, or meshed, the same Gaussians come out too thin
(Mip-Splatting, Yu et al. 2024, sec. 3). Folding the blur of the training pictures into the scales keeps the
asset as it looked, in every file.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from threedgen.core.types import Cameras, GaussianCloud

SCREEN_VARIANCE = 0.3  # pixels^2, the renderers' low-pass filter


def pixel_size(*batches: Cameras) -> float:
    """World size of a pixel at the origin, median over the cameras of all batches."""
    sizes = [cameras.centers.norm(dim=1) / cameras.intrinsics[:, 1, 1] for cameras in batches]
    return float(torch.cat(sizes).median())


def as_seen(cloud: GaussianCloud, pixel: float) -> GaussianCloud:
    """The cloud with the blur of pictures whose pixels are `pixel` world units wide, at the object."""
    return replace(cloud, scales=(cloud.scales.square() + SCREEN_VARIANCE * pixel**2).sqrt())
