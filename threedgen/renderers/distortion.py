"""The distortion loss of a ray, small when its weight is in one place (Mip-NeRF 360, Barron et al. 2022, eq. 15).

A pure function of packed samples, for those who march rays themselves.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def distortion(
    weights: Float[Tensor, " M"],
    middles: Float[Tensor, " M"],
    lengths: Float[Tensor, " M"],
    ray: Int[Tensor, " M"],
    rays: int,
) -> Float[Tensor, " rays"]:
    """sum_ij w_i w_j |m_i - m_j| + sum_i w_i^2 length_i / 3 of each ray, in linear time; 0 without samples.

    Samples are sorted by ray (ray: [M] in [0, rays)), and by their middle within a ray. Differentiable.
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
