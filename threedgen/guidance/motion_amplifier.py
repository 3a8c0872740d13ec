"""More motion from a video prior's gradient (Align Your Gaussians, Ling et al. 2024, section 3.5; METHODS 7.5)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def amplified(gradient: Float[Tensor, "B F*C h w"], frames: int, factor: float) -> Float[Tensor, "B F*C h w"]:
    """What each frame's gradient differs by from the mean of its clip's frames, times 1 + factor: the mean, how a
    clip should look, stays; the differences, how it should move, grow. Frames lie one after the other."""
    if factor == 0.0:
        return gradient
    clips = gradient.unflatten(1, (frames, -1))
    mean = clips.mean(1, keepdim=True)
    return (mean + (1.0 + factor) * (clips - mean)).flatten(1, 2)
