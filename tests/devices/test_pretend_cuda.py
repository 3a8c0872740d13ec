"""Whole runs with --device cuda on a pretend GPU: nothing mixes devices, and a step seldom makes the host wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretend_cuda_guard import compiler

from threedgen.core.transfer import among, constant, on_cpu, read_numbers, rows, sent, write

HERE = Path(__file__).parent
# A family for each kind of scene, prior and guidance. `make test-all` runs all of them.
FAMILIES = ("text-to-3d", "sds", "prolificdreamer", "zero123", "fantasia3d", "text-to-4d")

on_a_pretend_gpu = pytest.mark.skipif(
    compiler() is None or not sys.platform.startswith("linux"), reason="needs a C++ compiler, on Linux"
)


def pretending(*words: str) -> subprocess.CompletedProcess[str]:
    """A Python process of its own, because a pretend GPU is there for good."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
    )


@on_a_pretend_gpu
def test_runs_on_a_pretend_gpu_wait_no_more_often_than_was_counted(tmp_path):
    done = pretending(str(HERE / "pretend_cuda_runs.py"), str(tmp_path), *FAMILIES)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert [row.split("|")[1].strip() for row in done.stdout.splitlines()[2:]] == list(FAMILIES)


NEGATIVE = """
import sys
sys.path[:0] = [sys.argv[1]]
from pretend_cuda_runs import pretend
pretend()
import torch
from pretend_cuda import Pretend
from threedgen.cameras.orbit import OrbitSampler
from threedgen.core.types import RadianceField, Signal
from threedgen.loop.distill import distill
from threedgen.renderers.volume import VolumeRenderer

class Scene(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.raw = torch.nn.Parameter(torch.tensor([-0.1], device="cuda"))
        self.box = torch.tensor([[-1.0] * 3, [1.0] * 3]).cuda()
    def at(self, time):
        return RadianceField(lambda points, _: (self.raw.expand(len(points)), torch.ones_like(points)), self.box)
    def parameter_groups(self):
        return {"raw": [self.raw]}
    def learning_rates(self):
        return {"raw": 0.1}
    def adapt(self, *_):
        return {}

with Pretend():
    scene, renderer = Scene(), VolumeRenderer(VolumeRenderer.Config(samples=8))
    cameras = OrbitSampler(OrbitSampler.Config(batch=1, resolution=8))
    guide = lambda output, *_: Signal(output.rgb.square().sum())
    for attempt in (lambda: distill(scene, renderer, cameras, [guide], "", steps=3),
                    lambda: torch.no_grad()(renderer)(scene.at(None), cameras(0, 0, 3).to("cuda"), torch.ones(3))):
        try:
            attempt()
        except Exception as error:
            print(type(error).__name__, error)
"""


@on_a_pretend_gpu
def test_negative_densities_are_refused_on_a_gpu():
    done = pretending("-c", NEGATIVE, str(HERE))
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr[-3000:]
    assert lines[0].startswith(
        "Diverged NaN or an infinite value in the loss at step 0, again after a rollback"
    )
    assert lines[1] == "ValueError field.query returned a density that is negative or not finite"


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


def test_what_is_chosen_is_the_same_whether_all_items_are_computed_or_not():
    items, chosen = torch.arange(8.0).reshape(4, 2), torch.tensor([True, False, True, False])
    seen = []

    def both(some):
        seen.append(len(some))
        return some + 1.0, some[:, 0]

    wide, narrow = among(both, items, chosen)
    assert wide.tolist() == [[1.0, 2.0], [0.0, 0.0], [5.0, 6.0], [0.0, 0.0]]
    assert narrow.tolist() == [0.0, 0.0, 4.0, 0.0]
    wide, narrow = among(
        both, items.to("meta"), chosen.to("meta")
    )  # which cannot be asked how many there are
    assert (wide.shape, narrow.shape, seen) == ((4, 2), (4,), [2, 4])


def test_what_is_sent_is_known_until_it_is_changed():
    there = sent(torch.tensor([1.0, 2.0]), "meta")  # a device that cannot be read
    assert on_cpu(there).tolist() == [1.0, 2.0]
    assert on_cpu(rows(there, slice(1, 2))).tolist() == [2.0]
    there.add_(1.0)
    with pytest.raises(NotImplementedError):
        on_cpu(there)
    write(there, torch.tensor([5.0, 6.0]))
    assert on_cpu(there).tolist() == [5.0, 6.0]
