"""Rays of decoded radiance fields by the compiled kernel, with a gradient.

See threedgen.kernels.field_rendering for what a field is, and threedgen.guidance.priors.radiance_field, whose torch
code does the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.kernels import load_native
from threedgen.kernels.field_rendering import FieldLayers

_UNITS = 8  # of a layer: their number is a multiple


@dataclass(frozen=True)
class SeenPoints:
    """What the picture that a field was decoded from adds to the first layer at each point of each ray.

    pixels: the place in [-1, 1] of the picture at which the point is seen, for the features of pixels; beyond the
    border they are those of the border. added: to the hidden units.
    """

    pixels: Float[Tensor, "B N S 2"]
    added: Float[Tensor, "B N S H"]


def can_train(weights: Tensor) -> bool:
    """Whether the kernel takes fields with such weights: float32 on the CPU, with a multiple of 8 hidden units in
    the last dimension."""
    plain = weights.dtype == torch.float32 and weights.device.type == "cpu"
    return plain and weights.shape[-1] % _UNITS == 0 and bool(load_native())


def train_fields(
    layers: FieldLayers,
    owner: Int[Tensor, " B"],
    points: Float[Tensor, "B N S 3"],
    lengths: Float[Tensor, "B N"],
    seen: SeenPoints | None = None,
) -> Float[Tensor, "B N 4"]:
    """Premultiplied RGB and alpha, in [0, 1], of N rays of B views. Differentiable in the layers and in what is
    added to them, but not in where a picture is looked at.

    layers: those of T fields, which all share outer, last and between. owner: the field of each view. points: on
    each ray, in the ball of radius 1. lengths: the distance between the points of each ray; a ray of length 0 shows
    nothing.

    Neither the result nor its gradient depends on torch's number of threads, which the kernel takes. Raises
    ValueError for other shapes.
    """
    rays = {"owner": owner, "points": points, "lengths": lengths, "blob": torch.tensor(layers.blob)}
    features, added = None, None
    if seen is not None:
        features, added, rays["pixels"] = layers.features, seen.added, seen.pixels
    between, second = layers.between or (None, None)
    values = (layers.planes, layers.first, layers.outer, layers.last, between, second, features, added)
    return _TrainFields.apply(rays, *values)


_NAMES = ("planes", "first", "outer", "last", "between", "second", "picture", "added")
_SHARED = ("outer", "last", "between", "second")  # of which each field has a gradient


class _TrainFields(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rays: dict[str, Tensor], *values: Tensor | None) -> Tensor:
        batch = rays | {name: value for name, value in zip(_NAMES, values, strict=True) if value is not None}
        if "between" in batch:
            batch["turned"] = batch["between"].transpose(0, 1)
        ctx.batch = {name: value.detach().contiguous() for name, value in batch.items()}
        out = rays["lengths"].new_empty(*rays["lengths"].shape, 4)
        native: Any = load_native()
        native.train_fields(ctx.batch, torch.get_num_threads(), out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        batch: dict[str, Tensor] = ctx.batch
        gradients: dict[str, Tensor] = {
            name: torch.empty(len(batch["planes"]), *batch[name].shape)
            if name in _SHARED
            else torch.empty_like(batch[name])
            for name in _NAMES
            if name in batch
        }
        native: Any = load_native()
        native.train_fields_backward(batch, d_out.contiguous(), torch.get_num_threads(), gradients)
        gradients |= {name: gradients[name].sum(0) for name in _SHARED if name in gradients}
        return None, *(gradients.get(name) for name in _NAMES)
