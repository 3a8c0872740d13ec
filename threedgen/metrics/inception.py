"""The InceptionV3 that published FIDs are measured with (Szegedy et al. 2016; the network of Heusel et al. 2017).

The user provides its weights: `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, converted once, see HOW.
The network differs from the InceptionV3 of model zoos: its average poolings do not count the border, and its
last block has a maximum pooling. Pictures are enlarged to 299 x 299 without antialiasing, as in pytorch-fid.
Other programs resize in other ways, so their FIDs differ slightly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

HOW = (
    'make it from the weights of pytorch-fid: python -c "import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('pt_inception-2015-12-05-6726825d.pth', map_location='cpu', weights_only=True), "
    "'inception.safetensors')\""
)
_SIDE = 299
_AT_ONCE = 8  # pictures that go through the network together
_EPSILON = 1e-3  # of the batch norms
_NORMS = ("weight", "bias", "running_mean", "running_var")


class _Conv(NamedTuple):
    """Convolution, batch norm and ReLU. valid: without padding; otherwise the size stays the same at stride 1."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False

    @property
    def padding(self) -> tuple[int, int]:
        return (0, 0) if self.valid else (self.kernel[0] // 2, self.kernel[1] // 2)


_Fork = tuple[_Conv, ...]  # convolutions of the same input, side by side; always at the end of a branch
_Branch = tuple["_Conv | _Fork | str", ...]  # a str names a pooling


def _conv3(name: str, width: int) -> _Conv:
    return _Conv(name, width, (3, 3))


def _halving(name: str, width: int) -> _Conv:
    return _Conv(name, width, (3, 3), 2, valid=True)


def _block_a(pool: int) -> tuple[_Branch, ...]:
    return (
        (_Conv("branch1x1", 64),),
        (_Conv("branch5x5_1", 48), _Conv("branch5x5_2", 64, (5, 5))),
        (_Conv("branch3x3dbl_1", 64), _conv3("branch3x3dbl_2", 96), _conv3("branch3x3dbl_3", 96)),
        ("average", _Conv("branch_pool", pool)),
    )


def _block_c(width: int) -> tuple[_Branch, ...]:
    across, along = (1, 7), (7, 1)
    return (
        (_Conv("branch1x1", 192),),
        (
            _Conv("branch7x7_1", width),
            _Conv("branch7x7_2", width, across),
            _Conv("branch7x7_3", 192, along),
        ),
        (
            _Conv("branch7x7dbl_1", width),
            _Conv("branch7x7dbl_2", width, along),
            _Conv("branch7x7dbl_3", width, across),
            _Conv("branch7x7dbl_4", width, along),
            _Conv("branch7x7dbl_5", 192, across),
        ),
        ("average", _Conv("branch_pool", 192)),
    )


def _block_e(pooling: str) -> tuple[_Branch, ...]:
    def fork(name: str) -> _Fork:
        return _Conv(f"{name}a", 384, (1, 3)), _Conv(f"{name}b", 384, (3, 1))

    return (
        (_Conv("branch1x1", 320),),
        (_Conv("branch3x3_1", 384), fork("branch3x3_2")),
        (_Conv("branch3x3dbl_1", 448), _conv3("branch3x3dbl_2", 384), fork("branch3x3dbl_3")),
        (pooling, _Conv("branch_pool", 192)),
    )


_STEM: _Branch = (
    _halving("Conv2d_1a_3x3", 32),
    _Conv("Conv2d_2a_3x3", 32, (3, 3), valid=True),
    _conv3("Conv2d_2b_3x3", 64),
    "halve",
    _Conv("Conv2d_3b_1x1", 80),
    _Conv("Conv2d_4a_3x3", 192, (3, 3), valid=True),
    "halve",
)
_BLOCKS: dict[str, tuple[_Branch, ...]] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": (
        (_halving("branch3x3", 384),),
        (_Conv("branch3x3dbl_1", 64), _conv3("branch3x3dbl_2", 96), _halving("branch3x3dbl_3", 96)),
        ("halve",),
    ),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": (
        (_Conv("branch3x3_1", 192), _halving("branch3x3_2", 320)),
        (
            _Conv("branch7x7x3_1", 192),
            _Conv("branch7x7x3_2", 192, (1, 7)),
            _Conv("branch7x7x3_3", 192, (7, 1)),
            _halving("branch7x7x3_4", 192),
        ),
        ("halve",),
    ),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("maximum"),
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the file of weights."""
    return dict(_shapes())


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    def walk(prefix: str, branch: _Branch, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for layer in branch:
            if isinstance(layer, str):
                continue
            convs = (layer,) if isinstance(layer, _Conv) else layer
            for conv in convs:
                yield f"{prefix}{conv.name}.conv.weight", (conv.width, channels, *conv.kernel)
                yield from ((f"{prefix}{conv.name}.bn.{norm}", (conv.width,)) for norm in _NORMS)
            channels = convs[0].width

    yield from walk("", _STEM, 3)
    channels = _width(_STEM, 3)
    for name, branches in _BLOCKS.items():
        for branch in branches:
            yield from walk(f"{name}.", branch, channels)
        channels = sum(_width(branch, channels) for branch in branches)


def _width(branch: _Branch, channels: int) -> int:
    """Number of output channels of a branch."""
    for layer in branch:
        if not isinstance(layer, str):
            channels = layer.width if isinstance(layer, _Conv) else sum(conv.width for conv in layer)
    return channels


class InceptionFeatures:
    """The 2048 numbers of the last pooling of the network."""

    label = "inception"
    size = 2048

    def __init__(self, path: str | Path) -> None:
        """path: the safetensors file, see HOW. Raises UserError."""
        from threedgen.metrics.weights import fingerprint, read_weights

        _, self._weights = read_weights(path, {"inception": shapes()}, "the InceptionV3 of FID", HOW)
        self.weights = fingerprint([Path(path).expanduser()])

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 2048"]:
        images = images.detach().to("cpu", torch.float32).clamp(0.0, 1.0)
        return torch.cat([self._pooled(group) for group in images.split(_AT_ONCE)]).double()

    def _pooled(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 2048"]:
        planes = images.permute(0, 3, 1, 2)
        x = F.interpolate(planes, (_SIDE, _SIDE), mode="bilinear", align_corners=False)
        x = self._branch("", _STEM, 2.0 * x - 1.0)
        for name, branches in _BLOCKS.items():
            x = torch.cat([self._branch(f"{name}.", branch, x) for branch in branches], dim=1)
        return x.mean((2, 3))

    def _branch(self, prefix: str, branch: Sequence[_Conv | _Fork | str], x: Tensor) -> Tensor:
        for layer in branch:
            if isinstance(layer, str):
                x = _pool(layer, x)
            elif isinstance(layer, _Conv):
                x = self._conv(prefix, layer, x)
            else:
                x = torch.cat([self._conv(prefix, conv, x) for conv in layer], dim=1)
        return x

    def _conv(self, prefix: str, conv: _Conv, x: Tensor) -> Tensor:
        name = prefix + conv.name
        x = F.conv2d(x, self._weights[f"{name}.conv.weight"], None, conv.stride, conv.padding)
        scale, shift, mean, variance = (self._weights[f"{name}.bn.{norm}"] for norm in _NORMS)
        return F.relu(F.batch_norm(x, mean, variance, scale, shift, eps=_EPSILON))


def _pool(kind: str, x: Tensor) -> Tensor:
    """Pooling over 3 x 3 pixels: "halve" has stride 2 and no border, the others keep the size."""
    if kind == "halve":
        return F.max_pool2d(x, 3, 2)
    if kind == "maximum":
        return F.max_pool2d(x, 3, 1, 1)
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
