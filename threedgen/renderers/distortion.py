"""The distortion of a ray, which is small if its weight is in one place (Mip-NeRF 360, Barron et al. 2022, eq.
15)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.renderers.volumetric import Marching, Rays


def distortion(
    weights: Float[Tensor, " M"],
    middles: Float[Tensor, " M"],
    lengths: Float[Tensor, " M"],
    ray: Int[Tensor, " M"],
    rays: int,
) -> Float[Tensor, " rays"]:
    """sum_ij w_i w_j |m_i - m_j| + sum_i w_i^2 length_i / 3 of each ray, in linear time; 0 for a ray without
    samples.

    weights, middles, lengths: of the intervals. ray: [M] the ray of each sample, below `rays`. Samples are
    sorted by ray, and by their middle within a ray. Differentiable.
    """
    counts = torch.bincount(ray, minlength=rays)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(ray), device=ray.device) - first[ray]
    padded = weights.new_zeros(2, rays, int(counts.max()) if rays > 0 else 0)
    dense = padded.index_put(
        (torch.arange(2, device=ray.device)[:, None], ray[None], rank[None]),
        torch.stack([weights, weights * middles]),
    )
    before = (dense.cumsum(2) - dense)[:, ray, rank]  # sums of w and of w m over the samples before
    pairs = 2 * weights * (middles * before[0] - before[1])
    return weights.new_zeros(rays).index_add(0, ray, pairs + weights.square() * lengths / 3)


def spread_along_rays(
    weights: Float[Tensor, " M"],
    ray: Int[Tensor, " M"],
    z: Float[Tensor, " M"],
    lengths: Float[Tensor, " M"],
    rays: Rays,
    marching: Marching,
) -> Float[Tensor, " R"]:
    """The distortion of each ray's weights, with distances in diagonals of the field's box; it is in [0, 1]."""
    diagonal = marching.step * marching.limit
    distances = z / rays.slopes[ray].to(z)
    return distortion(weights, distances / diagonal, lengths / diagonal, ray, len(rays))
