"""EfficientNet-Lite0 with drawn weights, its file, its class names, and text-image scores of a planted classifier.

That the logits of the published weights are the published ones was checked by hand: see the class's docstring.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.metrics import efficientnet
from threedgen.metrics.efficientnet import (
    CLASSES,
    EfficientNet,
    TextImageScorer,
    class_names,
    semantic_embedding,
)
from threedgen.metrics.features import load_features


def drawn_weights() -> dict[str, Tensor]:
    """Weights with which activations keep their size."""
    rng, weights = torch.Generator().manual_seed(0), {}
    for name, shape in efficientnet.shapes().items():
        inputs = torch.Size(shape[1:]).numel()
        weights[name] = torch.randn(shape, generator=rng) * (2.0 / inputs) ** 0.5
        if name.endswith(("bn0.weight", "bn1.weight", "bn2.weight", "running_var")):
            weights[name] = 0.5 + torch.rand(shape, generator=rng)
        elif len(shape) == 1:
            weights[name] = torch.randn(shape, generator=rng) * 0.1
    return weights


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("efficientnet") / "lite0.safetensors"
    save_file(drawn_weights(), path)
    return path


@pytest.fixture(scope="module")
def network(file) -> EfficientNet:
    return cast(EfficientNet, load_features(f"efficientnet:{file}"))


def noise(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_published_network_in_names_and_shapes():
    """EfficientNet-Lite0: 4.65 million weights, 49 convolutions with batch norms and a linear layer."""
    shapes = efficientnet.shapes()
    assert len(shapes) == 49 * 5 + 2
    counted = sum(torch.Size(shape).numel() for name, shape in shapes.items() if "running" not in name)
    assert counted == 4_652_008
    assert shapes["_conv_stem.weight"] == (32, 3, 3, 3)
    assert "_blocks.0._expand_conv.weight" not in shapes
    assert shapes["_blocks.3._depthwise_conv.weight"] == (144, 1, 5, 5)
    assert shapes["_blocks.15._project_conv.weight"] == (320, 1152, 1, 1)
    assert shapes["_bn1.running_var"] == (1280,)
    assert shapes["_fc.weight"] == (1000, 1280)


def test_features_and_logits_have_their_shapes(network):
    features = network(noise(2, 40, 60))
    assert (network.label, network.size, tuple(features.shape)) == ("efficientnet", 1280, (2, 1280))
    assert features.dtype == torch.float64
    assert bool(((features >= 0.0) & (features <= 6.0)).all()), "after a ReLU6"
    assert float(features.std()) > 0.0
    assert network.logits(noise(2, 40, 60)).shape == (2, CLASSES)
    assert len(network.weights) == 12


def test_features_are_deterministic_and_depend_on_their_picture_only(network):
    images = noise(10, 32, 32)  # more than go through the network together
    features = network(images)
    torch.testing.assert_close(network(images), features, rtol=0, atol=0)
    torch.testing.assert_close(network(images[9:]), features[9:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(features[0], features[1], atol=1e-2)


def test_pictures_are_resized_as_a_whole_and_clamped(network):
    small = noise(1, 56, 56)
    large = small.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)  # 448: halved exactly
    exact = small.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    torch.testing.assert_close(network(large), network(exact), rtol=1e-4, atol=1e-4)
    corner = exact.clone()
    corner[:, :8, :8] = 1.0 - corner[:, :8, :8]
    assert not torch.allclose(network(corner), network(exact), atol=1e-4), "nothing is cropped"
    torch.testing.assert_close(network(3.0 * exact - 1.0), network((3.0 * exact - 1.0).clamp(0.0, 1.0)))


def test_pixels_are_normalised_as_in_the_training(network, monkeypatch):
    """127 of 255 becomes 0, 255 becomes 1."""
    seen = []
    monkeypatch.setattr(network, "_conv", lambda x, *rest: seen.append(x) or x.new_zeros(1, 32, 112, 112))
    monkeypatch.setattr(network, "_block", lambda x, block: x)
    network(torch.stack([torch.full((224, 224, 3), 127.0 / 255.0), torch.ones(224, 224, 3)]))
    assert float(seen[0][0].abs().max()) < 1e-5
    torch.testing.assert_close(seen[0][1], torch.ones(3, 224, 224))


def test_convolutions_are_padded_as_tensorflow_does(network):
    """At stride 2 a kernel of 3 begins at the first pixel, so the border is below and on the right only."""
    x = torch.zeros(1, 3, 8, 8)
    x[:, :, 0, 0] = 1.0
    blank = network._conv(torch.zeros(1, 3, 8, 8), "_conv_stem", "_bn0", 2)
    y = network._conv(x, "_conv_stem", "_bn0", 2) - blank
    weights = network._weights
    scale = weights["_bn0.weight"] / (weights["_bn0.running_var"] + 1e-3).sqrt()
    expected = scale * weights["_conv_stem.weight"][:, :, 0, 0].sum(1)
    assert y.shape == (1, 32, 4, 4)
    torch.testing.assert_close(y[0, :, 0, 0], expected, rtol=1e-4, atol=1e-5)
    assert float(y[0, :, 1:].abs().max()) == float(y[0, :, :, 1:].abs().max()) == 0.0


# TensorFlow's "SAME" for even sides: pixels before and after, by kernel and stride.
BORDERS = {(1, 1): (0, 0), (3, 1): (1, 1), (5, 1): (2, 2), (3, 2): (0, 1), (5, 2): (1, 2)}


def reference(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """The pooled features of pictures of 224 pixels, with the modules of torch and the strides of the paper."""

    def convolved(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{conv}.weight"]
        layer = torch.nn.Conv2d(
            x.shape[1],
            len(kernel),
            kernel.shape[-1],
            stride,
            groups=x.shape[1] // kernel.shape[1],
            bias=False,
        )
        normed = torch.nn.BatchNorm2d(len(kernel), eps=1e-3).eval()
        layer.load_state_dict({"weight": kernel})
        parts = ("weight", "bias", "running_mean", "running_var")
        normed.load_state_dict({part: weights[f"{norm}.{part}"] for part in parts}, strict=False)
        lower, upper = BORDERS[kernel.shape[-1], stride]
        return normed(layer(F.pad(x, (lower, upper, lower, upper))))

    x = (images.permute(0, 3, 1, 2) * 255.0 - 127.0) / 128.0
    x = convolved(x, "_conv_stem", "_bn0", 2).clamp(0.0, 6.0)
    for number in range(16):
        name, before = f"_blocks.{number}.", x
        if number > 0:
            x = convolved(x, f"{name}_expand_conv", f"{name}_bn0").clamp(0.0, 6.0)
        stride = 2 if number in (1, 3, 5, 11) else 1
        x = convolved(x, f"{name}_depthwise_conv", f"{name}_bn1", stride).clamp(0.0, 6.0)
        x = convolved(x, f"{name}_project_conv", f"{name}_bn2")
        if x.shape == before.shape:
            x = x + before
    return convolved(x, "_conv_head", "_bn1").clamp(0.0, 6.0).mean((2, 3))


@torch.no_grad()
def test_features_are_those_of_the_network_written_with_modules(network):
    images = noise(2, 224, 224)
    torch.testing.assert_close(
        network(images).float(), reference(drawn_weights(), images), rtol=1e-4, atol=1e-4
    )


def without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: without(w, "_blocks.7._bn1.bias"),
            r"_blocks\.7\._bn1\.bias is missing, \[480\] is needed",
        ),
        (lambda w: w | {"_fc.bias": torch.zeros(10)}, r"_fc\.bias is \[10\], \[1000\] is needed"),
        (lambda w: w | {"_fc.bias": torch.full((1000,), torch.nan)}, r"not finite \(first: _fc\.bias\)"),
        (lambda w: {"x": torch.zeros(1)}, "does not hold EfficientNet-Lite0"),
        (None, "is not a safetensors file"),
    ],
)
def test_other_files_are_refused_in_one_line_that_says_how_to_make_one(change, message, tmp_path):
    path = tmp_path / "other.safetensors"
    if change is None:
        path.write_bytes(b"PK\x03\x04 a pickle of torch")
    else:
        save_file(change(drawn_weights()), path)
    with pytest.raises(UserError, match=message) as caught:
        EfficientNet(path)
    assert "\n" not in str(caught.value)
    assert "python -c" in str(caught.value)


def test_every_class_has_its_name():
    """Three of them are what the published network sees in scikit-image's pictures of a cat, a cup and a camera."""
    names = class_names()
    assert len(names) == CLASSES
    assert all(name == name.strip() != "" for name in names)
    known = {0: "tench", 281: "tabby cat", 388: "giant panda", 872: "tripod", 967: "espresso", 999: "toilet"}
    assert all(word in names[place] for place, word in known.items())


def test_a_picture_lies_among_its_most_probable_classes():
    names = torch.eye(4)
    probabilities = torch.tensor([[0.6, 0.3, 0.1, 0.0], [0.0, 0.0, 0.2, 0.8]])
    expected = F.normalize(torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 4.0]]), dim=1)
    torch.testing.assert_close(semantic_embedding(probabilities, names, top=2), expected)


WORDS = ("cat", "lamp", "piano")
PLACES = {"cat": 281, "lamp": 846, "piano": 579}


def planted_vectors(texts) -> Tensor:
    """A direction for each word, which the names of its class share; one more for all other names."""
    vectors = torch.zeros(len(texts), 4)
    names = class_names()
    for index, text in enumerate(texts):
        place = next((n for n, word in enumerate(WORDS) if text in (word, names[PLACES[word]])), 3)
        vectors[index, place] = 1.0
    return vectors


def planted_logits(images: Tensor) -> Tensor:
    """Red pictures show a cat, green ones a lamp, blue ones a piano."""
    logits = torch.zeros(len(images), CLASSES)
    logits[:, [PLACES[word] for word in WORDS]] = 12.0 * images.mean((1, 2))
    return logits


def painted(*colors: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colors)[:, None, None].expand(-1, 8, 8, -1)


RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@pytest.mark.parametrize(("color", "word"), [(RED, "cat"), (GREEN, "lamp"), (BLUE, "piano")])
def test_what_the_classifier_sees_is_the_nearest_word(color, word):
    scorer = TextImageScorer(planted_logits, planted_vectors, WORDS)
    score = scorer.score(painted(color, color), word)
    assert (score.nearest, score.rank) == (word, 0)
    assert score.similarity > 0.99
    other = scorer.score(painted(color), next(w for w in WORDS if w != word))
    assert other.nearest == word
    assert other.rank >= 1
    assert other.similarity < 0.1


def test_the_probabilities_of_views_are_averaged():
    scorer = TextImageScorer(planted_logits, planted_vectors, WORDS)
    score = scorer.score(painted(GREEN, RED, GREEN), "cat")
    assert (score.nearest, score.rank) == ("lamp", 1)
    assert score.similarity == pytest.approx(1.0 / 5.0**0.5, abs=0.02)
    with pytest.raises(KeyError, match="dog"):
        scorer.score(painted(RED), "dog")
