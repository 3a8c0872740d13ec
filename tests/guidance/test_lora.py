"""LoRA files on a prior: the changed weights of each part, in the formats of diffusers and kohya."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from threedgen.core import machine
from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import PriorConfig, load_folder, load_prior

_UP = "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
_KOHYA = "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
_CLIP = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


def pair(outputs: int, inputs: int, rank: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
    return down, up


def write(file: Path, **tensors: torch.Tensor) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


def with_lora(folder: Path, file: Path, **options: Any) -> Any:
    return load_prior(PriorConfig(path=str(folder), lora=str(file), **options))


def weight(prior: Any) -> torch.Tensor:
    return prior.network.get_submodule(_UP).weight


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_diffusers_format_adds_up_times_down(pipelines, tmp_path, scale):
    plain = load_folder(pipelines["sd1"])
    down, up = pair(*weight(plain).shape)
    changes = {f"unet.{_UP}.lora_A.weight": down, f"unet.{_UP}.lora_B.weight": up}
    prior = with_lora(pipelines["sd1"], write(tmp_path / "lora.safetensors", **changes), lora_scale=scale)
    torch.testing.assert_close(weight(prior), weight(plain) + scale * up @ down)
    names = [name for name, _ in prior.network.named_parameters()]
    assert names == [name for name, _ in plain.network.named_parameters()]
    assert not any(p.requires_grad for p in prior.network.parameters())


def test_kohya_format_with_alpha(pipelines, tmp_path):
    """The change is alpha / rank times up times down."""
    plain = load_folder(pipelines["sd1"])
    down, up = pair(*weight(plain).shape)
    changes = {
        f"{_KOHYA}.lora_down.weight": down,
        f"{_KOHYA}.lora_up.weight": up,
        f"{_KOHYA}.alpha": torch.tensor(1.0),
    }
    prior = with_lora(pipelines["sd1"], write(tmp_path / "lora.safetensors", **changes))
    torch.testing.assert_close(weight(prior), weight(plain) + 0.5 * up @ down)


def test_the_text_encoder_changes_too(pipelines, tmp_path):
    plain = load_folder(pipelines["sd1"])
    unet_down, unet_up = pair(*weight(plain).shape)
    down, up = pair(16, 16)
    changes = {
        f"unet.{_UP}.lora_A.weight": unet_down,
        f"unet.{_UP}.lora_B.weight": 0.0 * unet_up,
        f"{_CLIP}.lora_A.weight": down,
        f"{_CLIP}.lora_B.weight": up,
    }
    file = write(tmp_path / "lora.safetensors", **changes)
    before, after = (
        plain.text(["a cube"])["states"],
        with_lora(pipelines["sd1"], file).text(["a cube"])["states"],
    )
    assert (after - before).abs().max() > 1e-3
    off = with_lora(pipelines["sd1"], file, lora_scale=0.0).text(["a cube"])["states"]
    torch.testing.assert_close(off, before)


@pytest.mark.parametrize(
    ("kind", "part", "layer"),
    [
        ("sdxl", "unet", _UP),
        ("sd3", "transformer", "transformer_blocks.0.attn.to_q"),
        ("flux", "transformer", "transformer_blocks.0.attn.to_q"),
    ],
)
def test_on_the_other_families(pipelines, tmp_path, kind, part, layer):
    plain = load_folder(pipelines[kind])
    before = plain.network.get_submodule(layer).weight
    down, up = pair(*before.shape)
    changes = {f"{part}.{layer}.lora_A.weight": down, f"{part}.{layer}.lora_B.weight": up}
    prior = with_lora(pipelines[kind], write(tmp_path / "lora.safetensors", **changes))
    torch.testing.assert_close(prior.network.get_submodule(layer).weight, before + up @ down)


def test_a_changed_prior_is_still_one_that_vsd_can_adapt(pipelines, tmp_path):
    down, up = pair(*weight(load_folder(pipelines["sd1"])).shape)
    changes = {f"unet.{_UP}.lora_A.weight": down, f"unet.{_UP}.lora_B.weight": up}
    prior = with_lora(pipelines["sd1"], write(tmp_path / "lora.safetensors", **changes))
    model = prior.particle_model("lora", 2, 0)
    z, t, condition = torch.randn(1, 4, 16, 16), torch.tensor([0.5]), Condition(("a cube",))
    torch.testing.assert_close(model.predict(z, t, condition).eps, prior.predict(z, t, condition).eps)


def complaint(pipelines, file: Path, kind: str = "sd1") -> str:
    with pytest.raises(UserError) as caught:
        with_lora(pipelines[kind], file)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_files_that_cannot_be_used(pipelines, tmp_path, monkeypatch):
    down, up = pair(16, 16)
    good = write(tmp_path / "good.safetensors", **{"unet.x.lora_A.weight": down, "unet.x.lora_B.weight": up})
    other = write(
        tmp_path / "other.safetensors",
        **{"transformer.x.lora_A.weight": down, "transformer.x.lora_B.weight": up},
    )
    assert "does not exist" in complaint(pipelines, tmp_path / "nowhere.safetensors")
    pickle = tmp_path / "lora.bin"
    torch.save({}, pickle)
    assert "is not safetensors" in complaint(pipelines, pickle)
    assert "holds no changes for the unet of this prior" in complaint(pipelines, other)
    name = f"unet.{_UP}"
    wrong = write(
        tmp_path / "wrong.safetensors",
        **{f"{name}.lora_A.weight": torch.zeros(2, 999), f"{name}.lora_B.weight": torch.zeros(16, 2)},
    )
    assert "cannot be loaded" in complaint(pipelines, wrong)
    good.write_bytes(good.read_bytes()[:-5])
    assert "truncated or corrupt" in complaint(pipelines, good)
    monkeypatch.setattr(machine, "version", lambda name: None)
    assert "needs peft and accelerate: pip install peft" in complaint(pipelines, other)
