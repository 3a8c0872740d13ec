"""Measures of pictures, their sizes and their colour spaces.

The measures take pictures [B, H, W, 3] in [0, 1] and give one value for each picture, never one for the batch
(docs/methods.md, "Measures of pictures").
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SSIM_WINDOW = 11  # pixels; a Gaussian with a standard deviation of 1.5, as in Wang et al. 2004


def psnr(predicted: Float[Tensor, "B H W 3"], target: Float[Tensor, "B H W 3"]) -> Float[Tensor, " B"]:
    """Peak signal-to-noise ratio in dB of each picture, with predictions clamped to [0, 1]; at most 100."""
    error = (predicted.clamp(0.0, 1.0) - target).square().flatten(1).mean(dim=1)
    return -10.0 * error.clamp_min(1e-10).log10()


def ssim(predicted: Float[Tensor, "B H W 3"], target: Float[Tensor, "B H W 3"]) -> Float[Tensor, " B"]:
    """Structural similarity of each picture (Wang et al. 2004), mean over pixels and channels, at most 1."""
    from kornia.metrics import ssim as similarity_map

    pictures = (image.clamp(0.0, 1.0).permute(0, 3, 1, 2) for image in (predicted, target))
    return similarity_map(*pictures, window_size=SSIM_WINDOW).flatten(1).mean(dim=1)


def silhouette_iou(
    predicted: Float[Tensor, "B H W 1"], target: Float[Tensor, "B H W 1"], threshold: float = 0.5
) -> Float[Tensor, " B"]:
    """Intersection over union of the pixels whose alpha exceeds `threshold`; 1 if both sets are empty."""
    a, b = predicted.flatten(1) > threshold, target.flatten(1) > threshold
    union = (a | b).sum(dim=1)
    return ((a & b).sum(dim=1) / union.clamp_min(1)).where(union > 0, union.new_ones(()).float())


def resize(pictures: Float[Tensor, "B H W C"], height: int, width: int) -> Float[Tensor, "B h w C"]:
    """Pictures at another size, differentiably: exact averages for whole factors, else bilinear.

    Reduced pictures are antialiased: otherwise a reduced render would pass its gradient to a few of its pixels
    only.
    """
    size = tuple(pictures.shape[1:3])
    if size == (height, width):
        return pictures
    planes = pictures.permute(0, 3, 1, 2)
    if size[0] % height == 0 and size[1] % width == 0:
        planes = F.avg_pool2d(planes, (size[0] // height, size[1] // width))
    else:
        smaller = height < size[0] or width < size[1]
        planes = F.interpolate(
            planes, (height, width), mode="bilinear", antialias=smaller, align_corners=False
        )
    return planes.permute(0, 2, 3, 1)


def nearest(maps: Float[Tensor, "B H W"], height: int, width: int) -> Float[Tensor, "B h w"]:
    """Maps at another size, where a pixel has the value of the nearest one: for values that must not be mixed."""
    if tuple(maps.shape[1:]) == (height, width):
        return maps
    return F.interpolate(maps[:, None], (height, width), mode="nearest-exact")[:, 0]


def resize_images(images: Float[Tensor, "B H W 3"], size: int) -> Float[Tensor, "B size size 3"]:
    """Square pictures at another size (see `resize`).

    Raises ValueError for pictures that are not square: a prior would see, and would teach, a stretched scene.
    """
    height, width = images.shape[1:3]
    if height != width:
        raise ValueError(f"a prior sees square pictures, got {height} x {width}")
    return resize(images, size, size)


def linear_from_srgb(rgb: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Display-referred sRGB in [0, 1] to linear light (IEC 61966-2-1); input is clipped to [0, 1]."""
    rgb = np.clip(np.asarray(rgb, dtype=np.float64), 0.0, 1.0)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(rgb: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Linear light in [0, 1] to display-referred sRGB: the inverse of `linear_from_srgb`."""
    rgb = np.clip(np.asarray(rgb, dtype=np.float64), 0.0, 1.0)
    return np.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * rgb ** (1.0 / 2.4) - 0.055)
