"""Models that are one file: the same gradients as the folder, what a file lacks, and files that are no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import original_layouts as original
import pytest
import torch
from tiny_pipelines import diffusers, noise

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
    (root / "single").mkdir()
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
    (root / "single").mkdir()
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
