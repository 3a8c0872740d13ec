"""Gaussians as a density on a grid.

d(p) = sum_i o_i exp(-1/2 (p - mu_i)^T Sigma_i^-1 (p - mu_i))      (DreamGaussian, Tang et al. 2023, sec. 3.3)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float

from threedgen.core.types import GaussianCloud
from threedgen.kernels import load_native

MIN_OPACITY = 0.005  # fainter Gaussians are ignored (DreamGaussian; also the usual pruning threshold)
MIN_ALPHA = 1.0 / 255.0  # splatting renderers do not draw a Gaussian where its alpha is smaller


@dataclass(frozen=True)
class Ellipsoids:
    """The visible Gaussians of a cloud, as numpy arrays.

    means: [N, 3]. axes: [N, 3, 3], whose columns are the principal directions. scales: [N, 3], standard
    deviations in world units. opacities: [N]. sh: [N, K, 3]. radii: [N], the Mahalanobis distance at which o
    exp(-r^2/2) falls to MIN_ALPHA.
    """

    means: Float[np.ndarray, "N 3"]
    axes: Float[np.ndarray, "N 3 3"]
    scales: Float[np.ndarray, "N 3"]
    opacities: Float[np.ndarray, " N"]
    sh: Float[np.ndarray, "N K 3"]

    def __len__(self) -> int:
        return len(self.means)

    @cached_property
    def radii(self) -> Float[np.ndarray, " N"]:
        return np.sqrt(2.0 * np.log(self.opacities / MIN_ALPHA))

    @cached_property
    def covariances(self) -> Float[np.ndarray, "N 3 3"]:
        scaled = self.axes * self.scales[:, None, :]
        return scaled @ scaled.transpose(0, 2, 1)

    @cached_property
    def precisions(self) -> Float[np.ndarray, "N 3 3"]:
        scaled = self.axes / self.scales[:, None, :]
        return scaled @ scaled.transpose(0, 2, 1)

    def extents(self) -> Float[np.ndarray, "N 3"]:
        """Half the size of the axis-aligned box of each Gaussian, outside of which it is fainter than MIN_ALPHA."""
        deviations = np.sqrt(np.einsum("nij,nj->ni", self.axes**2, self.scales**2))
        return self.radii[:, None] * deviations

    def thickened(self, scale: float) -> Ellipsoids:
        """The same with no axis thinner than `scale`, so that a lattice of similar spacing can hold them."""
        return Ellipsoids(self.means, self.axes, np.maximum(self.scales, scale), self.opacities, self.sh)

    def touching(self, low: Float[np.ndarray, " 3"], high: Float[np.ndarray, " 3"]) -> Ellipsoids:
        """The Gaussians that reach into the box."""
        extents = self.extents()
        inside = (self.means + extents >= low) & (self.means - extents <= high)
        return self.chosen(np.all(inside, axis=1))

    def chosen(self, keep: Bool[np.ndarray, " N"]) -> Ellipsoids:
        """The Gaussians for which `keep` is true."""
        return Ellipsoids(
            self.means[keep], self.axes[keep], self.scales[keep], self.opacities[keep], self.sh[keep]
        )


@dataclass(frozen=True)
class Grid:
    """A scalar on a cubic lattice: values[i, j, k] is at origin + spacing * (i, j, k), in world units."""

    origin: Float[np.ndarray, " 3"]
    spacing: float
    values: Float[np.ndarray, "X Y Z"]


def ellipsoids(cloud: GaussianCloud) -> Ellipsoids:
    """The finite Gaussians of a cloud that are at least as opaque as MIN_OPACITY, in float64."""

    def array(tensor) -> np.ndarray:
        return tensor.detach().cpu().double().numpy()

    means, quats, scales = array(cloud.means), array(cloud.quats), array(cloud.scales)
    opacities, sh = array(cloud.opacities), array(cloud.sh)
    norms = np.linalg.norm(quats, axis=1)
    keep = (opacities >= MIN_OPACITY) & (norms > 0) & (scales > 0).all(axis=1)
    for value in (means, scales, norms[:, None], opacities[:, None], sh.reshape(len(sh), 3 * sh.shape[1])):
        keep &= np.isfinite(value).all(axis=1)
    w, x, y, z = (quats[keep] / norms[keep, None]).T
    axes = np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1),
        ],
        axis=1,
    )
    return Ellipsoids(means[keep], axes, scales[keep], opacities[keep], sh[keep])


def density(
    shapes: Ellipsoids, origin: Float[np.ndarray, " 3"], spacing: float, shape: tuple[int, int, int]
) -> Grid:
    """d(p) on a lattice of `shape` voxels; each Gaussian is evaluated in its own box only (`extents`)."""
    shapes = shapes.thickened(0.7 * spacing)
    origin = np.asarray(origin, dtype=np.float64)
    native = load_native()
    if native is None:
        return Grid(origin, spacing, density_numpy(shapes, origin, spacing, shape))
    values = np.empty(shape, dtype=np.float32)
    arrays = (np.ascontiguousarray(a) for a in (shapes.means, shapes.precisions, shapes.extents()))
    native.gaussian_density(
        *arrays, np.ascontiguousarray(shapes.opacities), origin, spacing, torch.get_num_threads(), values
    )
    return Grid(origin, spacing, values)


def density_numpy(
    shapes: Ellipsoids, origin: Float[np.ndarray, " 3"], spacing: float, shape: tuple[int, int, int]
) -> Float[np.ndarray, "X Y Z"]:
    """The values of `density`, of Gaussians that are thick enough for the lattice, without the compiled kernel.

    The loop is over Gaussians: ten numpy calls for each, on a block that fits into the cache, are faster than one
    expression over all pairs of Gaussians and voxels.
    """
    extents, precisions = shapes.extents(), shapes.precisions
    low = np.ceil((shapes.means - extents - origin) / spacing).astype(np.int64)
    high = np.floor((shapes.means + extents - origin) / spacing).astype(np.int64) + 1
    low, high = np.maximum(low, 0), np.minimum(high, shape)
    values = np.zeros(shape, dtype=np.float32)
    coordinates = [origin[axis] + spacing * np.arange(shape[axis]) for axis in range(3)]
    log_opacities = np.log(shapes.opacities)
    for n in np.flatnonzero((high > low).all(axis=1)):
        (x0, y0, z0), (x1, y1, z1) = low[n], high[n]
        mx, my, mz = shapes.means[n]
        x = (coordinates[0][x0:x1] - mx)[:, None]
        y = (coordinates[1][y0:y1] - my)[None, :]
        z = coordinates[2][z0:z1] - mz
        p = precisions[n]
        across = (-0.5 * p[0, 0]) * x * x + (-0.5 * p[1, 1]) * y * y - (p[0, 1] * x) * y
        slope = (-p[0, 2]) * x - p[1, 2] * y
        along = (-0.5 * p[2, 2]) * z * z + log_opacities[n]
        block = slope.astype(np.float32)[:, :, None] * z.astype(np.float32)
        block += along.astype(np.float32)
        block += across.astype(np.float32)[:, :, None]
        np.exp(block, out=block)
        values[x0:x1, y0:y1, z0:z1] += block
    return values
