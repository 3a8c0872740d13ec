"""Motion amplification of the gradient of a video prior (Align Your Gaussians, Ling et al. 2024, section 3.5)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def amplified(gradient: Float[Tensor, "B F*C h w"], frames: int, factor: float) -> Float[Tensor, "B F*C h w"]:
    """The gradient in which the difference of each frame from the mean over the frames of its clip is multiplied by
    1 + factor. The mean, which decides the appearance, is unchanged; the differences, which decide the motion,
    grow.

    The channels of the frames of a clip are one after the other.
    """
    if factor == 0.0:
        return gradient
    clips = gradient.unflatten(1, (frames, -1))
    mean = clips.mean(1, keepdim=True)
    return (mean + (1.0 + factor) * (clips - mean)).flatten(1, 2)
