"""LPIPS, version 0.1, with AlexNet or VGG16: how different two pictures look.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018. The user
provides the weights in one safetensors file with the names of `lpips.LPIPS(net=...).state_dict()`, see HOW. The
two networks are written out as plain convolutions, so that neither lpips nor torchvision has to be installed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.metrics.weights import read_weights

VARIABLE = "THREEDGEN_LPIPS"
HOW = (
    'make it where lpips and torchvision are installed: python -c "import lpips; from safetensors.torch import '
    "save_file; save_file({k: v.contiguous() for k, v in lpips.LPIPS(net='alex').state_dict().items() if not "
    "k.startswith('lins.')}, 'lpips-alex.safetensors')\""
)
_AT_ONCE = (
    8  # pictures that go through the network together; the first layers of VGG16 have 64 numbers per pixel
)


class _Layer(NamedTuple):
    """A convolution with ReLU. pool: side of the max pooling (stride 2) before it, or 0. tapped: whether its output
    is compared."""

    name: str
    channels: tuple[int, int]
    kernel: int
    stride: int
    padding: int
    pool: int
    tapped: bool


def _vgg16() -> tuple[_Layer, ...]:
    """Thirteen 3 x 3 convolutions in five groups, with the numbers of the layers in torchvision."""
    layers, before, place = [], 3, 0
    for group, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        place += group > 1  # the pooling has a number as well
        for index in range(count):
            pool = 2 if group > 1 and index == 0 else 0
            name = f"net.slice{group}.{place}"
            layers.append(_Layer(name, (before, width), 3, 1, 1, pool, index == count - 1))
            before, place = width, place + 2
    return tuple(layers)


NETWORKS = {
    "alex": (
        _Layer("net.slice1.0", (3, 64), 11, 4, 2, 0, True),
        _Layer("net.slice2.3", (64, 192), 5, 1, 2, 3, True),
        _Layer("net.slice3.6", (192, 384), 3, 1, 1, 3, True),
        _Layer("net.slice4.8", (384, 256), 3, 1, 1, 0, True),
        _Layer("net.slice5.10", (256, 256), 3, 1, 1, 0, True),
    ),
    "vgg": _vgg16(),
}


def shapes_of(network: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the file of weights of a network, "alex" or "vgg"."""
    layers = NETWORKS[network]
    shapes: dict[str, tuple[int, ...]] = {
        f"scaling_layer.{name}": (1, 3, 1, 1) for name in ("shift", "scale")
    }
    for layer in layers:
        before, after = layer.channels
        shapes[f"{layer.name}.weight"] = (after, before, layer.kernel, layer.kernel)
        shapes[f"{layer.name}.bias"] = (after,)
    for index, layer in enumerate(layer for layer in layers if layer.tapped):
        shapes[f"lin{index}.model.1.weight"] = (1, layer.channels[1], 1, 1)
    return shapes


def smallest_side(network: str) -> int:
    """The smallest side in pixels of a picture that the network accepts."""
    side = 1
    while not _reaches_the_end(network, side):
        side += 1
    return side


def _reaches_the_end(network: str, side: int) -> bool:
    for layer in NETWORKS[network]:
        if layer.pool:
            side = (side - layer.pool) // 2 + 1
        side = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
        if side < 1:
            return False
    return True


@dataclass(frozen=True)
class Lpips:
    """The measure. network: "alex" or "vgg". weights: tensors with the names and shapes of `shapes_of(network)`."""

    network: str
    weights: dict[str, Tensor]

    @torch.no_grad()
    def __call__(
        self, predicted: Float[Tensor, "B H W 3"], target: Float[Tensor, "B H W 3"]
    ) -> Float[Tensor, " B"]:
        """The distance of each pair: 0 for equal pictures, usually below 1. Predictions are clamped to [0, 1].

        Raises UserError for pictures that are smaller than the network accepts.
        """
        self.require_size(*predicted.shape[1:3])
        pairs = zip(predicted.split(_AT_ONCE), target.split(_AT_ONCE), strict=True)
        return torch.cat([self._distance(a.clamp(0.0, 1.0), b) for a, b in pairs])

    def require_size(self, height: int, width: int) -> None:
        """Raises UserError for pictures that are smaller than the network accepts."""
        smallest = smallest_side(self.network)
        if min(height, width) < smallest:
            raise UserError(
                f"pictures of {width} x {height} pixels are too small for LPIPS ({self.network}), which needs "
                f"{smallest} on each side: leave out --lpips and unset {VARIABLE}"
            )

    def _distance(self, a: Tensor, b: Tensor) -> Float[Tensor, " B"]:
        """Eq. 1 of the paper: squared differences of features of unit length, weighted by channel, averaged over
        space and summed over layers."""
        total = a.new_zeros(len(a))
        for index, (first, second) in enumerate(zip(self._features(a), self._features(b), strict=True)):
            weight = self.weights[f"lin{index}.model.1.weight"].to(a)
            total = total + F.conv2d((_unit(first) - _unit(second)).square(), weight).mean((1, 2, 3))
        return total

    def _features(self, pictures: Float[Tensor, "B H W 3"]) -> list[Float[Tensor, "B C h w"]]:
        """The outputs of the tapped layers, after their ReLU."""
        shift, scale = (self.weights[f"scaling_layer.{name}"].to(pictures) for name in ("shift", "scale"))
        x = (2.0 * pictures.permute(0, 3, 1, 2) - 1.0 - shift) / scale
        taps = []
        for layer in NETWORKS[self.network]:
            if layer.pool:
                x = F.max_pool2d(x, layer.pool, 2)
            weight, bias = (self.weights[f"{layer.name}.{kind}"].to(x) for kind in ("weight", "bias"))
            x = F.relu(F.conv2d(x, weight, bias, layer.stride, layer.padding))
            if layer.tapped:
                taps.append(x)
        return taps


def _unit(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def load_lpips(path: str | Path | None = None) -> Lpips | None:
    """The measure with the weights in `path`, or in the file that the variable THREEDGEN_LPIPS names.

    None if neither is given. Raises UserError, with the command that makes such a file, if it cannot be used.
    """
    path = path or os.environ.get(VARIABLE)
    if not path:
        return None
    return Lpips(*read_weights(path, {name: shapes_of(name) for name in NETWORKS}, "LPIPS", HOW))
