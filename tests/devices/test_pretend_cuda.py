"""Whole runs with --device cuda on a pretend GPU: nothing mixes devices, and a step seldom makes the host wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretend_cuda_guard import compiler

from threedgen.core.transfer import constant, on_cpu, read_numbers, rows, sent

# One answer whether loss and gradients are finite, and one with all metrics of the step.
MOST = 2
# These decide on the device's numbers which Gaussians, faces or pixels there are, each of which is read.
MORE = {"text-to-3d": 11, "zero123": 4, "fit": 4, "fantasia3d": 28, "text-to-4d": 3}
GROUPS = [
    ["sds", "luciddreamer", "fit"],
    ["dreamfusion", "prolificdreamer", "text-to-4d"],
    ["text-to-3d", "zero123", "fantasia3d"],
]
pytestmark = pytest.mark.skipif(
    compiler() is None or not sys.platform.startswith("linux"), reason="needs a C++ compiler, on Linux"
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pretend-cuda")


@pytest.mark.parametrize("families", GROUPS, ids=lambda families: "+".join(families))
def test_runs_on_a_pretend_gpu(families, folder):
    script = Path(__file__).with_name("pretend_cuda_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *families],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [run["family"] for run in found] == families, done.stderr[-2000:]
    for run in found:
        assert run["status"] == 0, (run, done.stderr[-2000:])
        assert run["mixed"] == []
        assert 0 < run["waits"] <= MORE.get(run["family"], MOST), run


def test_numbers_are_read_as_they_are():
    double = torch.tensor([0.1], dtype=torch.float64)
    numbers = {"a": torch.tensor(0.1), "b": 3.0, "c": double, "d": torch.tensor(2)}
    read = read_numbers(numbers)
    assert list(read) == list("abcd")
    assert read == {"a": torch.tensor(0.1).item(), "b": 3.0, "c": 0.1, "d": 2.0}


def test_on_the_cpu_nothing_is_copied():
    x = torch.arange(6.0).reshape(3, 2)
    assert sent(x, "cpu") is x
    assert on_cpu(x).data_ptr() == x.data_ptr()
    assert rows(x, torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert constant([1, 2], x).dtype == torch.float32


def test_what_is_sent_is_known_until_it_is_changed():
    there = sent(torch.tensor([1.0, 2.0]), "meta")  # a device that cannot be read
    assert on_cpu(there).tolist() == [1.0, 2.0]
    assert on_cpu(rows(there, slice(1, 2))).tolist() == [2.0]
    there.add_(1.0)
    with pytest.raises(NotImplementedError):
        on_cpu(there)
