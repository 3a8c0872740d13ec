"""Feature networks: determinism, pictures of any size, what they must tell apart, bad names and files."""

from __future__ import annotations

import json
from typing import Any

import kornia
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.datasets import world
from threedgen.metrics import inception
from threedgen.metrics.distribution import fid
from threedgen.metrics.features import EmbeddedFeatures, load_features


@pytest.fixture(scope="module")
def embedded() -> EmbeddedFeatures:
    return EmbeddedFeatures()


def pictures(size: int = 64) -> Tensor:
    """Six cars and chairs from two sides."""
    views = orbit(
        torch.tensor([30.0, 200.0]), torch.tensor([20.0, 40.0]), torch.full((2,), 2.85), 40.0, size, size
    )
    scenes = [
        world.canonical(shape, color) for shape in ("car", "chair") for color in ("red", "blue", "yellow")
    ]
    return torch.cat([world.render(scene, views)[0] for scene in scenes]).clamp(0.0, 1.0)


@pytest.fixture(scope="module")
def shown() -> Tensor:
    return pictures()


def blurred(images: Tensor, sigma: float) -> Tensor:
    planes = images.permute(0, 3, 1, 2)
    return kornia.filters.gaussian_blur2d(planes, (9, 9), (sigma, sigma)).permute(0, 2, 3, 1)


def test_features_are_deterministic_and_depend_on_their_picture_only(embedded, shown):
    features = embedded(shown)
    assert features.shape == (12, embedded.size)
    assert embedded.size == 296
    assert features.dtype == torch.float64
    torch.testing.assert_close(embedded(shown), features, rtol=0, atol=0)
    torch.testing.assert_close(embedded(shown[5:6]), features[5:6], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(EmbeddedFeatures()(shown[:1]), features[:1], rtol=1e-4, atol=1e-5)
    assert len(embedded.weights) == 12


def test_the_features_of_white_are_zero_and_those_of_objects_about_one(embedded, shown):
    assert embedded(torch.ones(2, 64, 64, 3)).abs().max() < 1e-4
    assert 0.3 < float(embedded(shown).square().mean().sqrt()) < 3.0


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (40, 100), (96, 64)])
def test_pictures_may_have_any_size(embedded, size):
    features = embedded(torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (2, 296)
    assert bool(torch.isfinite(features).all())


def test_blur_counts_even_if_the_reduced_picture_hides_it(embedded):
    """Stripes of one pixel in 128 x 128 are grey in the whole picture at 32 x 32, but not in its tiles."""
    stripes = (torch.arange(128) % 2).float().expand(1, 128, 128)[..., None].expand(1, 128, 128, 3)
    grey = torch.full_like(stripes, 0.5)
    difference = (embedded(stripes) - embedded(grey))[0].abs()
    assert difference[168:].max() < 1e-3, "the whole picture"
    assert difference[:168].mean() > 0.1, "the tiles"


def test_distance_grows_with_blur_and_with_noise(embedded, shown):
    here = embedded(shown)
    noise = torch.randn(shown.shape, generator=torch.Generator().manual_seed(0))
    for spoilt in (
        [shown, *(blurred(shown, sigma) for sigma in (0.6, 1.0, 2.0))],
        [shown, *((shown + s * noise).clamp(0.0, 1.0) for s in (0.02, 0.1))],
    ):
        distances = [fid(here, embedded(images)) for images in spoilt]
        assert distances == sorted(distances)
        assert distances[0] < 1e-3 < distances[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg", "network 'vgg': use embedded, clip:FOLDER, efficientnet:FILE, inception:FILE"),
        ("clip", "'clip' names no file"),
        ("clip:", "unknown feature network"),
        ("embedded:x", "unknown feature network"),
        ("clip:/nowhere", "there is no folder '/nowhere'"),
        ("efficientnet", "'efficientnet' names no file"),
        ("efficientnet:/nowhere", "there is no file '/nowhere' of EfficientNet-Lite0; make it"),
        ("inception:/nowhere", "there is no file '/nowhere' of the InceptionV3 of FID; make it"),
    ],
)
def test_bad_names_are_refused_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        load_features(name)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=12,
    )
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    model: Any = CLIPVisionModelWithProjection(config)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def test_a_local_clip_is_normalised_as_its_folder_states(clip_folder, tmp_path, shown):
    network = load_features(f"clip:{clip_folder}")
    assert (network.label, network.size) == ("clip:tiny", 12)
    features = network(shown)
    assert features.shape == (12, 12)
    torch.testing.assert_close(network(shown[3:4]), features[3:4], rtol=1e-4, atol=1e-5)
    assert fid(features, network(blurred(shown, 2.0))) > 0.0
    other = tmp_path / "tiny"
    other.mkdir()
    for file in clip_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.1] * 3})
    )
    assert not torch.allclose(load_features(f"clip:{other}")(shown), features)


def with_setting(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "it has no config.json"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "a model of type bert"),
        (lambda f: (f / "model.safetensors").unlink(), "no .safetensors weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 20), "cannot be loaded"),
        (lambda f: save_file({"x": torch.zeros(1)}, f / "model.safetensors"), "lacks weights"),
        (lambda f: with_setting(f, hidden_size="wide"), "cannot be loaded"),
        (lambda f: with_setting(f, num_attention_heads=3), "cannot be loaded"),
        (lambda f: with_setting(f, hidden_act="none"), "cannot be loaded"),
    ],
)
def test_a_broken_clip_is_refused_in_one_line(clip_folder, tmp_path, damage, message):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in clip_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_features(f"clip:{folder}")
    assert "\n" not in str(caught.value)


def test_the_inception_is_the_published_one_in_names_and_shapes():
    """`inception-2015-12-05` without its last layer: 94 convolutions with batch norms, 21.8 million weights."""
    shapes = inception.shapes()
    assert len(shapes) == 94 * 5
    counted = sum(int(torch.Size(shape).numel()) for name, shape in shapes.items() if "running" not in name)
    assert counted == 21_785_568
    assert shapes["Conv2d_4a_3x3.conv.weight"] == (192, 80, 3, 3)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_6c.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_2.conv.weight"] == (192, 192, 1, 7)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert shapes["Mixed_7c.branch_pool.bn.running_var"] == (192,)


def test_an_inception_of_a_file_gives_2048_features(tmp_path):
    rng = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in inception.shapes().items():
        spread = (2.0 / max(1, int(torch.Size(shape[1:]).numel()))) ** 0.5
        ones = name.endswith(("bn.weight", "running_var"))
        weights[name] = (
            torch.ones(shape) if ones else torch.randn(shape, generator=rng) * (spread if shape[1:] else 0)
        )
    save_file(weights, tmp_path / "i.safetensors")
    network = load_features(f"inception:{tmp_path / 'i.safetensors'}")
    image = torch.rand(1, 20, 20, 3, generator=rng)
    features = network(image)
    assert (network.label, network.size, tuple(features.shape)) == ("inception", 2048, (1, 2048))
    assert bool((features >= 0.0).all()), "after a ReLU"
    assert float(features.std()) > 0.0
    del weights["Mixed_6b.branch7x7_2.conv.weight"]
    save_file(weights, tmp_path / "i.safetensors")
    with pytest.raises(UserError, match=r"Mixed_6b\.branch7x7_2\.conv\.weight is missing"):
        load_features(f"inception:{tmp_path / 'i.safetensors'}")
