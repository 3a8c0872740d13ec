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
    assert "is for another model than this prior: it has none for a unet" in complaint(pipelines, other)
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


def kohya(
    file: Path,
    alphas: dict[str, float],
    shapes: dict[str, tuple[int, int]] | None = None,
    ranks: dict[str, int] | None = None,
) -> Path:
    """A file of kohya's trainer, with the alpha of each change, its shape (16, 16) and its rank (2)."""
    tensors: dict[str, torch.Tensor] = {}
    shapes, ranks = shapes or {}, ranks or {}
    for name, alpha in alphas.items():
        down, up = pair(*shapes.get(name, (16, 16)), rank=ranks.get(name, 2))
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return write(file, **tensors)


def test_every_change_has_its_own_alpha(pipelines, tmp_path):
    """Also in a text encoder of which only queries and values are changed, as kohya's trainer does by default."""
    encoder = "lora_te_text_model_encoder_layers_{}_self_attn_{}_proj"
    second = _KOHYA.replace("to_q", "to_out_0")
    alphas = {_KOHYA: 1.0, second: 2.0, encoder.format(0, "q"): 1.0, encoder.format(1, "v"): 4.0}
    file = kohya(tmp_path / "lora.safetensors", alphas, ranks={second: 3})
    plain, prior = load_folder(pipelines["sd1"]), with_lora(pipelines["sd1"], file)
    for name, alpha, rank in ((_UP, 1.0, 2), (_UP.replace("to_q", "to_out.0"), 2.0, 3)):
        down, up = pair(16, 16, rank)
        changed, before = (each.network.get_submodule(name).weight for each in (prior, plain))
        torch.testing.assert_close(changed, before + alpha / rank * up @ down)
    down, up = pair(16, 16)
    loaded = []
    for folder_prior in (plain, prior):
        folder_prior.text(["a new text"])
        embedder = folder_prior.text
        closure = embedder._encode.__closure__
        loaded.append(
            next(cell.cell_contents for cell in closure if hasattr(cell.cell_contents, "state_dict"))
        )
    before, after = (
        {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
        for model in loaded
    )
    for name, value in before.items():
        factor = {"layers.0.self_attn.q_proj.weight": 0.5, "layers.1.self_attn.v_proj.weight": 2.0}.get(
            name.removeprefix("encoder."), 0.0
        )
        torch.testing.assert_close(after[name], value + factor * up @ down if factor else value)


def test_how_many_changes_are_used_is_said(pipelines, tmp_path):
    ghost = _KOHYA.replace("up_blocks_0", "up_blocks_7")
    file = kohya(tmp_path / "half.safetensors", {_KOHYA: 1.0, ghost: 1.0})
    with pytest.warns(UserWarning, match=r"1 of its 2 changes for the unet are used \(not, .*up_blocks.7"):
        with_lora(pipelines["sd1"], file)
    encoder = "lora_te_text_model_encoder_layers_{}_self_attn_q_proj"
    file = kohya(tmp_path / "deep.safetensors", dict.fromkeys((_KOHYA, encoder.format(9)), 1.0))
    with pytest.warns(UserWarning, match="0 of its 1 changes for the text_encoder are used"):
        with_lora(pipelines["sd1"], file).text(["a new text"])
    file = kohya(tmp_path / "none.safetensors", {ghost: 1.0})
    assert "none of its 1 changes for the unet fits" in complaint(pipelines, file)
    both = dict.fromkeys((_KOHYA, encoder.format(0)), 1.0)
    wide = kohya(tmp_path / "wide.safetensors", both, {encoder.format(0): (8, 8)})
    assert "does not fit the shape of the layer" in complaint(pipelines, wide)


def test_names_of_peft(pipelines, tmp_path):
    plain = load_folder(pipelines["sd1"])
    down, up = pair(*weight(plain).shape)
    start = f"base_model.model.{_UP}"
    file = write(
        tmp_path / "peft.safetensors", **{f"{start}.lora_A.weight": down, f"{start}.lora_B.weight": up}
    )
    torch.testing.assert_close(weight(with_lora(pipelines["sd1"], file)), weight(plain) + up @ down)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
        ("LoKr", ("lokr_w1", "lokr_w2")),
        ("DoRA", ("lora_down.weight", "lora_up.weight", "dora_scale")),
    ],
)
def test_other_kinds_of_changes_are_refused_by_name(pipelines, tmp_path, kind, names):
    file = write(tmp_path / "other.safetensors", **{f"{_KOHYA}.{name}": torch.zeros(2, 2) for name in names})
    assert f"holds changes of the kind {kind}, which are not read" in complaint(pipelines, file)
