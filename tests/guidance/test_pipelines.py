"""Pipeline folders of diffusers behind the Prior contract: the same numbers as the code of the pipelines."""

from __future__ import annotations

import shutil

import pytest
import torch
from recording import own_pipeline
from tiny_pipelines import PLAIN, diffusers, ring, transformers

from threedgen.cameras.orbit import view_features
from threedgen.guidance.priors.base import Condition, Prior
from threedgen.guidance.priors.load import load_folder

PROMPTS = ("a red cube", "a Blue cone ")


def own_text(pipeline, prompts, kind):
    options = (
        {"clean_caption": False}
        if kind in ("if", "cameras")
        else {"device": "cpu", "num_images_per_prompt": 1}
    )
    return pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False, **options)[0]


@pytest.mark.parametrize("kind", PLAIN)
def test_prediction_is_the_raw_call_of_the_pipelines_unet(pipelines, kind):
    """Tokens, attention masks, camera vector, 6-channel outputs and prediction type are all correct."""
    prior = load_folder(pipelines[kind])
    assert isinstance(prior, Prior)
    pipeline = own_pipeline(pipelines[kind])
    cameras = ring(2)
    x = prior.encode(torch.rand(2, 16, 16, 3))
    t, eps = torch.tensor([0.3, 0.7]), torch.randn_like(x)
    z = prior.add_noise(x, eps, t)
    prediction = prior.predict(z, t, Condition(PROMPTS, cameras=cameras))

    labels = view_features(cameras) if kind == "cameras" else None
    steps = torch.tensor([300, 700])
    with torch.no_grad():
        text = own_text(pipeline, PROMPTS, kind)
        raw = pipeline.unet(z, steps, encoder_hidden_states=text, class_labels=labels).sample
    form = prediction.v if kind in ("sd2", "cameras") else prediction.eps
    torch.testing.assert_close(form, raw[:, : x.shape[1]], rtol=1e-4, atol=1e-5)
    # The noise is that of the scheduler in the folder.
    torch.testing.assert_close(z, pipeline.scheduler.add_noise(x, eps, steps))
    assert not prediction.eps.requires_grad


@pytest.mark.parametrize("kind", PLAIN)
def test_encoding_is_differentiable_and_the_network_frozen(pipelines, kind):
    prior = load_folder(pipelines[kind])
    images = torch.rand(1, 24, 24, 3, requires_grad=True)  # not the native size: resized on the way
    x = prior.encode(images)
    assert x.shape == ((1, 4, 16, 16) if prior.latent else (1, 3, 16, 16))
    assert prior.image_size == (32 if prior.latent else 16)
    x.square().sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.99
    assert prior.decode(x.detach()).shape == (1, prior.image_size, prior.image_size, 3)
    networks = [prior.network] if not prior.latent else [prior.network, prior.codec.vae]
    assert not any(p.requires_grad for network in networks for p in network.parameters())


def test_latents_are_the_scaled_modes_of_the_autoencoder(pipelines):
    prior, pipeline = load_folder(pipelines["sd1"]), own_pipeline(pipelines["sd1"])
    images = torch.rand(2, 32, 32, 3)
    with torch.no_grad():
        own = pipeline.vae.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode() * 0.3
        torch.testing.assert_close(prior.encode(images), own)
        decoded = pipeline.vae.decode(own / 0.3).sample.permute(0, 2, 3, 1) / 2 + 0.5
        torch.testing.assert_close(prior.decode(own), decoded)


def test_the_camera_and_each_prompt_change_the_prediction(pipelines):
    prior = load_folder(pipelines["cameras"])
    assert prior.camera_conditioned
    z, t = torch.randn(1, 3, 16, 16).repeat(4, 1, 1, 1), torch.full((4,), 0.5)
    views = ring(4)[torch.tensor([0, 1, 0, 0])]
    answers = prior.predict(z, t, Condition(("a cube", "a cube", "a cone", "a cube"), cameras=views)).v
    torch.testing.assert_close(answers[0], answers[3])
    assert (answers[0] - answers[1]).abs().max() > 1e-4
    assert (answers[0] - answers[2]).abs().max() > 1e-6
    anywhere = prior.predict(z[:1], t[:1], Condition(("a cube",))).v
    assert (answers[:1] - anywhere).abs().max() > 1e-4


def test_each_text_is_encoded_once_and_the_encoder_comes_back_when_needed(pipelines):
    prior = load_folder(pipelines["sd1"])
    prior.prepare(["a cube", "a cone", "a cube"])
    calls = []
    load = prior.text._load
    prior.text._load = lambda: calls.append(1) or load()
    before = prior.text(["a cube", "a cube"])["states"]
    assert not calls
    assert torch.equal(before[0], before[1])
    prior.text(["a torus"])
    assert len(calls) == 1


def test_half_precision_weights_are_computed_in_float32(pipelines, tmp_path):
    """The embedded weights are float16 on disk and float32 in memory on a CPU."""
    folder = tmp_path / "half"
    shutil.copytree(pipelines["cameras"], folder)
    half = diffusers().UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16)
    half.save_pretrained(folder / "unet")
    encoder = transformers().CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float16)
    encoder.save_pretrained(folder / "text_encoder")
    prior = load_folder(folder)
    assert {p.dtype for p in prior.network.parameters()} == {torch.float32}
    torch.testing.assert_close(prior.network.conv_in.weight, half.conv_in.weight.float())
    states = prior.text(["a cube"])["states"]
    assert states.dtype == torch.float32
    torch.testing.assert_close(
        states, load_folder(pipelines["cameras"]).text(["a cube"])["states"], rtol=0, atol=1e-2
    )
