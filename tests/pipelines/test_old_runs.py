"""Runs that were made before the modules moved into rooms: they resume to the same bits, export and render.

Each was stopped by Ctrl-C; expected.safetensors is the last checkpoint of the same run without a stop, by the old
build on one thread of an AVX2 processor. compose is a finished scene, whose recipe names its class by the old
module.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from threedgen.commands.main import main
from threedgen.jobs.run import start
from threedgen.pipelines.result import load_run

pytestmark = pytest.mark.usefixtures("one_thread")
RUNS = Path(__file__).parents[1] / "data" / "old_runs"
STOPPED = ("text-to-3d", "dreamgaussian", "text-to-4d")


@pytest.fixture
def old_run(tmp_path):
    def copy(name):
        shutil.copytree(RUNS / name, tmp_path / name)
        return tmp_path / name

    return copy


def final(path):
    (file,) = (path / "checkpoint").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_resumes_to_the_same_tensors(name, old_run):
    path, expected = old_run(name), load_file(RUNS / name / "expected.safetensors")
    run = load_run(path).resume(progress=False)
    assert run.finished
    assert run.report["steps"] == run.recipe.steps
    found = final(path)
    assert found.keys() == expected.keys()
    for key, value in expected.items():  # another processor may round differently
        torch.testing.assert_close(found[key], value, rtol=1e-2, atol=1e-2)


def test_the_bits_are_the_same_where_the_processor_rounds_the_same(old_run, tmp_path):
    path, expected = old_run("text-to-3d"), load_file(RUNS / "text-to-3d" / "expected.safetensors")
    run = load_run(path)
    whole = start(run.recipe, tmp_path / "whole")
    uninterrupted = final(whole.path)
    if not all(torch.equal(uninterrupted[key], value) for key, value in expected.items()):
        pytest.skip("this processor rounds differently from the one that made the run")
    run.resume(progress=False)
    resumed = final(path)
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["text-to-3d", "compose"])
def test_it_exports_and_renders(name, old_run, tmp_path, capsys):
    path = old_run(name)
    assert main(["export", str(path), "--to", str(tmp_path / "x.glb")]) == 0
    assert (tmp_path / "x.glb").stat().st_size > 1000
    assert main(["render", str(path), "--to", str(tmp_path / "frames"), "frames=2"]) == 0
    assert len(list((tmp_path / "frames").glob("*.png"))) == 2


def test_a_composed_scene_is_continued_by_its_command(old_run, capsys):
    assert main(["resume", str(old_run("compose"))]) == 2
    assert "threedgen compose" in capsys.readouterr().err
