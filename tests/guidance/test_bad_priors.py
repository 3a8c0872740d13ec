"""Damaged prior folders: one line says what is wrong and what to do."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest
import torch
from complaints import complaint
from tiny_pipelines import edit

from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.folder import libraries
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.training.prior_model import PriorArchitecture, PriorModel, save_pipeline


def test_the_untouched_copy_loads(folder):
    assert load_prior(PriorConfig(path=str(folder))).latent


def test_missing_folder(tmp_path):
    message = complaint(tmp_path / "nowhere")
    assert "does not exist" in message
    assert "nowhere" in message


def test_a_misspelt_relative_folder_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("threedgen.guidance.priors.load.fetched", lambda name: pytest.fail("went online"))
    for path in ("models/sd15", "./sd15", "sd15"):
        assert "does not exist" in complaint(path)


def test_a_hub_model_that_cannot_be_fetched(monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(name, local_files_only=False, **options):
        from huggingface_hub.errors import LocalEntryNotFoundError

        raise LocalEntryNotFoundError("not cached") if local_files_only else OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    message = complaint("someone/some-model")
    assert "no route" in message
    for file in ("model_index.json", "scheduler/scheduler_config.json", "text_encoder", "tokenizer/"):
        assert file in message


def test_a_file_instead_of_a_folder(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_bytes(b"x")
    assert "is a file: name the pipeline folder" in complaint(file)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_a_single_checkpoint_file_is_answered_with_the_command_that_converts_it(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"x")
    message = complaint(file)
    assert f"from_single_file('{name}').save_pretrained('FOLDER')" in message
    assert "which can run code" in message


def test_not_a_pipeline(tmp_path):
    assert "no model_index.json" in complaint(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_weights(folder, part, keep):
    (file,) = (folder / part).glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    message = complaint(folder)
    assert "truncated or corrupt" in message
    assert str(file) in message


def test_garbage_in_the_header(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[8:40] = b"\xff" * 32
    file.write_bytes(content)
    assert "truncated or corrupt" in complaint(folder)


def test_only_pickles(folder):
    (file,) = (folder / "unet").glob("*.safetensors")
    file.unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    message = complaint(folder)
    assert "pickle" in message
    assert "use_safetensors=False).save_pretrained('NEW', safe_serialization=True)" in message


def test_no_weights_at_all(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "no safetensors weights" in complaint(folder)


def test_weights_that_lack_a_tensor_are_not_filled_with_noise(folder):
    from safetensors.torch import load_file, save_file

    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        file = folder / part / f"{name}.safetensors"
        whole = file.read_bytes()
        tensors = load_file(file)
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, file, metadata={"format": "pt"})
        assert "lacks 1 weights" in complaint(folder)
        file.write_bytes(whole)


def test_weights_of_another_size(folder):
    edit(folder / "unet" / "config.json", block_out_channels=[8, 32])
    assert "cannot be loaded" in complaint(folder)


def test_missing_shard(folder):
    (file,) = (folder / "unet").glob("*.safetensors")
    file = file.rename(file.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    index = {"weight_map": {"a": file.name, "b": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert "00002-of-00002.safetensors' is missing" in complaint(folder)


def test_broken_json(folder):
    (folder / "unet" / "config.json").write_text("{")
    assert "cannot be read" in complaint(folder)
    (folder / "unet" / "config.json").unlink()
    assert "is missing" in complaint(folder)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/config.json", {"layers_per_block": None}),
        ("unet/config.json", {"act_fn": "wavy"}),
        ("text_encoder/config.json", {"hidden_act": "wavy"}),
    ],
)
def test_configs_that_make_a_library_raise_anything(folder, file, changes):
    edit(folder / file, **changes)
    message = complaint(folder)
    assert "cannot be loaded" in message
    assert str((folder / file).parent) in message


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("unet/config.json", "cross_attention_dim", "a"),
        ("unet/config.json", "sample_size", 10**6),
        ("unet/config.json", "sample_size", []),
        ("unet/config.json", "in_channels", None),
        ("unet/config.json", "in_channels", [4]),
        ("unet/config.json", "norm_eps", float("nan")),
        ("unet/config.json", "downsample_padding", 2),
        ("unet/config.json", "block_out_channels", [8, [8]]),
        ("unet/config.json", "down_block_types", "DownBlock2D"),
        ("unet/config.json", "mid_block_scale_factor", [1.0]),
        ("text_encoder/config.json", "vocab_size", "many"),
        ("text_encoder/config.json", "num_attention_heads", 0),
        ("text_encoder/config.json", "bos_token_id", [1, 2, 3]),
        ("text_encoder/config.json", "max_position_embeddings", {"a": 1}),
        ("vae/config.json", "act_fn", 3),
        ("vae/config.json", "scaling_factor", 0),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 2**63),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 1000.5),
        ("scheduler/scheduler_config.json", "prediction_type", ["epsilon"]),
    ],
)
def test_values_that_no_config_can_have(folder, file, key, value):
    edit(folder / file, **{key: value})
    assert f"is damaged, {key} in {file} is " in complaint(folder)


@pytest.mark.parametrize(
    ("kind", "file", "key", "value"),
    [
        ("if", "text_encoder/config.json", "num_layers", 10**20),
        ("if", "tokenizer/tokenizer_config.json", "extra_ids", 10**8),
        ("sdxl", "unet/config.json", "freq_shift", None),
        ("flux", "transformer/config.json", "axes_dims_rope", [[4, 4], 8]),
        ("flux", "transformer/config.json", "axes_dims_rope", {"a": 4}),
        ("zero123", "image_encoder/config.json", "num_hidden_layers", 10**20),
    ],
)
def test_values_that_no_part_of_other_pipelines_can_have(pipelines, tmp_path, kind, file, key, value):
    folder = tmp_path / "model"
    shutil.copytree(pipelines[kind], folder)
    edit(folder / file, **{key: value})
    assert f"is damaged, {key} in {file} is " in complaint(folder)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [("transformer/config.json", "patch_size", 4), ("vae/config.json", "latents_mean", [0.0, 1.0, 2.0])],
)
def test_values_that_the_parts_of_a_video_model_disagree_about(video_pipelines, tmp_path, file, key, value):
    folder = tmp_path / "model"
    shutil.copytree(video_pipelines["wan"], folder)
    edit(folder / file, **{key: value})
    shown = "4, not a list of three" if value == 4 else "a list, not 4 numbers"
    assert f"is damaged, {key} in {file} is {shown}" in complaint(folder)


def test_configs_that_do_not_fit_one_another_are_named_with_the_first_answer(folder):
    """What no single key tells: the projection of the text has another width than the network reads."""
    prior: Any = load_prior(PriorConfig(path=str(folder), executor="eager"))
    z, t = torch.zeros(1, 4, 16, 16), torch.full((1,), 0.5)
    with pytest.raises(UserError, match=r"network of the prior '.*' cannot be computed \(RuntimeError: "):
        prior.executor(sample=z, timestep=t, encoder_hidden_states=torch.zeros(1, 3, 7))
    condition = Condition(("a cube",))
    assert prior.predict(z, t, condition).eps.isfinite().all()
    with pytest.raises(RuntimeError):  # what fails later is no fault of the folder
        prior.executor(sample=z, timestep=t, encoder_hidden_states=torch.zeros(1, 3, 7))


def test_a_tokenizer_that_fails_with_the_first_unknown_letter(pipelines, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(pipelines["sd3"], folder)
    file = folder / "tokenizer_2" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"] |= {"vocab": {"a": 1}, "merges": []}
    file.write_text(json.dumps(content))
    assert "tokenizer_2' cannot be loaded" in complaint(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer.json", "[]"), ("tokenizer.json", "{}"), ("tokenizer_config.json", "[]")],
)
def test_a_tokenizer_of_another_form(folder, file, content):
    (folder / "tokenizer" / file).write_text(content)
    assert re.search(r"tokenizer' cannot be loaded|_config.json' is not a JSON object", complaint(folder))


def test_a_tokenizer_without_padding(folder):
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    assert "does not say how texts are padded (pad_token)" in complaint(folder)


def test_an_autoencoder_without_a_list_of_blocks(folder):
    edit(folder / "vae" / "config.json", block_out_channels=None)
    assert "block_out_channels in vae/config.json is None" in complaint(folder)


def test_a_mistake_of_our_own_is_not_taken_for_a_broken_folder(folder):
    """Only what a library raises is about the files of the user."""
    with pytest.raises(AttributeError, match="from_pretrained"):
        libraries.load_model(object(), folder / "unet", "dtype", torch.float32)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}}',
    ],
)
def test_headers_of_another_form(folder, header):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "truncated or corrupt" in complaint(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": ["a"], "data_offsets": [0, 4]},
        {"shape": [-1], "data_offsets": [0, 4]},
        {"shape": [10**6, 10**6, 10**9], "data_offsets": [0, 4]},
        {"shape": [2], "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [4, 0]},
        {"shape": [1], "data_offsets": [0, 4], "dtype": ["F32"]},
        {"shape": [1], "data_offsets": [0, 4], "dtype": "F99"},
    ],
)
def test_tensors_of_impossible_shapes(folder, entry):
    header = json.dumps({"conv_in.weight": {"dtype": "F32", **entry}}).encode()
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    message = complaint(folder)
    assert str(file) in message
    assert "its tensor 'conv_in.weight' has no such type, shape and place" in message


def test_documents_of_too_many_levels(folder):
    deep = b"[" * 100_000 + b"]" * 100_000
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(len(deep).to_bytes(8, "little") + deep)
    assert str(weights) in complaint(folder)
    weights.write_bytes(whole)
    for file in ("unet/config.json", "model_index.json"):
        (folder / file).write_bytes(deep)
        assert f"{file}' cannot be read" in complaint(folder)


@pytest.mark.parametrize("entry", [["diffusers", ["UNet2DConditionModel"]], [3, "UNet2DConditionModel"]])
def test_a_class_that_is_no_name(folder, entry):
    edit(folder / "model_index.json", unet=entry)
    message = complaint(folder)
    assert "model_index.json' is damaged, unet does not name a library and a class" in message


@pytest.mark.parametrize("shards", [["a"], {"a": 3}, {"a": ["b"]}, "a"])
def test_an_index_of_shards_of_another_form(folder, shards):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    file.write_text(json.dumps({"weight_map": shards}))
    assert f"'{file}' is damaged, its weight_map is no list of files" in complaint(folder)


def test_a_token_that_the_text_encoder_does_not_know(folder):
    """It would be found when a text has that token, which the empty text has not."""
    file = folder / "tokenizer" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"]["zebra</w>"] = 10_000
    file.write_text(json.dumps(tokenizer))
    assert "has a token 10000, and its text encoder knows 56 tokens" in complaint(folder)


@pytest.fixture
def trained(tmp_path):
    """A folder as `threedgen train prior` writes it, which is read without diffusers and transformers."""
    shape = PriorArchitecture(16, (8, 16), (False, True), embedding=32, text_width=16, text_layers=1)
    save_pipeline(PriorModel(shape), tmp_path / "prior", torch.float32)
    return tmp_path / "prior"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "unet/config.json",
            {"sample_size": 17},
            "sample_size in unet/config.json is 17, not a multiple of 2",
        ),
        ("unet/config.json", {"sample_size": None}, "sample_size in unet/config.json is None"),
        ("unet/config.json", {"cross_attention_dim": 15}, "num_heads in unet/config.json is 2, not a div"),
        ("unet/config.json", {"block_out_channels": [8]}, "down_block_types in unet/config.json is a list"),
        (
            "unet/config.json",
            {"block_out_channels": [9, 16]},
            "block_out_channels in unet/config.json is a list",
        ),
        ("unet/config.json", {"down_block_types": None}, "weights|cannot be loaded|down_block_types"),
        ("unet/config.json", {"addition_embed_type_num_heads": 64}, "num_heads in unet/config.json is 64"),
        ("unet/config.json", {"addition_embed_type_num_heads": ...}, "num_heads in unet/config.json is 64"),
        (
            "unet/config.json",
            {"resnet_out_scale_factor": [1.0]},
            "resnet_out_scale_factor in unet/config.json",
        ),
        (
            "text_encoder/config.json",
            {"bos_token_id": [1, 2, 3]},
            "bos_token_id in text_encoder/config.json is",
        ),
        ("text_encoder/config.json", {"hidden_act": None}, "text_encoder' cannot be loaded"),
        ("tokenizer/tokenizer_config.json", {"pad_token": "nothing"}, "tokenizer' cannot be loaded"),
        ("tokenizer/vocab.json", {"zebra</w>": 10_000}, "token 10000, and the text encoder knows"),
    ],
)
def test_damage_of_a_folder_that_is_read_without_libraries(trained, file, changes, message):
    path = trained / file
    kept = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in kept.items() if value is not ...}))
    assert re.search(message, complaint(trained))


def test_a_vocabulary_that_is_not_utf8(trained):
    with (trained / "tokenizer" / "vocab.json").open("ab") as file:
        file.write(b"\xff")
    assert "tokenizer' cannot be loaded" in complaint(trained)


def test_missing_tokenizer(folder):
    shutil.rmtree(folder / "tokenizer")
    assert "tokenizer" in complaint(folder)
