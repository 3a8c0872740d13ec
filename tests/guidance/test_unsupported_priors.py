"""Prior folders that are whole but cannot serve: one line says why and what to do."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from complaints import complaint
from tiny_pipelines import edit, ring

from threedgen.core import machine
from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import PriorConfig, load_prior


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
        (
            "scheduler/scheduler_config.json",
            {"beta_start": "low"},
            "beta_start in scheduler/scheduler_config.json is 'low'",
        ),
        (
            "scheduler/scheduler_config.json",
            {"beta_end": None},
            "beta_end in scheduler/scheduler_config.json is None",
        ),
        (
            "scheduler/scheduler_config.json",
            {"trained_betas": ["a"]},
            "trained_betas in scheduler/scheduler_config.json is a list, not a number from 0 to 1",
        ),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "its autoencoder is AutoencoderTiny"),
        ("model_index.json", {"_class_name": "MarigoldDepthPipeline"}, "predicts the depth"),
        ("model_index.json", {"_class_name": "Zero123PlusPipeline"}, "lacks the part vision_encoder"),
        ("model_index.json", {"_class_name": "StableDiffusionLDM3DPipeline"}, "together with their depth"),
        ("model_index.json", {"_class_name": "StableDiffusionLatentUpscalePipeline"}, "enlarges pictures"),
        ("model_index.json", {"_class_name": "StableUnCLIPImg2ImgPipeline"}, "embedding of a picture"),
        ("model_index.json", {"_class_name": "LatentConsistencyModelPipeline"}, "samples of a few steps"),
        ("unet/config.json", {"time_cond_proj_dim": 32}, "is told a guidance scale"),
        ("unet/config.json", {"encoder_hid_dim_type": "ip_image_proj"}, "needs pictures beside the text"),
        ("vae/config.json", {"in_channels": 6, "out_channels": 6}, "for pictures of 6 channels"),
        ("vae/config.json", {"latent_channels": 16}, "makes 4 channels, and its autoencoder has 16"),
        (
            "model_index.json",
            {"vision_encoder": ["transformers", "CLIPVisionModelWithProjection"]},
            "its part vision_encoder (CLIPVisionModelWithProjection) would not be read",
        ),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMDPMSolverMultistepScheduler", "beta_schedule": ..., "trained_betas": ...},
            "EDMDPMSolverMultistepScheduler, without betas",
        ),
    ],
)
def test_unsupported_pipelines(folder, file, changes, expected):
    kept = {**json.loads((folder / file).read_text()), **changes}
    (folder / file).write_text(json.dumps({key: value for key, value in kept.items() if value is not ...}))
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
    with pytest.raises(UserError, match="is no prior"):
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
        ("mvdream", "unet/config.json", {"num_views": 0}, "num_views in unet/config.json is 0"),
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
        ("flux", "transformer/config.json", {"in_channels": 64, "out_channels": 16}, "takes 64 channels"),
        ("flux", "vae/config.json", {"latents_mean": [0.0] * 4}, "one by one"),
        ("if", "model_index.json", {"unet": [None, None]}, "neither unet nor transformer"),
        ("if", "unet/config.json", {"sample_size": None}, "sample_size in unet/config.json is None"),
        ("if", "unet/config.json", {"sample_size": "large"}, "sample_size in unet/config.json is 'large'"),
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
        assert "goes beside a Stable Diffusion UNet that reads a text" in complaint(
            pipelines[kind], control=str(control)
        )
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


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
@pytest.mark.parametrize("method", ["bitsandbytes", "torchao"])
def test_quantised_parts_are_refused_by_that_name(copied, part, method):
    folder = copied("sd1")
    edit(folder / part / "config.json", quantization_config={"quant_method": method})
    if method == "torchao":  # which are pickles
        weights = next((folder / part).glob("*.safetensors"))
        weights.rename(weights.with_suffix(".bin"))
    assert f"/{part}' is quantised ({method}), and only plain weights are read" in complaint(folder)
