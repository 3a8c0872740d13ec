"""Per-image measures (METHODS 11.1). Images [B, H, W, 3] in [0, 1]; one value an image, never a pooled one."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

SSIM_WINDOW = 11  # pixels, Gaussian with a standard deviation of 1.5: the original's (Wang et al. 2004)


def psnr(predicted: Float[Tensor, "B H W 3"], target: Float[Tensor, "B H W 3"]) -> Float[Tensor, " B"]:
    """Peak signal-to-noise ratio in dB of each image, predictions clamped to [0, 1]; at most 100."""
    error = (predicted.clamp(0.0, 1.0) - target).square().flatten(1).mean(dim=1)
    return -10.0 * error.clamp_min(1e-10).log10()


def ssim(predicted: Float[Tensor, "B H W 3"], target: Float[Tensor, "B H W 3"]) -> Float[Tensor, " B"]:
    """Structural similarity of each image, mean over pixels and channels, at most 1; data range 1."""
    from kornia.metrics import ssim as similarity_map

    pictures = (image.clamp(0.0, 1.0).permute(0, 3, 1, 2) for image in (predicted, target))
    return similarity_map(*pictures, window_size=SSIM_WINDOW).flatten(1).mean(dim=1)


def silhouette_iou(
    predicted: Float[Tensor, "B H W 1"], target: Float[Tensor, "B H W 1"], threshold: float = 0.5
) -> Float[Tensor, " B"]:
    """Intersection over union of the pixels whose alpha exceeds `threshold`; 1 where both are empty."""
    a, b = predicted.flatten(1) > threshold, target.flatten(1) > threshold
    union = (a | b).sum(dim=1)
    return ((a & b).sum(dim=1) / union.clamp_min(1)).where(union > 0, union.new_ones(()).float())
