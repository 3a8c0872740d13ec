"""What recipes say about the memory of a GPU is what a benchmark counts on the meta device."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def gpu_memory() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("gpu_memory")


def test_four_views_take_hardly_more_than_one_in_the_autoencoder(gpu_memory):
    assert gpu_memory.encoding(512, 4) < 1.05 * gpu_memory.encoding(512, 1) < 3.5
    assert gpu_memory.encoding(1024, 4) < 14.0
    assert gpu_memory.encoding(512, 4, torch.bfloat16) < 0.55 * gpu_memory.encoding(512, 4)


@pytest.mark.parametrize("recipe", ["text-to-3d", "mvdream", "image-to-3d", "prolificdreamer"])
def test_the_line_of_a_recipe_is_the_count(gpu_memory, recipe, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_memory.py", "--check", recipe])
    assert gpu_memory.main() == 0, capsys.readouterr().out
