"""The strengths of LoRA files: W + scale * alpha / rank * up @ down, wherever the trainer stored alpha."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_pipelines import diffusers, transformers

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.lora import Lora

_SCALE = 0.5
_BLOCK = "up_blocks.0.attentions.0.transformer_blocks.0.attn1"
_ATTENTION = "text_model.encoder.layers.0.self_attn"
_UNET_RANKS = {f"{_BLOCK}.to_q": 2, f"{_BLOCK}.to_k": 3, f"{_BLOCK}.to_v": 4}
_TEXT_RANKS = {f"{_ATTENTION}.q_proj": 2, f"{_ATTENTION}.v_proj": 3}
_SETTINGS = {"r": 2, "lora_alpha": 6, "alpha_pattern": {"to_k": 1, r"layers\.0\.self_attn\.v_proj": 5}}
_ALPHAS = {"to_q": 6.0, "to_k": 1.0, "to_v": 6.0, "q_proj": 6.0, "v_proj": 5.0}
Changes = dict[str, tuple[torch.Tensor, torch.Tensor]]  # down and up, by layer
Models = Callable[[str], torch.nn.Module]


@pytest.fixture(scope="module")
def models(pipelines) -> Models:
    """The parts of the tiny pipeline of Stable Diffusion 1, each a new one at every call."""
    classes = {"unet": diffusers().UNet2DConditionModel, "text_encoder": transformers().CLIPTextModel}
    return lambda part: classes[part].from_pretrained(pipelines["sd1"] / part)


def changes_of(ranks: Mapping[str, int]) -> Changes:
    draw = torch.Generator().manual_seed(0)
    return {
        layer: (torch.randn(rank, 16, generator=draw), torch.randn(16, rank, generator=draw))
        for layer, rank in ranks.items()
    }


def named(changes: Changes, start: str, down: str, up: str, between: str = ".") -> dict[str, torch.Tensor]:
    """The tensors of changes under the names of a format."""
    tensors = {}
    for layer, pair in changes.items():
        for end, matrix in zip((down, up), pair, strict=True):
            tensors[f"{start}{layer.replace('.', between)}.{end}.weight"] = matrix
    return tensors


def require_growth(models: Models, pipelines, file: Path, part: str, changes: Changes, factors: Any) -> None:
    """Merge a file into a part, and compare each weight with W + scale * factor * up @ down.

    factors: by the last name of the layer.
    """
    plain, merged = models(part), models(part)
    Lora(file, _SCALE, PipelineFolder(pipelines["sd1"])).merge(merged, part)
    before = {name.removeprefix("text_model."): weight for name, weight in plain.state_dict().items()}
    after = {name.removeprefix("text_model."): weight for name, weight in merged.state_dict().items()}
    for layer, (down, up) in changes.items():
        name = f"{layer.removeprefix('text_model.')}.weight"
        before[name] = before[name] + _SCALE * factors[layer.split(".")[-1]] * up @ down
    assert before.keys() == after.keys()
    for name, expected in before.items():
        torch.testing.assert_close(after[name], expected, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("with_alphas", [True, False])
def test_kohya_stores_an_alpha_beside_each_change(models, pipelines, tmp_path, with_alphas):
    """A change without one has its full strength."""
    unet, text = changes_of(_UNET_RANKS), changes_of(_TEXT_RANKS)
    alphas = {"to_q": 1.0, "to_k": 2.0, "q_proj": 4.0, "v_proj": 1.5} if with_alphas else {}
    ends = ("lora_down", "lora_up", "_")
    tensors = named(unet, "lora_unet_", *ends) | named(text, "lora_te_", *ends)
    for layer in (*unet, *text):
        start = "lora_unet_" if layer in unet else "lora_te_"
        if (alpha := alphas.get(layer.split(".")[-1])) is not None:
            tensors[f"{start}{layer.replace('.', '_')}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "kohya.safetensors")
    for part, changes in (("unet", unet), ("text_encoder", text)):
        factors = {
            (name := layer.split(".")[-1]): alphas.get(name, len(down)) / len(down)
            for layer, (down, _) in changes.items()
        }
        require_growth(models, pipelines, tmp_path / "kohya.safetensors", part, changes, factors)


@pytest.mark.parametrize("root", [False, True])
def test_diffusers_stores_its_alphas_in_the_header(models, pipelines, tmp_path, root):
    """root: use_rslora, by which alpha is divided by the square root of the rank."""
    from peft import LoraConfig

    unet, text = changes_of(_UNET_RANKS), changes_of(_TEXT_RANKS)
    settings = LoraConfig(**_SETTINGS, use_rslora=root).to_dict()
    diffusers().StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=named(unet, "", "lora_A", "lora_B"),
        text_encoder_lora_layers=named(text, "", "lora_A", "lora_B"),
        unet_lora_adapter_metadata=settings,
        text_encoder_lora_adapter_metadata=settings,
    )
    file = tmp_path / "pytorch_lora_weights.safetensors"
    for part, changes in (("unet", unet), ("text_encoder", text)):
        require_growth(models, pipelines, file, part, changes, factors_of(changes, root))


def factors_of(changes: Changes, root: bool = False) -> dict[str, float]:
    """By _SETTINGS, by the last name of the layer."""
    return {
        (name := layer.split(".")[-1]): _ALPHAS[name] / len(down) ** (0.5 if root else 1.0)
        for layer, (down, _) in changes.items()
    }


def test_peft_stores_its_alphas_in_a_file_beside(models, pipelines, tmp_path):
    """A file of another format is not changed by it."""
    from peft import LoraConfig

    unet = changes_of(_UNET_RANKS)
    LoraConfig(**_SETTINGS).save_pretrained(str(tmp_path))
    file = tmp_path / "adapter_model.safetensors"
    save_file(named(unet, "base_model.model.", "lora_A", "lora_B"), file)
    require_growth(models, pipelines, file, "unet", unet, factors_of(unet))
    save_file(named(unet, "unet.", "lora_A", "lora_B"), tmp_path / "other.safetensors")
    full = dict.fromkeys(_ALPHAS, 1.0)
    require_growth(models, pipelines, tmp_path / "other.safetensors", "unet", unet, full)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("{", "has settings that are not JSON"),
        ("[1]", "has settings that are not a JSON object"),
        (json.dumps({"unet.lora_alpha": "much"}), "has an alpha of 'much' in its settings, not a number"),
        (json.dumps({"unet.lora_alpha": True}), "has an alpha of True in its settings, not a number"),
        (json.dumps({"unet.alpha_pattern": [1]}), "has an alpha_pattern that is not an object"),
        (json.dumps({"unet.alpha_pattern": {"(": 1}}), "cannot be loaded"),
    ],
)
def test_damaged_settings_are_named(models, pipelines, tmp_path, settings, complaint):
    file = tmp_path / "damaged.safetensors"
    tensors = named(changes_of(_UNET_RANKS), "unet.", "lora_A", "lora_B")
    save_file(tensors, file, metadata={"lora_adapter_metadata": settings})
    with pytest.raises(UserError, match=complaint) as caught:
        Lora(file, 1.0, PipelineFolder(pipelines["sd1"])).merge(models("unet"), "unet")
    assert "\n" not in str(caught.value)
