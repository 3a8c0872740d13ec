"""Gaussians with the blur of the pictures that they were optimised in.

A splatting renderer adds a variance of 0.3 pixel^2 to every Gaussian on the screen. In pictures of 64 pixels
that is a noticeable share of an object, and the optimised scales rely on it: in larger pictures, or as a mesh,
the same Gaussians are too thin (Mip-Splatting, Yu et al. 2024, sec. 3). Adding the blur of the training
pictures to the scales keeps the look of the asset in every file.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from threedgen.core.types import Cameras, GaussianCloud

SCREEN_VARIANCE = 0.3  # pixels^2, of the low-pass filter of the renderers


def pixel_size(*batches: Cameras) -> float:
    """World size of a pixel at the origin: the median over the cameras of all batches."""
    sizes = [cameras.centers.norm(dim=1) / cameras.intrinsics[:, 1, 1] for cameras in batches]
    return float(torch.cat(sizes).median())


def as_seen(cloud: GaussianCloud, pixel: float) -> GaussianCloud:
    """The cloud with the blur of pictures whose pixels are `pixel` world units wide at the object."""
    return replace(cloud, scales=(cloud.scales.square() + SCREEN_VARIANCE * pixel**2).sqrt())
