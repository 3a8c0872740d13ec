"""What a file of Gaussians stores, as arrays, and the arithmetic that several formats share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Opacities 0 and 1 have no finite logit; float32's sigmoid(+-16) is within 1.2e-7 of them.
LARGEST_LOGIT = 16.0
# The components beside each of four, for rotations whose largest component is left out.
OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
SIGNATURE = "threedgen"  # what our files say about who wrote them

_FLATTEST = 1e-6  # thickness of a Gaussian without any, as a share of its largest scale


class Stored(NamedTuple):
    """The Gaussians in the axes of the file, and what it says about itself.

    means: [N, 3]. quats: [N, 4], (w, x, y, z). log_scales: [N, 3]. opacity_logits: [N]. sh: [N, K, 3]. up: the axis
    of the file that points up, a key of `TURNS`. ours: whether threedgen wrote it.
    """

    means: Float[np.ndarray, "N 3"]
    quats: Float[np.ndarray, "N 4"]
    log_scales: Float[np.ndarray, "N 3"]
    opacity_logits: Float[np.ndarray, " N"]
    sh: Float[np.ndarray, "N K 3"]
    up: str
    ours: bool = False


def logits(opacities: np.ndarray) -> Float[np.ndarray, " N"]:
    """The logits of opacities in [0, 1], within +-LARGEST_LOGIT; NaN for what is no opacity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.asarray(opacities, np.float64)
        return np.log(share / (1.0 - share)).clip(-LARGEST_LOGIT, LARGEST_LOGIT)


def logs(scales: np.ndarray) -> Float[np.ndarray, "N 3"]:
    """The natural logarithms of scales [N, 3]. Flat Gaussians get a little thickness; those without extent -inf."""
    size = np.asarray(scales, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.maximum(size, _FLATTEST * size.max(axis=1, keepdims=True)))


def whole_quats(largest: Int[np.ndarray, " N"], others: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions from the number of the component that is left out, which is positive, and the others."""
    quats = np.zeros((len(largest), 4))
    left_out = np.sqrt((1.0 - np.square(others).sum(axis=1)).clip(0.0))
    np.put_along_axis(quats, OTHERS[largest], others, axis=1)
    np.put_along_axis(quats, largest[:, None], left_out[:, None], axis=1)
    return quats
