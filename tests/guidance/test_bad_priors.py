"""Every prior folder that a user can get wrong: one line that says what, and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from threedgen import machine
from threedgen.errors import UserError
from threedgen.guidance.priors.load import PriorConfig, load_prior


@pytest.fixture
def folder(pipelines, tmp_path) -> Path:
    return Path(shutil.copytree(pipelines["sd1"], tmp_path / "prior"))


def complaint(path: Path | str, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        load_prior(PriorConfig(path=str(path), **options))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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
    assert "no route" in complaint("someone/some-model")


def test_a_file_instead_of_a_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    assert "is a file" in complaint(file)


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
    assert "safe_serialization" in message


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
        ("model_index.json", {"unet": ["diffusers", "UNet3DConditionModel"]}, "no UNet2DConditionModel"),
        (
            "model_index.json",
            {"text_encoder": ["transformers", "ChatGLMModel"]},
            "text encoder is ChatGLMModel",
        ),
        ("unet/config.json", {"in_channels": 9}, "takes 9 channels"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "wants class labels"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "added conditions"),
        (
            "unet/config.json",
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 12},
            "not 16 numbers",
        ),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "predicts 'flow'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "wavy"}, "no such noise schedule"),
    ],
)
def test_unsupported_pipelines(folder, file, changes, expected):
    edit(folder / file, **changes)
    message = complaint(folder)
    assert expected in message
    assert str(folder) in message


@pytest.mark.parametrize("probe", ["is_dir", "is_file", "glob"])
def test_a_folder_that_must_not_be_looked_into(folder, probe, monkeypatch):
    """Python 3.11's Path.is_dir and its like raise PermissionError."""
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
    monkeypatch.setattr("builtins.input", lambda *question: "y")  # whoever would ask is told yes
    assert "tokenizer" in complaint(folder)
    assert not marker.exists()


def test_unknown_names_and_types():
    with pytest.raises(UserError, match="unknown prior 'sdxl'"):
        load_prior(PriorConfig(name="sdxl"))
    with pytest.raises(UserError, match="has no class 'Nope'"):
        load_prior(PriorConfig(name="threedgen.types:Nope"))


def test_half_precision_on_a_cpu(folder):
    assert "needs a GPU" in complaint(folder, dtype="float16")
    assert "unknown prior dtype" in complaint(folder, dtype="int8")
