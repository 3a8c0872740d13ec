"""Networks that are loaded at their first use."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_executors import ask, load

from threedgen.core.errors import UserError
from threedgen.guidance.priors.executors.deferred import DeferredNetwork
from threedgen.guidance.priors.folder import parts


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("openvino")
    monkeypatch.setenv("THREEDGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(pipelines: dict[str, Path], tmp_path: Path) -> Path:
    return copytree(pipelines["sd1"], tmp_path / "prior")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the denoisers that are loaded."""
    found: list[str] = []
    own = parts.PipelineParts._load_network

    def counted(self: Any, name: str, part: str) -> Any:
        found.append(name)
        return own(self, name, part)

    monkeypatch.setattr(parts.PipelineParts, "_load_network", counted)
    return found


def test_a_network_whose_graph_is_stored_is_not_loaded(folder: Path, loads: list[str]) -> None:
    first = load(folder)
    answer = ask(first)
    second = load(folder)
    assert torch.equal(ask(second).eps, answer.eps)
    assert loads == ["UNet2DConditionModel"]
    assert second.executor.used == first.executor.used
    assert vars(second.network_config) == dict(first.network.config)


def test_it_is_loaded_for_another_shape_and_for_whoever_asks_for_it(folder: Path, loads: list[str]) -> None:
    ask(load(folder))
    eager = ask(load(folder, "eager"), 2)
    other = load(folder)
    torch.testing.assert_close(ask(other, 2).eps, eager.eps, rtol=2e-4, atol=2e-5)
    assert len(loads) == 3
    third = load(folder)
    assert len(list(third.network.parameters())) == len(list(other.network.parameters()))
    assert not any(weight.requires_grad for weight in third.network.parameters())
    assert len(loads) == 4


def test_a_network_that_was_changed_is_not_computed_by_the_stored_graph(folder: Path) -> None:
    answer = ask(load(folder))
    changed = load(folder)
    changed.network.conv_out.bias.data += 1.0
    assert float((ask(changed).eps - answer.eps).abs().max()) > 0.5


def test_settings_that_rule_graphs_out_load_it(folder: Path, loads: list[str]) -> None:
    ask(load(folder))
    load(folder, "eager")
    load(folder, memory=100.0)
    load(folder, dtype="bfloat16")
    assert len(loads) == 4


def test_files_with_another_content_are_another_network(folder: Path, loads: list[str]) -> None:
    ask(load(folder))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"] = weights["conv_out.bias"] + 1.0
    save_file(weights, file)
    assert not isinstance(load(folder)._network, DeferredNetwork)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "norm_eps": 1e-4}))
    assert not isinstance(load(folder)._network, DeferredNetwork)
    assert len(loads) == 3


def test_a_damaged_file_is_reported_when_the_prior_is_loaded(folder: Path) -> None:
    ask(load(folder))
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "block_out_channels": [8]}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder)


def test_a_damaged_record_is_as_none(folder: Path, cache: Path, loads: list[str]) -> None:
    answer = ask(load(folder))
    (record,) = (cache / "networks").iterdir()
    record.write_bytes(record.read_bytes()[:-10])
    assert torch.equal(ask(load(folder)).eps, answer.eps)
    assert len(loads) == 2
