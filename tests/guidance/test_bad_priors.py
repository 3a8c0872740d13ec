"""Wrong and damaged prior folders: one line says what is wrong and what to do."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import edit, ring

from threedgen.core import machine
from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.folder import libraries
from threedgen.guidance.priors.load import PriorConfig, load_prior


@pytest.fixture
def folder(pipelines, tmp_path) -> Path:
    return Path(shutil.copytree(pipelines["sd1"], tmp_path / "prior"))


def complaint(path: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_prior(PriorConfig(path=str(path), **options))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_the_untouched_copy_loads(folder):
    assert load_prior(PriorConfig(path=str(folder))).latent


def test_missing_folder(tmp_path):
    message = complaint(tmp_path / "nowhere")
    assert "does not exist" in message
    assert "nowhere" in message


def test_a_misspelt_relative_folder_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("threedgen.guidance.priors.load._download", lambda name: pytest.fail("went online"))
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


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "model.pt", "model.bin"])
def test_a_single_checkpoint_file_is_answered_with_the_command_that_converts_it(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"x")
    message = complaint(file)
    assert f"from_single_file('{name}').save_pretrained('FOLDER')" in message
    assert ("which can run code" in message) == (name != "model.safetensors")


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
        ("unet/config.json", {"cross_attention_dim": "a"}),
        ("unet/config.json", {"layers_per_block": None}),
        ("unet/config.json", {"act_fn": "wavy"}),
        ("text_encoder/config.json", {"hidden_act": "wavy"}),
        ("text_encoder/config.json", {"vocab_size": "many"}),
        ("text_encoder/config.json", {"num_attention_heads": 0}),
        ("vae/config.json", {"act_fn": 3}),
    ],
)
def test_configs_that_make_a_library_raise_anything(folder, file, changes):
    """IndexError, TypeError, ValueError, KeyError, a validation error, ZeroDivisionError, AttributeError."""
    edit(folder / file, **changes)
    message = complaint(folder)
    assert "cannot be loaded" in message
    assert str((folder / file).parent) in message


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer.json", "[]"), ("tokenizer.json", "{}"), ("tokenizer_config.json", "[]")],
)
def test_a_tokenizer_of_another_form(folder, file, content):
    (folder / "tokenizer" / file).write_text(content)
    assert "tokenizer' cannot be loaded" in complaint(folder)


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


def test_missing_tokenizer(folder):
    shutil.rmtree(folder / "tokenizer")
    assert "tokenizer" in complaint(folder)


@pytest.mark.parametrize(
    ("file", "changes", "expected"),
    [
        (
            "model_index.json",
            {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]},
            "two text enc",
        ),
        ("model_index.json", {"unet": ["diffusers", "Kandinsky3UNet"]}, "not UNet2DConditionModel"),
        (
            "model_index.json",
            {"text_encoder": ["transformers", "ChatGLMModel"]},
            "text encoder is ChatGLMModel",
        ),
        ("unet/config.json", {"in_channels": 9}, "takes 9 channels"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "needs class labels"),
        ("unet/config.json", {"addition_embed_type": "text_image"}, "added conditions"),
        (
            "unet/config.json",
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 12},
            "does not have 16 numbers",
        ),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "predicts 'flow'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "wavy"}, "no such noise schedule"),
        ("scheduler/scheduler_config.json", {"beta_start": "low"}, "its beta_start is 'low', not a number"),
        ("scheduler/scheduler_config.json", {"beta_end": None}, "its beta_end is None, not a number"),
        (
            "scheduler/scheduler_config.json",
            {"trained_betas": ["a"]},
            "trained_betas are not a list of numbers",
        ),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "its autoencoder is AutoencoderTiny"),
    ],
)
def test_unsupported_pipelines(folder, file, changes, expected):
    edit(folder / file, **changes)
    message = complaint(folder)
    assert expected in message
    assert str(folder) in message


@pytest.mark.parametrize("probe", ["is_dir", "is_file", "glob"])
def test_a_folder_that_must_not_be_looked_into(folder, probe, monkeypatch):
    """In Python 3.11 Path.is_dir and similar methods raise PermissionError."""
    real = getattr(Path, probe)

    def forbidden(self, *arguments, **options):
        if self.is_relative_to(folder):
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, probe, forbidden)
    message = complaint(folder)
    assert message.startswith(f"cannot read the prior '{folder}': Permission denied")


def test_a_recipe_that_needs_a_prior_says_so():
    with pytest.raises(UserError, match=r"^this recipe needs --prior FOLDER"):
        load_prior(PriorConfig(name="required"))
    assert "does not exist" in complaint("nowhere", name="required")


def test_a_tokenizer_that_needs_packages(pipelines, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(pipelines["if"], tmp_path / "if"))
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "spiece.model").write_bytes(b"")
    monkeypatch.setattr(machine, "version", lambda name: None)
    message = complaint(folder)
    assert "tokenizer' needs sentencepiece and protobuf: pip install sentencepiece protobuf" in message


def test_a_tokenizer_that_does_not_import(folder, monkeypatch):
    import transformers

    def absent(*arguments, **options):
        raise ImportError("T5Tokenizer requires the SentencePiece library\nand more")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", absent)
    assert "requires the SentencePiece library): pip install sentencepiece" in complaint(folder)


def test_code_in_a_folder_is_never_run(folder, monkeypatch, tmp_path):
    marker = tmp_path / "was_run"
    (folder / "tokenizer" / "evil.py").write_text(
        f"open({str(marker)!r}, 'w')\nfrom transformers import CLIPTokenizer as Evil\n"
    )
    edit(
        folder / "tokenizer" / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    )
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *question: "y")  # a question would be answered with yes
    assert "tokenizer" in complaint(folder)
    assert not marker.exists()


def test_unknown_names_and_types():
    with pytest.raises(UserError, match="unknown prior 'sdxl'"):
        load_prior(PriorConfig(name="sdxl"))
    with pytest.raises(UserError, match="has no class 'Nope'"):
        load_prior(PriorConfig(name="threedgen.core.types:Nope"))


def test_half_precision_on_a_cpu(folder):
    assert "needs a GPU" in complaint(folder, dtype="float16")
    assert "unknown prior dtype" in complaint(folder, dtype="int8")


@pytest.mark.parametrize(
    ("kind", "file", "changes", "expected"),
    [
        ("sdxl", "model_index.json", {"requires_aesthetics_score": True}, "refiner"),
        ("sdxl", "model_index.json", {"text_encoder_2": [None, None]}, "lacks the part text_encoder_2"),
        ("sdxl", "unet/config.json", {"in_channels": 9}, "takes 9 channels, not 4"),
        ("edit", "model_index.json", {"text_encoder": [None, None]}, "lacks the part text_encoder"),
        ("if2", "unet/config.json", {"class_embed_type": None}, "no noise level"),
        ("mvdream", "unet/config.json", {"class_embed_type": None}, "no camera input"),
        ("mvdream", "unet/config.json", {"num_views": 0}, "num_views is 0"),
        (
            "sd3",
            "model_index.json",
            {"transformer": ["diffusers", "LTXVideoTransformer3DModel"]},
            "transformer is LTXVideoTransformer3DModel",
        ),
        (
            "sd3",
            "scheduler/scheduler_config.json",
            {"_class_name": "DDIMScheduler", "shift": None, "base_shift": None},
            "DDIMScheduler, which is not that of a flow model",
        ),
        (
            "sd3",
            "model_index.json",
            {"text_encoder": ["transformers", "CLIPTextModel"]},
            "text encoder is CLIPTextModel",
        ),
        ("flux", "transformer/config.json", {"in_channels": 64}, "takes 64 channels"),
        ("flux", "vae/config.json", {"latents_mean": [0.0] * 4}, "one by one"),
        ("if", "model_index.json", {"unet": [None, None]}, "neither unet nor transformer"),
        ("if", "unet/config.json", {"sample_size": None}, "sample_size in unet/config.json is None"),
        ("if", "unet/config.json", {"sample_size": "large"}, "sample_size in unet/config.json is large"),
        ("sd3", "model_index.json", {"vae": [None, None]}, "lacks the part vae"),
        ("sd3", "transformer/config.json", {"sample_size": 0}, "sample_size in transformer/config.json is 0"),
    ],
)
def test_each_family_refuses_what_it_does_not_serve(copied, kind, file, changes, expected):
    folder = copied(kind)
    path = folder / file
    kept = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))
    message = complaint(folder)
    assert expected in message
    assert str(folder) in message or "latents_mean" in message


def test_a_unet_that_does_not_say_its_size_takes_the_autoencoders(folder):
    """sample_size: null is the default of the class in diffusers."""
    assert load_prior(PriorConfig(path=str(folder))).image_size == 32
    edit(folder / "unet" / "config.json", sample_size=None)
    edit(folder / "vae" / "config.json", sample_size=[16, 16])
    assert load_prior(PriorConfig(path=str(folder), memory=100.0)).image_size == 16
    edit(folder / "vae" / "config.json", sample_size=None)
    assert "sample_size in vae/config.json is None" in complaint(folder, memory=100.0)


def test_zero123_with_a_projection_of_another_shape(copied):
    from safetensors.torch import save_file

    folder = copied("zero123")
    file = folder / "cc_projection" / "diffusion_pytorch_model.safetensors"
    for tensors in ({"weight": torch.zeros(16, 16), "bias": torch.zeros(16)}, {"bias": torch.zeros(16)}):
        save_file(tensors, file)
        assert "is not a linear layer from C + 4 to C numbers" in complaint(folder)


def test_zero123_without_its_projection(copied):
    folder = copied("zero123")
    shutil.rmtree(folder / "cc_projection")
    assert "lacks the part cc_projection or clip_camera_projection" in complaint(folder)


def test_a_tokenizer_that_does_not_say_its_length(copied):
    """The number of positions of the encoder decides: the rows are the same, and no index is out of range."""
    folder = copied("sd1")
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    texts = ["a cube " * 60]
    loaded: Any = load_prior(PriorConfig(path=str(folder)))
    with pytest.warns(UserWarning, match="stops before the end"):
        told = loaded.text(texts)
    del config["model_max_length"]
    path.write_text(json.dumps(config))
    prior: Any = load_prior(PriorConfig(path=str(folder)))
    with pytest.warns(UserWarning, match="stops before the end"):
        states = prior.text(texts)["states"]
    assert states.shape[1] == 77
    assert torch.equal(states, told["states"])


def test_a_torchvision_that_does_not_fit_is_named(folder, monkeypatch, tmp_path):
    import transformers

    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(machine, "version", lambda name: "0.28.0" if name == "torchvision" else "1")

    def broken(*arguments, **options):
        raise RuntimeError("Failed to import transformers.models.clip: operator torchvision::nms")

    monkeypatch.setattr(transformers.CLIPTextModel, "from_pretrained", broken)
    message = complaint(folder)
    assert message.startswith("torchvision 0.28.0 does not fit torch")
    assert "pip uninstall torchvision" in message


def test_controls_that_do_not_fit(pipelines, tmp_path):
    sd, control = pipelines["sd1"], Path(shutil.copytree(pipelines["controlnet"], tmp_path / "control"))
    assert "hub ids are for `path` only" in complaint(sd, control="someone/sd-controlnet-depth")
    assert "lacks config.json (it is a whole pipeline)" in complaint(sd, control=str(sd))
    for kind in ("flux", "if", "if2"):  # one without a UNet, two on pixels
        assert "needs a Stable Diffusion UNet beside it" in complaint(pipelines[kind], control=str(control))
    for key, value, own in (
        ("cross_attention_dim", 32, 16),
        ("in_channels", 3, 4),
        ("addition_embed_type", "text_time", None),
    ):
        edit(control / "config.json", **{key: value})
        message = complaint(sd, control=str(control))
        assert f"was trained for another prior: its {key} is {value}, that of the prior is {own}" in message
        edit(control / "config.json", **{key: own})
    edit(control / "config.json", class_embed_type="projection")
    assert "needs class labels" in complaint(sd, control=str(control))
    edit(control / "config.json", _class_name="T2IAdapter")
    assert "holds T2IAdapter, not a ControlNetModel" in complaint(sd, control=str(control))


@pytest.mark.parametrize("kind", ["edit", "if2", "zero123", "controlnet"])
def test_a_prior_that_needs_a_picture_says_so(pipelines, kind):
    control = str(pipelines["controlnet"]) if kind == "controlnet" else ""
    path = str(pipelines["sd1" if control else kind])
    prior: Any = load_prior(PriorConfig(path=path, control=control))
    channels = 3 if kind == "if2" else 4
    z, condition = torch.randn(1, channels, 16, 16), Condition(("a cube",), cameras=ring(1))
    with pytest.raises(UserError, match=r"set `(pictures|reference)"):
        prior.predict(z, torch.tensor([0.5]), condition)
