"""Pictures of decoded radiance fields by the compiled kernel, without a gradient.

A field is three feature planes (and the features of a picture, if it was decoded from one), a small network from
features to a raw colour and a raw density, and a ball of radius 1 around it; see
threedgen.guidance.priors.radiance_field, whose torch code does the same with a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.kernels import load_native

MOST_HIDDEN = 128  # units of a layer
MOST_WAVES = 8


@dataclass(frozen=True)
class FieldLayers:
    """The network of a decoded field with H hidden units, or those of several.

    planes: each texel is already multiplied by its part of the first layer, so that bilinear values add to the
    hidden units. first: the bias of that layer. outer, last: the layer to three raw colours and a raw density.
    blob: raw density at the middle, its fall per world unit, and density per world unit of a raw one. between: a
    second layer [out, in] and its bias. features: those of the pixels of the picture that a field was decoded from,
    multiplied as the texels are. None: there is no such thing.
    """

    planes: Float[Tensor, "*T 3 P P H"]
    first: Float[Tensor, "*T H"]
    outer: Float[Tensor, "4 H"]
    last: Float[Tensor, " 4"]
    blob: tuple[float, float, float]
    between: tuple[Float[Tensor, "H H"], Float[Tensor, " H"]] | None = None
    features: Float[Tensor, "*T h w H"] | None = None


@dataclass(frozen=True)
class Seen:
    """The picture that a field was decoded from, besides the features of its pixels.

    colors: of pixels, multiplied as the features are. world_from_camera, focal: the pose of its camera, and its
    focal lengths in half widths of the picture. waves: radians a world unit, of the depth of a point behind its
    pixel. place: part of the first layer for the point, its pixel, its depth, and the sines and cosines of the
    depth.
    """

    colors: Float[Tensor, "h w H"]
    world_from_camera: Float[Tensor, "4 4"]
    focal: Float[Tensor, " 2"]
    waves: Float[Tensor, " N"]
    place: Float[Tensor, "J H"]


@dataclass(frozen=True)
class FieldPart:
    """One decoded field, scaled by `size` and moved by `shift` in world units.

    occupied: the cells in which there is something, in the order x, y, z; None: everywhere. seen: None for a field
    that was not decoded from a picture.
    """

    layers: FieldLayers
    occupied: Bool[Tensor, "G G G"] | None = None
    seen: Seen | None = None
    size: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


def can_render(weights: Tensor) -> bool:
    """Whether the kernel renders a field with such weights: float32 on the CPU, at most MOST_HIDDEN hidden units in
    the last dimension, and nobody asks for a gradient."""
    plain = weights.dtype == torch.float32 and weights.device.type == "cpu"
    return plain and weights.shape[-1] <= MOST_HIDDEN and not torch.is_grad_enabled() and bool(load_native())


def render_fields(
    parts: Sequence[FieldPart],
    nearest: Float[Tensor, "*R 3"],
    direction: Float[Tensor, "*R 3"],
    half: Float[Tensor, "*R"],
    samples: int,
) -> Float[Tensor, "*R 4"]:
    """Premultiplied RGB and alpha, in [0, 1], of rays by `samples` points on each.

    nearest: the point of each ray nearest to the middle of the ball. direction: unit vectors. half: half the length
    of its chord in the ball. Where parts overlap their densities add, and their colours mix in these shares.

    What lies behind an opacity of 0.9999 is left out. The result does not depend on torch's number of threads,
    which the kernel takes. Raises ValueError for other shapes.
    """
    native: Any = load_native()
    out = half.new_empty(*half.shape, 4)
    rays = [value.detach().contiguous() for value in (nearest, direction, half)]
    native.render_fields([_record(part) for part in parts], *rays, samples, torch.get_num_threads(), out)
    return out


def _record(part: FieldPart) -> dict[str, Any]:
    layers = part.layers
    record: dict[str, Any] = {
        "planes": list(layers.planes.detach().contiguous()),
        "first": layers.first,
        "outer": layers.outer,
        "last": layers.last,
        "blob": torch.tensor(layers.blob),
        "placed": torch.tensor((part.size, *part.shift)),
    }
    if layers.between is not None:
        record |= {"between": layers.between[0].transpose(0, 1), "second": layers.between[1]}
    if part.occupied is not None:
        record["occupied"] = part.occupied.to(torch.uint8)
    if part.seen is not None:
        pictures = (layers.features, part.seen.colors)
        pose = part.seen.world_from_camera
        record |= {
            "pictures": [rows.detach().contiguous() for rows in pictures if rows is not None],
            "rotation": pose[:3, :3],
            "position": pose[:3, 3],
            "lens": torch.cat([part.seen.focal, pose[:3, 3].norm()[None]]),
            "waves": part.seen.waves,
            "place": part.seen.place,
        }
    return {
        name: value.detach().contiguous() if isinstance(value, Tensor) else value
        for name, value in record.items()
    }
