"""An autoencoder in place of a prior's own: the same gradients as a folder that has it, and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import original_layouts as original
import pytest
import torch
from complaints import complaint
from safetensors.torch import load_file, save_file
from test_single_files import gradient, load, own_caches, stable_diffusion  # noqa: F401  a fixture
from tiny_pipelines import diffusers, edit


@pytest.fixture
def model(tmp_path):
    """A folder of Stable Diffusion 1, and the same weights as a single file."""
    return stable_diffusion(tmp_path)


@pytest.fixture
def other(tmp_path) -> Path:
    """The folder of another autoencoder of the family, with a size of pictures of its own."""
    torch.manual_seed(1)
    vae = original.plain_autoencoder(0.18215)
    vae.register_to_config(sample_size=256)
    vae.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def single(folder: Path, file: Path, prefix: str = "") -> Path:
    """The autoencoder of a folder as a file under the names of the original code, which was not pruned."""
    vae = diffusers().AutoencoderKL.from_pretrained(folder)
    left = {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}
    return original.write(file, original.autoencoder(vae, prefix), left)


def with_vae(folder: Path, vae: Path) -> Path:
    """A copy of a pipeline folder with another autoencoder, of which only the weights are taken."""
    made = Path(shutil.copytree(folder, folder.with_name("whole")))
    for file in vae.glob("*.safetensors"):
        shutil.copy(file, made / "vae")
    return made


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_a_single_file_gives_the_gradients_of_the_folder_that_has_it(tmp_path, model, other, prefix):
    folder, file = model
    vae = single(other, tmp_path / "vae.safetensors", prefix)
    expected = gradient(load(with_vae(folder, other)))
    assert not torch.allclose(expected, gradient(load(folder)))
    replaced = load(folder, vae=str(vae))
    assert replaced.image_size == 128
    torch.testing.assert_close(gradient(replaced), expected, rtol=1e-4, atol=1e-6)
    of_file = load(file, tokenizer=str(folder / "tokenizer"), vae=str(vae))
    torch.testing.assert_close(gradient(of_file), expected, rtol=1e-4, atol=1e-6)


def test_a_folder_gives_the_gradients_of_the_folder_that_has_it(model, other):
    folder, _ = model
    whole = with_vae(folder, other)
    expected = gradient(load(whole))
    for vae in (other, whole, whole / "vae"):
        torch.testing.assert_close(gradient(load(folder, vae=str(vae))), expected)


def test_a_model_file_without_an_autoencoder_takes_a_named_one(tmp_path, model, other):
    folder, file = model
    pruned = {name: value for name, value in load_file(file).items() if "first_stage_model" not in name}
    save_file(pruned, file)
    options = {"tokenizer": str(folder / "tokenizer")}
    assert "lacks vae" in (message := complaint(file, **options))
    assert "--vae" in message
    vae = single(other, tmp_path / "vae.safetensors")
    expected = gradient(load(with_vae(folder, other)))
    torch.testing.assert_close(gradient(load(file, vae=str(vae), **options)), expected, rtol=1e-4, atol=1e-6)


def test_an_autoencoder_as_prior_says_where_it_belongs(tmp_path, other):
    message = complaint(single(other, tmp_path / "vae.safetensors"))
    assert (
        "is an autoencoder (VAE), not a model: name the model with --prior, and this file with --vae"
        in message
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scaling_factor": 0.13025}, "its scaling_factor is 0.13025, that of the prior is 0.18215"),
        ({"shift_factor": 0.1}, "its shift_factor is 0.1, that of the prior is None"),
        ({"in_channels": 6}, "was made for another prior: it is for pictures of 6 channels, not of 3"),
        ({"latent_channels": 16}, "it has 16 channels of latents, and the network makes 4"),
        ({"block_out_channels": [32, 32, 32]}, "its latents are 4 times smaller than pictures, not 2 times"),
        ({"_class_name": "AutoencoderKLWan"}, "holds AutoencoderKLWan, not AutoencoderKL"),
    ],
)
def test_an_autoencoder_of_another_model(model, other, changes, words):
    edit(other / "config.json", **changes)
    assert words in complaint(model[0], vae=str(other))


def test_flux_has_a_quarter_of_the_channels_of_its_network(tmp_path, pipelines):
    """It denoises 2 x 2 latents at once, and its config does not say how many channels it makes."""
    vae = Path(shutil.copytree(pipelines["flux"] / "vae", tmp_path / "vae"))
    assert load(pipelines["flux"], vae=str(vae)).latent
    edit(vae / "config.json", latent_channels=16)
    words = "it has 16 channels of latents, and the network makes 4"
    assert words in complaint(pipelines["flux"], vae=str(vae))


def test_a_prior_with_an_autoencoder_of_another_class_keeps_it(model, other):
    folder, _ = model
    index = json.loads((folder / "model_index.json").read_text())
    edit(folder / "model_index.json", vae=[index["vae"][0], "AsymmetricAutoencoderKL"])
    words = "because its autoencoder is AsymmetricAutoencoderKL, not AutoencoderKL: leave vae out"
    assert words in complaint(folder, vae=str(other))


def test_a_model_whose_own_is_not_there_takes_a_named_one(model, other):
    folder, _ = model
    shutil.rmtree(folder / "vae")
    assert load(folder, vae=str(other)).latent
    assert "vae/config.json' is missing" in complaint(folder)


def test_a_part_that_is_not_there_is_called_missing(model):
    folder, _ = model
    shutil.rmtree(folder / "tokenizer")
    assert (
        complaint(folder) == f"prior part '{folder / 'tokenizer'}' is missing: copy the pipeline folder again"
    )


def test_an_old_config_without_factors_has_those_of_the_class(model, other):
    config = json.loads((other / "config.json").read_text())
    for key in ("scaling_factor", "shift_factor"):
        del config[key]
    (other / "config.json").write_text(json.dumps(config))
    assert load(model[0], vae=str(other)).latent


def test_what_is_no_autoencoder(tmp_path, model, other, pipelines):
    folder, file = model
    vae = single(other, tmp_path / "vae.safetensors")
    assert "hub ids are for `path` only" in complaint(folder, vae="someone/some-vae")
    assert "has no config.json" in complaint(folder, vae=str(file.parent))
    assert "is not safetensors" in complaint(folder, vae=str(folder / "model_index.json"))
    alone = other / "diffusion_pytorch_model.safetensors"
    assert "is one part of a pipeline folder: name its folder" in complaint(folder, vae=str(alone))
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, lora)
    assert "is a file of low-rank changes (LoRA) without an autoencoder" in complaint(folder, vae=str(lora))
    save_file({"conv_in.weight": torch.zeros(1), "conv_out.weight": torch.zeros(1)}, lora)
    assert complaint(folder, vae=str(lora)).startswith(f"vae file '{lora}' ")
    assert "it has no autoencoder: leave vae out" in complaint(pipelines["if"], vae=str(vae))
    kept = {name: value for name, value in load_file(vae).items() if "mid.attn_1" not in name}
    save_file(kept, vae)
    assert "weights (first:" in complaint(folder, vae=str(vae))
    vae.write_bytes(vae.read_bytes()[:-8])
    assert "truncated or corrupt" in complaint(folder, vae=str(vae))


def test_the_decoder_of_films_is_called_what_it_is(tmp_path, model, other):
    vae = single(other, tmp_path / "vae.safetensors")
    save_file({**load_file(vae), "decoder.up.0.block.0.time_stack.x": torch.zeros(1)}, vae)
    assert "is of the family of Stable Video Diffusion" in complaint(model[0], vae=str(vae))
