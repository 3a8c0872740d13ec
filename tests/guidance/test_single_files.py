"""Models that are one file: the same gradients as the folder, what a file lacks, and files that are no model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import original_layouts as original
import pytest
import torch
from complaints import complaint
from safetensors.torch import load_file, save_file
from tiny_pipelines import diffusers, noise

from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.base import FORMS
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import PriorConfig, load_prior

_NONE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
SIDE = 32


@pytest.fixture(autouse=True)
def own_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("THREEDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def stable_diffusion(root: Path, second: bool = False) -> tuple[Path, Path]:
    """A folder of Stable Diffusion 1 or 2, and the same weights as a single file elsewhere."""
    torch.manual_seed(0)
    tokenizer, encoder = original.text_encoder(activation="gelu" if second else "quick_gelu")
    unet, vae = (
        original.plain_unet(64, 96 if second else 64, linear=second),
        original.plain_autoencoder(0.18215),
    )
    diffusers().StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=noise("v_prediction" if second else "epsilon"),
        **_NONE,
    ).save_pretrained(root / "folder")
    text = (
        original.open_clip(encoder, "cond_stage_model.model.", extra_layer=True)
        if second
        else original.clip(encoder)
    )
    (root / "single").mkdir(parents=True)
    file = original.write(
        root / "single" / "model.safetensors", original.unet(unet), original.autoencoder(vae), text
    )
    return root / "folder", file


def xl(root: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    first, second = original.text_encoder(), original.text_encoder(projection=True, activation="gelu")
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    unet = original.plain_unet(
        128, 128, linear=True, projection_class_embeddings_input_dim=6 * 8 + 64, **added
    )
    vae = original.plain_autoencoder(0.13025)
    diffusers().StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first[1],
        text_encoder_2=second[1],
        tokenizer=first[0],
        tokenizer_2=second[0],
        unet=unet,
        scheduler=noise(),
        add_watermarker=False,
    ).save_pretrained(root / "folder")
    (root / "single").mkdir(parents=True)
    file = original.write(
        root / "single" / "xl.safetensors",
        original.unet(unet),
        original.autoencoder(vae),
        original.clip(first[1], "conditioner.embedders.0.transformer."),
        original.open_clip(second[1], "conditioner.embedders.1.model."),
    )
    return root / "folder", file


def gradient(prior: Any) -> torch.Tensor:
    """Of the distance to what the prior predicts, in the pixels, of a fixed picture in fixed noise."""
    prior.image_size = prior.codec.size = SIDE
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, SIDE, SIDE, 3, generator=generator).requires_grad_()
    x = prior.encode(images)
    eps = torch.randn(x.shape, generator=generator)
    t = torch.tensor([0.5])
    guess = prior.predict(prior.add_noise(x.detach(), eps, t), t, Condition(("a cube, red",)))
    ((guess.eps - eps) * x).sum().backward()
    assert images.grad is not None
    return images.grad


def load(path: Path, **options: Any) -> Any:
    return load_prior(PriorConfig(path=str(path), executor="eager", **options))


@pytest.mark.parametrize("family", ["1", "2", "xl"])
def test_a_single_file_and_a_folder_of_the_same_weights_give_the_same_gradients(tmp_path, family):
    folder, file = xl(tmp_path) if family == "xl" else stable_diffusion(tmp_path, family == "2")
    options = {"prediction": "v_prediction"} if family == "2" else {}
    whole, single = load(folder), load(file, tokenizer=str(folder / "tokenizer"), **options)
    assert single.image_size == {"1": 128, "2": 192, "xl": 256}[family] == whole.image_size
    expected = gradient(whole)
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(single), expected, rtol=1e-4, atol=1e-6)


def test_the_tokenizer_is_found_or_named(tmp_path, monkeypatch):
    folder, file = stable_diffusion(tmp_path)
    message = complaint(file)
    assert "is Stable Diffusion 1.x and lacks tokenizer: name a pipeline folder" in message
    assert "--tokenizer FOLDER" in message
    assert "there is no folder" in complaint(file, tokenizer="nowhere")
    shutil.copytree(folder / "tokenizer", file.parent / "tokenizer")  # beside the file
    load(file)
    shutil.move(
        file.parent / "tokenizer", tmp_path / "hub/models--openai--clip-vit-large-patch14/snapshots/0"
    )
    load(file)
    assert "is for a model that is a single file" in complaint(folder, tokenizer=str(folder))


def test_a_tokenizer_of_other_words_is_not_taken(tmp_path, pipelines):
    _, file = stable_diffusion(tmp_path)
    assert "lacks tokenizer" in complaint(file, tokenizer=str(pipelines["sd1"]))


def test_parts_that_are_not_in_the_file_are_those_of_a_folder_of_the_family(tmp_path):
    folder, file = stable_diffusion(tmp_path)
    shapes = load_file(file)
    expected = gradient(load(folder))
    denoiser = tmp_path / "single" / "unet_only.safetensors"
    save_file({name: value for name, value in shapes.items() if name.startswith("model.")}, denoiser)
    assert "lacks vae, text_encoder, tokenizer" in complaint(denoiser)
    torch.testing.assert_close(
        gradient(load(denoiser, tokenizer=str(folder))), expected, rtol=1e-4, atol=1e-6
    )
    other = xl(tmp_path / "other")[0]
    assert "lacks vae, text_encoder, tokenizer" in complaint(denoiser, tokenizer=str(other))


def test_what_a_file_of_stable_diffusion_2_predicts_must_be_known(tmp_path):
    folder, file = stable_diffusion(tmp_path, second=True)
    options = {"tokenizer": str(folder / "tokenizer")}
    assert "does not say what it predicts: set prior.prediction=v_prediction" in complaint(file, **options)
    assert "unknown prior.prediction 'x'" in complaint(file, prediction="x", **options)
    assert load(file, prediction="epsilon", **options).image_size == 64 * 2  # latents of a base model
    save_file({**load_file(file), "v_pred": torch.zeros(0)}, file)
    assert load(file, **options).form is FORMS["v_prediction"]


@pytest.mark.parametrize(
    "missing", ["model.diffusion_model.time_embed.0.weight", "cond_stage_model", "encoder.mid"]
)
def test_weights_that_a_file_lacks_are_not_filled_with_noise(tmp_path, missing):
    folder, file = stable_diffusion(tmp_path)
    kept = {
        name: value for name, value in load_file(file).items() if missing not in name or "embeddings" in name
    }
    save_file(kept, file)
    message = complaint(file, tokenizer=str(folder / "tokenizer"))
    assert "weights (first:" in message or "is not a whole Stable Diffusion 1.x" in message


def test_a_truncated_file(tmp_path):
    folder, file = stable_diffusion(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    assert "truncated or corrupt" in complaint(file, tokenizer=str(folder))


def test_a_file_that_changes_while_it_is_in_use(tmp_path):
    folder, file = stable_diffusion(tmp_path)
    prior = load(file, tokenizer=str(folder / "tokenizer"))
    prior.text.release()
    os.utime(file)
    with pytest.raises(UserError, match="changed while it was in use"):
        prior.text(["a text that was not encoded yet"])


_ZERO = torch.zeros(4, 4)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("lora_unet_down_blocks_0.lora_down.weight",), "LoRA), not a model: name the model with --prior"),
        (("control_model.input_hint_block.0.weight",), "is a ControlNet, not a model"),
        (("encoder.conv_in.weight", "decoder.conv_in.weight"), "is an autoencoder (VAE), not a model"),
        (("text_model.encoder.layers.0.mlp.fc1.weight",), "is the text encoder CLIP alone"),
        (("encoder.block.0.layer.0.SelfAttention.q.weight",), "is the text encoder T5 alone"),
        (("down_blocks.0.resnets.0.conv1.weight",), "is one part of a pipeline folder"),
        (("edm_mean", "model.diffusion_model.input_blocks.0.0.weight"), "is Playground 2.5"),
        (("double_blocks.0.img_attn.x", "distilled_guidance_layer.x"), "is Chroma"),
        (("head.modulation", "patch_embedding.weight"), "a model of the kind wan"),
        (("something.else",), "of an unknown kind: name a file of Stable Diffusion 1.x"),
        (("joint_blocks.0.x_block.attn.qkv.weight",), "is not a whole Stable Diffusion 3"),
    ],
)
def test_files_that_are_no_model_are_called_what_they_are(tmp_path, names, words):
    file = tmp_path / "file.safetensors"
    save_file(
        dict.fromkeys(names, _ZERO) if len(names) == 1 else {name: _ZERO.clone() for name in names}, file
    )
    assert words in complaint(file)


def test_a_controlnet_that_is_a_single_file_is_that_of_its_folder(tmp_path):
    folder, file = stable_diffusion(tmp_path)
    network = diffusers().ControlNetModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
    )
    for weight in network.parameters():  # its last layers start at zero
        torch.nn.init.normal_(weight, std=0.05)
    network.save_pretrained(tmp_path / "control")
    single = original.write(tmp_path / "control.safetensors", original.controlnet(network))
    z, t = torch.randn(1, 4, 8, 8), torch.tensor([0.5])
    condition = Condition(("a cube",), pictures=torch.rand(1, 64, 64, 3))
    answers = []
    for control in (tmp_path / "control", single):
        prior = load(folder, control=str(control))
        prior.image_size = 64
        answers.append(prior.predict(z, t, condition).eps)
    torch.testing.assert_close(answers[1], answers[0])
    assert not torch.allclose(answers[0], load(folder).predict(z, t, condition).eps)
    assert "is Stable Diffusion 1.x: name a ControlNet" in complaint(folder, control=str(file))


def test_pickles_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"x")
    assert "a pickle, which can run code" in complaint(file)
