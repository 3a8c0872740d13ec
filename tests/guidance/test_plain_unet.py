"""The UNets that are read without diffusers, against diffusers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.plain_unet import WEIGHTS, PlainUNet, is_plain, load_plain
from threedgen.guidance.priors.load import (
    EMBEDDED_VIDEO_WEIGHTS,
    EMBEDDED_VIEW_WEIGHTS,
    EMBEDDED_WEIGHTS,
    PriorConfig,
    load_prior,
)
from threedgen.training.prior_model import for_size, make_unet

SHIPPED = (EMBEDDED_WEIGHTS, EMBEDDED_VIEW_WEIGHTS, EMBEDDED_VIDEO_WEIGHTS)


def of_diffusers(folder: Path) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(str(folder), torch_dtype=torch.float64).eval()


def inputs(network: Any, size: int = 32) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    config = network.config
    drawn = {
        "sample": torch.randn(3, config.in_channels, size, size, generator=rng),
        "timestep": torch.tensor([0.0, 317.25, 999.0]),
        "encoder_hidden_states": torch.randn(3, 77, config.cross_attention_dim, generator=rng),
        "class_labels": torch.randn(3, config.projection_class_embeddings_input_dim, generator=rng),
    }
    return {name: value.double() for name, value in drawn.items()}


@torch.no_grad()
def require_same(plain: Any, diffusers: Any, size: int = 32) -> None:
    arguments = inputs(diffusers, size)
    expected = diffusers(**arguments, return_dict=False)[0]
    assert float(expected.std()) > 0.1
    # Both compute the time and the weights of the text in float32.
    torch.testing.assert_close(plain(**arguments, return_dict=False)[0], expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_shipped_networks_are_those_of_diffusers(folder: Path) -> None:
    assert is_plain(folder / "unet")
    require_same(load_plain(folder / "unet", torch.float64), of_diffusers(folder / "unet"))


def test_a_network_of_another_size_that_a_training_writes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = make_unet(for_size(64), 3, 3, 20).eval()
    torch.nn.init.normal_(network.conv_out.weight)
    network.save_pretrained(tmp_path)
    assert is_plain(tmp_path)
    require_same(load_plain(tmp_path, torch.float64), network.double(), 64)


def test_its_gradient_is_that_of_diffusers() -> None:
    folder = EMBEDDED_WEIGHTS / "unet"
    gradients = []
    for network in (load_plain(folder, torch.float64), of_diffusers(folder)):
        network(**inputs(network), return_dict=False)[0].square().mean().backward()
        weights = dict(network.named_parameters())
        gradients.append({name: weight.grad for name, weight in weights.items()})
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[1].items():
        scale = float(gradient.abs().max()) + 1e-6
        assert float((gradients[0][name] - gradient).abs().max()) < 1e-5 * scale, name


@pytest.mark.parametrize(
    "change",
    [
        {"use_linear_projection": True},
        {"layers_per_block": 2},
        {"norm_num_groups": 4},
        {"class_embed_type": None},
        {"down_block_types": ["SimpleCrossAttnDownBlock2D"] * 4},
        {"something_new": 1},
    ],
)
def test_another_family_is_left_to_diffusers(change: dict[str, Any], tmp_path: Path) -> None:
    folder = copytree(EMBEDDED_WEIGHTS / "unet", tmp_path / "unet")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert not is_plain(folder)


@pytest.mark.parametrize("change", [{"block_out_channels": [24, 48, 96, 136]}, {"in_channels": "x"}])
def test_a_config_that_does_not_fit_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    folder = copytree(EMBEDDED_WEIGHTS / "unet", tmp_path / "unet")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=r"cannot be loaded|in_channels in unet/config\.json is 'x'"):
        load_plain(folder, torch.float32)


def test_weights_that_are_missing_are_one_line(tmp_path: Path) -> None:
    folder = copytree(EMBEDDED_WEIGHTS / "unet", tmp_path / "unet")
    weights = load_file(folder / WEIGHTS)
    weights.pop("mid_block.resnets.1.conv2.bias")
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"cannot be loaded.*PlainUNet"):
        load_plain(folder, torch.float32)


def test_a_prior_is_plain_unless_its_memory_is_limited() -> None:
    assert isinstance(load_prior(PriorConfig()).network, PlainUNet)  # type: ignore[attr-defined]
    sliced = load_prior(PriorConfig(attention_slicing=True))
    assert not isinstance(sliced.network, PlainUNet)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["embedded", "embedded-video"])
def test_the_shipped_priors_are_loaded_without_large_libraries(name: str) -> None:
    """Each of them takes from half a second to two seconds to import."""
    code = (
        "import sys, torch\n"
        "from threedgen.guidance.priors.load import PriorConfig, load_prior\n"
        f"load_prior(PriorConfig(name='{name}', executor='eager'))\n"
        "print(sorted({'transformers', 'diffusers', 'torch._dynamo', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
