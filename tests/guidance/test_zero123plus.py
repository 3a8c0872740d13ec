"""Zero123++: the published layout loads, and does what its pipeline does."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from complaints import complaint
from tiny_pipelines import diffusers, edit

from threedgen.cameras.orbit import DISTANCE, spherical
from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.reference_attention import ReferenceUNet
from threedgen.guidance.priors.base import Condition, ReferenceView, WrappedPrior, roles_of
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.priors.view_layout import ViewLayout
from threedgen.guidance.prompting.image_conditions import ImageConditions, Picturing

SIZE = 16


@pytest.fixture(scope="module")
def prior(pipelines):
    options = {"size": SIZE}
    return load_prior(PriorConfig(path=str(pipelines["zero123plus"]), executor="eager", options=options))


def _seen(seed=0):
    return ReferenceView(torch.rand(20, 20, 3, generator=torch.Generator().manual_seed(seed)))


def _noise(seed=0):
    return torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(seed))


def _predicted(prior, **changes):
    condition = Condition(("",), **{"reference": _seen(), **changes})
    return prior.predict(_noise(), torch.tensor([0.5]), condition).v


def test_the_noise_is_that_of_linear_betas(prior):
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
    kept = (1.0 - betas).cumprod(0)
    t = torch.tensor([0.1, 0.5, 0.98])
    torch.testing.assert_close(prior.alpha(t).double(), kept[[100, 500, 980]].sqrt(), rtol=1e-4, atol=0)


def test_samples_are_moved_and_scaled_latents_of_pictures_with_less_contrast(prior, monkeypatch):
    """Against the formulas of the published pipeline: encode and decode are computed by an autoencoder that does
    nothing but show what it is given."""
    picture = torch.rand(1, 48, 32, 3, generator=torch.Generator().manual_seed(0))
    scaling = prior.codec.vae.config.scaling_factor
    latent = prior.codec.vae.encode((picture.permute(0, 3, 1, 2) * 2.0 - 1.0) * 0.5 / 0.8).latent_dist.mode()
    torch.testing.assert_close(prior.encode(picture), (latent * scaling - 0.22) * 0.75, atol=1e-5, rtol=1e-5)
    z = _noise()
    decoded = prior.codec.vae.decode((z / 0.75 + 0.22) / scaling).sample
    shown = (decoded / 0.5 * 0.8 / 2.0 + 0.5).permute(0, 2, 3, 1)
    torch.testing.assert_close(prior.decode(z), shown, atol=1e-5, rtol=1e-5)


def test_pictures_of_another_size_are_encoded_at_its_own(prior):
    assert prior.encode(torch.rand(1, 96, 64, 3)).shape == (1, 4, 24, 16)


def test_self_attention_looks_at_the_tokens_of_the_reference():
    """One layer, against softmax(q k^T) v written out over its own tokens and those of the other picture."""
    attention_module = diffusers().models.attention_processor
    torch.manual_seed(0)
    layer = attention_module.Attention(query_dim=8, heads=2, dim_head=4)

    class OneLayer(torch.nn.Module):
        config, dtype = None, torch.float32

        def __init__(self):
            super().__init__()
            self.layer = layer
            self.attn_processors = {"attn1.processor": layer.processor}

        def set_attn_processor(self, processors):
            layer.processor = processors["attn1.processor"]

        def forward(self, sample, **rest):
            return (self.layer(sample),)

    own, other = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    network = ReferenceUNet(OneLayer())
    (found,) = network(own, torch.zeros(2), own, reference=other)

    def heads(x, weights):
        return (x @ weights.weight.T).unflatten(2, (2, 4)).transpose(1, 2)

    both = torch.cat([own, other], dim=1)
    q, k, v = heads(own, layer.to_q), heads(both, layer.to_k), heads(both, layer.to_v)
    mixed = (q @ k.transpose(2, 3) / math.sqrt(4)).softmax(-1) @ v
    expected = layer.to_out[0](mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network(own, torch.zeros(2), own, reference=other)[0], found)


def test_a_reference_that_is_the_sample_itself_changes_nothing(pipelines):
    """Tokens that are there twice have the weights that they have once."""
    load = diffusers().UNet2DConditionModel.from_pretrained
    plain, looking = load(pipelines["zero123plus"] / "unet"), load(pipelines["zero123plus"] / "unet")
    z, states = _noise(), torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(1))
    timestep = torch.tensor([300])
    with torch.no_grad():
        alone = plain(z, timestep, states).sample
        (found,) = ReferenceUNet(looking)(z, timestep, states, reference=z)
        (other,) = ReferenceUNet(looking)(z, timestep, states, reference=0.5 - z[..., :8, :8])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    assert (other - alone).abs().max() > 1e-4


def test_what_the_network_is_told_of_the_picture(prior):
    """The latent without its scale, with noise of the same level, and the states of the empty text with the
    embedding in the shares of the folder; without the picture grey and the empty text alone."""
    condition = Condition(("not read",), reference=_seen())
    t = torch.tensor([0.4])
    given, without = (prior.arguments(_noise(), t, one) for one in (condition, condition.unconditional()))
    # In the memory layout of pictures: rounding decides the latent of a picture without any contrast.
    image = _seen().image[None].permute(0, 3, 1, 2)
    resize = {"mode": "bicubic", "antialias": True, "align_corners": False}
    vae = prior.codec.vae
    pixels = (F.interpolate(image, (24, 24), **resize).clamp(0, 1) - 0.5) / 0.8
    latents = [vae.encode(one).latent_dist.mode() for one in (pixels, torch.zeros_like(pixels))]
    difference = prior.alpha(t) * (latents[0] - latents[1])
    torch.testing.assert_close(given["reference"] - without["reference"], difference, atol=1e-5, rtol=1e-4)
    noise = (without["reference"] - prior.alpha(t) * latents[1]) / prior.sigma(t)
    assert 0.8 < float(noise.std()) < 1.2
    mean = torch.tensor([0.48, 0.46, 0.41])[:, None, None]
    std = torch.tensor([0.27, 0.26, 0.28])[:, None, None]
    embedding = prior._clip((F.interpolate(image, (32, 32), **resize).clamp(0, 1) - mean) / std).image_embeds
    empty = prior.text([""])["states"]
    torch.testing.assert_close(without["encoder_hidden_states"], empty)
    ramp = torch.linspace(0.0, 1.0, 77)[:, None]
    torch.testing.assert_close(given["encoder_hidden_states"], empty + embedding[:, None] * ramp)


def test_the_picture_matters_and_the_text_does_not(prior):
    first = _predicted(prior)
    assert torch.equal(first, _predicted(prior))
    assert not torch.equal(first, _predicted(prior, reference=_seen(1)))
    told = prior.predict(_noise(), torch.tensor([0.5]), Condition(("a mug",), reference=_seen())).v
    assert torch.equal(first, told)
    with pytest.raises(UserError, match="is given none"):
        prior.predict(_noise(), torch.tensor([0.5]), Condition(("",)))


@pytest.mark.parametrize(
    ("version", "elevations", "distance"),
    [("v1.1", (30.0, -20.0), DISTANCE), ("v1.2", (20.0, -10.0), 3.766)],
)
def test_the_cameras_of_each_version(pipelines, version, elevations, distance):
    """The azimuths are relative to the picture and the elevations are not; the ball of radius 0.975 that fills a
    usual view fills these as well."""
    config = PriorConfig(
        path=str(pipelines["zero123plus"]), options={"size": SIZE, "version": version}, executor="eager"
    )
    layout = roles_of(load_prior(config)).layout
    assert layout is not None
    cameras = layout.cameras(25.0, SIZE)
    azimuth, elevation, away = spherical(cameras)
    expected = torch.tensor([55.0, 115.0, 175.0, 235.0, 295.0, 355.0])
    torch.testing.assert_close(azimuth % 360.0, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(elevation, torch.tensor(elevations * 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(away, torch.full((6,), distance), atol=1e-3, rtol=0)
    half = torch.atan(0.5 * SIZE / cameras.intrinsics[0, 1, 1])
    assert float(away[0] * half.sin()) == pytest.approx(0.9748, abs=1e-3)


def test_tiles_are_read_row_by_row():
    layout = ViewLayout(3, 2, tuple(range(6)), (0.0,) * 6)
    picture = torch.zeros(1, 6, 4, 3)
    for index in range(6):
        row, column = divmod(index, 2)
        picture[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = float(index)
    views = layout.cut(picture)
    assert views.shape == (6, 2, 2, 3)
    assert views.amin((1, 2, 3)).tolist() == views.amax((1, 2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(layout.spread(torch.arange(6.0), 6, 4)[0, 0], picture[0, ..., 0])
    with pytest.raises(ValueError, match="as many azimuths"):
        ViewLayout(3, 2, (0.0,), (0.0,))


def test_a_picture_on_white_comes_onto_the_grey_of_the_model():
    layout = ViewLayout(1, 1, (0.0,), (0.0,), background=0.5)
    color, alpha = torch.rand(4, 4, 3), torch.rand(4, 4, 1)
    on_white, on_grey = color * alpha + (1.0 - alpha), color * alpha + 0.5 * (1.0 - alpha)
    torch.testing.assert_close(layout.behind(on_white, alpha), on_grey)


def test_it_is_no_prior_of_a_score_distillation(prior):
    for one in (prior, WrappedPrior(prior)):
        with pytest.raises(UserError, match="draws all views of an object as one picture"):
            ImageConditions(one, Picturing())


@pytest.mark.parametrize(
    ("file", "changes", "expected"),
    [
        ("model_index.json", {"ramping_coefficients": [0.5] * 3}, "are not 77 numbers"),
        ("model_index.json", {"ramping_coefficients": ["a"] * 77}, "are not 77 numbers"),
        ("model_index.json", {"ramping_coefficients": None}, "are not 77 numbers"),
        ("model_index.json", {"controlnet": ["diffusers", "ControlNetModel"]}, "its part controlnet"),
        ("model_index.json", {"vision_encoder": ["transformers", "ViTModel"]}, "vision encoder is ViTModel"),
        ("model_index.json", {"vision_encoder": None}, "lacks the part vision_encoder"),
        ("unet/config.json", {"in_channels": 8}, "takes 8 channels"),
        (
            "vision_encoder/config.json",
            {"projection_dim": 8},
            "of 8 numbers (vision_encoder), and its UNet reads 16",
        ),
        ("feature_extractor_vae/preprocessor_config.json", {"image_std": [0.0] * 3}, "image_std in"),
        ("feature_extractor_vae/preprocessor_config.json", {"image_mean": "grey"}, "image_mean in"),
        ("feature_extractor_clip/preprocessor_config.json", {"crop_size": {"height": 8}}, None),
        ("feature_extractor_clip/preprocessor_config.json", {"size": {"height": 8, "width": 9}}, "size in"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(copied, file, changes, expected):
    folder = copied("zero123plus")
    edit(folder / file, **changes)
    options = {"size": SIZE}
    if expected is None:
        load_prior(PriorConfig(path=str(folder), executor="eager", options=options))
    else:
        assert expected in complaint(folder, options=options)


def test_a_controlnet_and_a_missing_extractor_are_refused(copied, pipelines):
    folder = copied("zero123plus")
    assert "UNet that reads a text" in complaint(folder, control=str(pipelines["controlnet"]))
    (folder / "feature_extractor_vae" / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json' is missing" in complaint(folder, options={"size": SIZE})


def test_a_view_has_a_size_that_the_network_can_halve(pipelines):
    message = complaint(pipelines["zero123plus"], options={"size": 18})
    assert "options.size is 18" in message
    assert json.loads((pipelines["zero123plus"] / "model_index.json").read_text())["unet"]
