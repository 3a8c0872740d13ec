"""LPIPS: how different two pictures look (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018), version 0.1, over AlexNet or VGG16.

The weights are the user's: one safetensors file with the names of `lpips.LPIPS(net=...).state_dict()`, see HOW.
Here are the two networks as plain convolutions, so that neither lpips nor torchvision need be installed.
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
_AT_ONCE = 8  # pictures; VGG16's first layers take 64 numbers a pixel


class _Layer(NamedTuple):
    """A convolution and its ReLU. pool: side of the max-pooling before it, stride 2, or 0. tapped: compared."""

    name: str
    channels: tuple[int, int]
    kernel: int
    stride: int
    padding: int
    pool: int
    tapped: bool


def _vgg16() -> tuple[_Layer, ...]:
    """Thirteen 3x3 convolutions in five groups, numbered as torchvision numbers its list of layers."""
    layers, before, place = [], 3, 0
    for group, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        place += group > 1  # the pooling has a number, too
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
    """Names and shapes of the tensors that the file of a network ("alex", "vgg") must hold."""
    layers = NETWORKS[network]
    shapes: dict[str, tuple[int, ...]] = {
        f"scaling_layer.{part}": (1, 3, 1, 1) for part in ("shift", "scale")
    }
    for layer in layers:
        before, after = layer.channels
        shapes[f"{layer.name}.weight"] = (after, before, layer.kernel, layer.kernel)
        shapes[f"{layer.name}.bias"] = (after,)
    for index, layer in enumerate(layer for layer in layers if layer.tapped):
        shapes[f"lin{index}.model.1.weight"] = (1, layer.channels[1], 1, 1)
    return shapes


def smallest_side(network: str) -> int:
    """Pixels that a picture needs on each side."""
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
    """network: "alex" or "vgg". weights: of `shapes_of(network)`."""

    network: str
    weights: dict[str, Tensor]

    @torch.no_grad()
    def __call__(
        self, predicted: Float[Tensor, "B H W 3"], target: Float[Tensor, "B H W 3"]
    ) -> Float[Tensor, " B"]:
        """The distance of each pair, 0 for equal pictures, mostly below 1; predictions clamped to [0, 1].

        Raises UserError for pictures smaller than the network takes.
        """
        self.require_size(*predicted.shape[1:3])
        pairs = zip(predicted.split(_AT_ONCE), target.split(_AT_ONCE), strict=True)
        return torch.cat([self._distance(a.clamp(0.0, 1.0), b) for a, b in pairs])

    def require_size(self, height: int, width: int) -> None:
        """Raises UserError for pictures smaller than the network takes."""
        smallest = smallest_side(self.network)
        if min(height, width) < smallest:
            raise UserError(
                f"pictures of {width} x {height} pixels are too small for LPIPS ({self.network}), which needs "
                f"{smallest} on each side: leave --lpips out, and unset {VARIABLE}"
            )

    def _distance(self, a: Tensor, b: Tensor) -> Float[Tensor, " B"]:
        """Eq. 1 of the paper: squared differences of unit-length features, weighted by channel, averaged over
        space, summed over layers."""
        total = a.new_zeros(len(a))
        for index, (first, second) in enumerate(zip(self._features(a), self._features(b), strict=True)):
            weight = self.weights[f"lin{index}.model.1.weight"].to(a)
            total = total + F.conv2d((_unit(first) - _unit(second)).square(), weight).mean((1, 2, 3))
        return total

    def _features(self, pictures: Float[Tensor, "B H W 3"]) -> list[Float[Tensor, "B C h w"]]:
        """Of the tapped layers, after their ReLU."""
        shift, scale = (self.weights[f"scaling_layer.{part}"].to(pictures) for part in ("shift", "scale"))
        x = (2.0 * pictures.permute(0, 3, 1, 2) - 1.0 - shift) / scale
        taps = []
        for layer in NETWORKS[self.network]:
            if layer.pool:
                x = F.max_pool2d(x, layer.pool, 2)
            weight, bias = (self.weights[f"{layer.name}.{part}"].to(x) for part in ("weight", "bias"))
            x = F.relu(F.conv2d(x, weight, bias, layer.stride, layer.padding))
            if layer.tapped:
                taps.append(x)
        return taps


def _unit(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def load_lpips(path: str | Path | None = None) -> Lpips | None:
    """The measure with the weights of `path`, else of the file that THREEDGEN_LPIPS names; None where neither
    names one. Raises UserError, with the command that makes the file, for one that cannot be used."""
    path = path or os.environ.get(VARIABLE)
    if not path:
        return None
    return Lpips(*read_weights(path, {name: shapes_of(name) for name in NETWORKS}, "LPIPS", HOW))
