"""Volume rendering by the compiled CPU kernels in float32, with the same samples and result as the torch backend.

A field is evaluated in waves, with some samples of each ray from the front to the back, until the ray is
opaque: samples behind a surface are never evaluated. The number of threads is torch's. The result does not
depend on it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from threedgen.core.types import RadianceField
from threedgen.kernels import _native  # pyright: ignore[reportAttributeAccessIssue]
from threedgen.renderers.backends.torch_volume import sample_weights
from threedgen.renderers.distortion import spread_along_rays
from threedgen.renderers.volumetric import Composited, Marching, Rays, evaluate

_WAVE = 8  # samples of a ray in one wave
_LEAST = (
    16384  # samples of all rays in one wave: with fewer, a wave costs more than the samples behind a surface
)


def count(field: RadianceField, rays: Rays, marching: Marching) -> Int[Tensor, " R"]:
    """The number of samples of each ray."""
    counts = torch.empty(len(rays), dtype=torch.int64)
    _native.march_count(*_place(rays), *_space(field), *_pace(marching), counts)
    return counts


def render(field: RadianceField, rays: Rays, marching: Marching) -> Composited:
    """What each ray shows. Differentiable once."""
    counts = count(field, rays, marching)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(offsets[-1])
    points, directions = torch.empty(total, 3), torch.empty(total, 3)
    z, lengths = torch.empty(total), torch.empty(total)
    _native.march_fill(
        *_place(rays),
        rays.slopes.contiguous(),
        *_space(field),
        *_pace(marching),
        offsets,
        points,
        directions,
        z,
        lengths,
    )
    thickness = torch.zeros(len(rays), dtype=torch.float64)
    slots, chosen = torch.full((total,), -1), torch.empty(total, dtype=torch.int64)
    densities, features, done = [], [], 0
    wave = max(_WAVE, _LEAST // max(len(rays), 1)) if marching.early_stop > 0 else marching.limit
    longest = int(counts.max()) if len(rays) > 0 else 0
    for first in range(0, max(longest, 1), wave):
        rows = chosen[
            : _native.next_wave(offsets, thickness, first, wave, marching.early_stop, done, chosen, slots)
        ]
        density, values = evaluate(field, points[rows], directions[rows], marching.probe)
        _native.add_thickness(offsets, slots, lengths, _buffer(density), first, wave, done, thickness)
        densities.append(density)
        features.append(values)
        done += len(rows)
    density = torch.cat(densities)
    sums, alpha, depth = _Composite.apply(
        density, torch.cat(features), offsets, slots, lengths, z, marching.early_stop
    )
    spread = None
    if marching.distortion:
        evaluated = slots >= 0
        ray = torch.repeat_interleave(torch.arange(len(rays)), counts)[evaluated]
        weights = sample_weights(ray, lengths[evaluated], density[slots[evaluated]], len(rays), marching)
        spread = spread_along_rays(weights, ray, z[evaluated], lengths[evaluated], rays, marching)
    return Composited(sums, alpha, depth, spread)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        density: Tensor,
        features: Tensor,
        offsets: Tensor,
        slots: Tensor,
        lengths: Tensor,
        z: Tensor,
        early_stop: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        samples = (offsets, slots, _buffer(density), _buffer(features), lengths, z)
        rays = len(offsets) - 1
        sums, alpha, depth = torch.empty(rays, features.shape[1]), torch.empty(rays), torch.empty(rays)
        _native.composite(*samples, early_stop, torch.get_num_threads(), sums, alpha, depth)
        ctx.save_for_backward(*samples)
        ctx.early_stop = early_stop
        return sums, alpha, depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_sums: Tensor, d_alpha: Tensor, d_depth: Tensor) -> tuple[Tensor | None, ...]:
        samples = ctx.saved_tensors
        d_density, d_features = torch.empty_like(samples[2]), torch.empty_like(samples[3])
        gradients = (_buffer(gradient) for gradient in (d_sums, d_alpha, d_depth))
        _native.composite_backward(
            *samples, ctx.early_stop, torch.get_num_threads(), *gradients, d_density, d_features
        )
        return d_density, d_features, None, None, None, None, None


def _place(rays: Rays) -> tuple[Tensor, ...]:
    columns = (rays.origins, rays.directions, rays.starts, rays.ends, rays.fractions)
    return tuple(column.contiguous() for column in columns)


def _space(field: RadianceField) -> tuple[Tensor, Tensor]:
    occupied = torch.empty(0, dtype=torch.uint8)
    if field.occupancy is not None:
        occupied = field.occupancy.to("cpu").contiguous().view(torch.uint8)
    return field.bounds.detach().double().contiguous(), occupied


def _pace(marching: Marching) -> tuple[float, int, int]:
    return marching.step, marching.limit, torch.get_num_threads()


def _buffer(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()
