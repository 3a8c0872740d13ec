"""What the compact formats of 3D Gaussians share: an order in space, unit quaternions and their packing."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

from threedgen.datasets.splat_files import SplatParameters
from threedgen.datasets.splat_stored import OTHERS

_CELLS = 1024  # of the grid along each axis: 10 bits


def morton_order(means: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, " N"]:
    """The numbers of the points along a Z curve through their bounding box, so that neighbours follow each
    other."""
    low, high = means.min(axis=0), means.max(axis=0)
    size = max(float((high - low).max()), 1e-30)  # one for all axes: cells are cubes, so neighbours are near
    cells = ((means - low) / size * (_CELLS - 1)).astype(np.int64)
    code = np.zeros(len(means), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")


def unit_quats(splats: SplatParameters) -> Float[np.ndarray, "N 4"]:
    """The rotations as unit quaternions (w, x, y, z) in float64; one without a length is no rotation."""
    quats = splats.quats.double().numpy()
    length = np.linalg.norm(quats, axis=1, keepdims=True)
    return np.where(length > 0.0, quats / np.where(length > 0.0, length, 1.0), [1.0, 0.0, 0.0, 0.0])


def smallest_three(
    quats: Float[np.ndarray, "N 4"],
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """Which component of unit quaternions is the largest, and the others in their order, in +-1 / sqrt(2).

    The signs are those of the same rotation with a positive largest component, which readers compute.
    """
    largest = np.abs(quats).argmax(axis=1)
    rows = np.arange(len(quats))
    sign = np.where(quats[rows, largest] < 0.0, -1.0, 1.0)
    return largest, np.take_along_axis(quats * sign[:, None], OTHERS[largest], axis=1)


def opacities(splats: SplatParameters) -> Float[np.ndarray, " N"]:
    """The opacities in [0, 1]."""
    return splats.opacity_logits.double().sigmoid().numpy()


def to_bytes(values: np.ndarray) -> UInt8[np.ndarray, ...]:
    """The nearest whole numbers of 0 to 255."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)
