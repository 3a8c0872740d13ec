"""Volume rendering in plain torch: differentiable by autograd, in float32 or float64, on any device.

It defines the result that every other backend must reproduce (Max 1995, "Optical models for direct volume
rendering"; NeRF, Mildenhall et al. 2020, equation 3):

1. Samples are placed as threedgen.renderers.volumetric describes; those in cells marked empty are left out.
2. alpha_i = 1 - exp(-density_i length_i); T_i = exp(-sum_j<i density_j length_j); weight_i = T_i alpha_i.
3. A sample counts only if T_i is at least `early_stop`.
4. Pictures are sums over samples: weight x feature, weight (alpha), weight x camera z (depth).
5. The distortion, if it is requested, is that of renderers/distortion.py with the same weights.

Samples behind an opaque surface, which do not count, are found by their densities alone, without gradients, and
then left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.types import RadianceField
from threedgen.renderers.distortion import spread_along_rays
from threedgen.renderers.volumetric import Composited, Marching, Rays, Samples, evaluate, in_occupied_cell

# Rays that are marched at the same time. A GPU is waited for once for each block.
_BLOCKS = {"cpu": 4096}
_BLOCK = 65536


def count(field: RadianceField, rays: Rays, marching: Marching) -> Int[Tensor, " R"]:
    """The number of samples of each ray."""
    return torch.cat([_occupied(field, rays[rows], marching)[0].sum(1) for rows in _blocks(rays)])


def render(field: RadianceField, rays: Rays, marching: Marching) -> Composited:
    """What each ray shows."""
    samples = march(field, rays, marching)
    if marching.early_stop > 0 and len(samples.ray) > 0:
        with torch.no_grad():
            density, _ = evaluate(field, samples.points, samples.directions, None)
            through = transmittance(samples.ray, samples.lengths, density, len(rays), marching.limit)[0]
        samples = chosen(samples, seen(through, marching))
    density, features = evaluate(field, samples.points, samples.directions, marching.probe)
    weights = sample_weights(samples.ray, samples.lengths, density, len(rays), marching)
    values = torch.cat([features, torch.ones_like(features[:, :1]), samples.z[:, None]], dim=1)
    sums = values.new_zeros(len(rays), values.shape[1]).index_add(0, samples.ray, weights[:, None] * values)
    spread = None
    if marching.distortion:
        spread = spread_along_rays(weights, samples.ray, samples.z, samples.lengths, rays, marching)
    return Composited(sums[:, :-2], sums[:, -2], sums[:, -1], spread)


@torch.no_grad()
def march(field: RadianceField, rays: Rays, marching: Marching) -> Samples:
    """The samples of all rays, in the floating type of the field."""
    places = list(_blocks(rays))
    blocks = [_march(field, rays[rows], marching) for rows in places]
    ray = torch.cat([block[0] + rows.start for rows, block in zip(places, blocks, strict=True)])
    points, z, lengths = (torch.cat([block[i] for block in blocks]).to(field.bounds) for i in (1, 2, 3))
    return Samples(ray, points, rays.directions[ray].to(field.bounds), z, lengths)


def sample_weights(
    ray: Int[Tensor, " M"],
    lengths: Float[Tensor, " M"],
    density: Float[Tensor, " M"],
    rays: int,
    marching: Marching,
) -> Float[Tensor, " M"]:
    """The weight of each sample in the sums of its ray. Samples are sorted by ray and by distance."""
    through, thickness = transmittance(ray, lengths, density, rays, marching.limit)
    return torch.where(seen(through, marching), through * -torch.expm1(-thickness), 0.0)


def seen(through: Float[Tensor, " M"], marching: Marching) -> Bool[Tensor, " M"]:
    """Whether samples with this transmittance before them count. NaN counts, so that it is seen in the picture."""
    return ~(through < marching.early_stop)


def transmittance(
    ray: Int[Tensor, " M"],
    lengths: Float[Tensor, " M"],
    density: Float[Tensor, " M"],
    rays: int,
    limit: int,
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """The transmittance before each sample, and density x length of each sample. limit: the largest number of
    intervals on a ray."""
    counts = torch.zeros(rays, dtype=torch.long, device=ray.device).index_add_(0, ray, torch.ones_like(ray))
    rank = torch.arange(len(ray), device=ray.device) - (counts.cumsum(0) - counts)[ray]
    # A GPU is not asked how many there are at most.
    longest = int(counts.max()) if rays > 0 and ray.device.type == "cpu" else limit
    thickness = density.new_zeros(rays, longest).index_put((ray, rank), density * lengths)
    through = torch.exp(thickness - thickness.cumsum(1))
    return through[ray, rank], thickness[ray, rank]


def chosen(samples: Samples, rows: Bool[Tensor, " M"]) -> Samples:
    """Some of the samples, in the same order."""
    index = rows.nonzero().squeeze(1)  # once, because a GPU is waited for at each mask
    return Samples(**{item.name: getattr(samples, item.name)[index] for item in fields(samples)})


def _blocks(rays: Rays) -> Iterator[slice]:
    size = _BLOCKS.get(rays.starts.device.type, _BLOCK)
    return (slice(begin, begin + size) for begin in range(0, len(rays), size))


@torch.no_grad()
def _occupied(field: RadianceField, rays: Rays, marching: Marching) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each interval has a sample, the distance of its start, and its length, all [R, K]."""
    k = torch.arange(marching.limit, device=rays.starts.device, dtype=rays.starts.dtype)
    starts = rays.starts[:, None] + k * marching.step
    lengths = (rays.ends[:, None] - starts).clamp(max=marching.step)
    kept = lengths > 0
    if field.occupancy is not None:
        distance = starts + rays.fractions[:, None] * lengths
        points = rays.origins[:, None] + distance[..., None] * rays.directions[:, None]
        kept &= in_occupied_cell(field, points.flatten(0, 1)).view(kept.shape)
    return kept, starts, lengths


def _march(field: RadianceField, rays: Rays, marching: Marching) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ray, point, camera z and interval length of each sample."""
    kept, starts, lengths = _occupied(field, rays, marching)
    ray, column = kept.nonzero(as_tuple=True)
    start, length = starts[ray, column], lengths[ray, column]
    distance = start + rays.fractions[ray] * length
    points = rays.origins[ray] + distance[:, None] * rays.directions[ray]
    return ray, points, distance * rays.slopes[ray], length
