"""Output that nobody reads, that is closed or has no space left; and memory that runs out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fake_parts
import pytest
import torch

from threedgen.commands.main import main
from threedgen.core import memory
from threedgen.jobs import run as job
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.events import StepDone

RUN = [sys.executable, "-m", "threedgen"]


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["recipes", "--help"]])
def test_a_reader_that_has_read_enough_ends_the_command_quietly(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([*RUN, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_output_that_is_closed_goes_nowhere():
    ended = subprocess.run(["sh", "-c", f"{' '.join(RUN)} recipes >&-"], stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert subprocess.run(["sh", "-c", f"{' '.join(RUN)} nothing >&- 2>&-"]).returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "--help"]])
def test_output_without_space_is_one_line(arguments):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*RUN, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, env=buffered
        )
    assert ended.returncode == 2
    assert ended.stderr == (
        "threedgen: cannot write the output: No space left on device; send it to another place\n"
    )


SETTINGS = [
    *("representation.count=60", "cameras.resolution=16", "guidance.0.prior.name=disc"),
    *("export.mesh.resolution=16", "export.turntable.frames=1", "export.turntable.size=16"),
]


@pytest.mark.parametrize(
    ("setting", "beginning", "end", "left"),
    [
        (
            "cameras.resolution=100000000000",
            "the views asked for more",
            "lower cameras.batch (4), cameras.resolution (100000000000)",
            False,
        ),
        (
            "representation.count=1000000000000000",
            "the representation asked for 4,000,000 GB more",
            "lower representation.count (1000000000000000), representation.density.max_count (12000)",
            False,
        ),
        (
            "export.turntable.size=100000000",
            "the files asked for",
            "lower export.mesh.resolution (16), export.turntable.frames (1), export.turntable.size (100000000) "
            "in a new run; the checkpoint of 'run' is intact, after step 1: go on with `threedgen resume run` "
            "where more is free",
            True,
        ),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(setting, beginning, end, left, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["text-to-3d", "x", "--recipe", "sds", "--steps", "1", "--out", "run"]
    assert main([*command, *SETTINGS, setting]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"threedgen: out of memory: {beginning}")
    # The peak is that of this process, in which other tests may have run before.
    assert re.search(rf" at a peak of \d+\.\d+ GB; {re.escape(end)}$", said)
    assert Path("run").exists() == left


@pytest.mark.filterwarnings("ignore:no exporter for Tensor")
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total of 16 GiB"
        ),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_memory_that_runs_out_later_leaves_the_checkpoint(error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(fake_parts.RECIPE)
    real = job.distill

    def fails(*arguments, listeners, **options):
        def fail(event):
            if isinstance(event, StepDone) and event.state.step == 15:
                raise error

        return real(*arguments, listeners=[*listeners, fail], **options)

    with monkeypatch.context() as patch:
        patch.setattr(job, "distill", fails)
        assert main(["text-to-3d", "red", "--recipe", "recipe.yaml", "--out", "run"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert ("asked for 20.00 GiB more" in said) == (type(error) is torch.OutOfMemoryError)
    assert "lower cameras.batch (2), cameras.resolution (4) in a new run; the checkpoint of 'run'" in said
    assert main(["resume", "run", "--trust"]) == 0
    assert RunDirectory.open("run").finished


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert not memory.ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(ValueError, match="a mistake"), memory.in_one_line(str):
        raise ValueError("a mistake")


def test_a_large_model_is_told_how_to_become_smaller():
    from threedgen.jobs.sizes import what_to_lower
    from threedgen.recipes.load import load_recipe

    recipe = load_recipe("magic3d", prompt="x", prior="models/sd")
    said = what_to_lower(recipe, 1, memory.PRIOR)
    assert said.startswith("lower stages.1.cameras.batch (")
    assert said.endswith(
        "set stages.1.guidance.0.prior.memory=GB, or set stages.1.guidance.0.prior.vae_tiling=true"
    )


@pytest.mark.parametrize("number", ["1e30", "1000000000000000000000"])
def test_numbers_that_no_computer_counts_to_are_one_line(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["text-to-3d", "x", "--recipe", "sds", f"representation.count={number}"]) == 2
    assert "'representation.count' is too large" in capsys.readouterr().err
    assert main(["text-to-3d", "x", "--recipe", "sds", f"cameras.fov=1{400 * '0'}"]) == 2
    assert (
        "cannot read the value of 'cameras.fov': it holds a number of 401 digits" in capsys.readouterr().err
    )


def test_letters_that_a_terminal_does_not_have_are_escaped():
    words = [sys.executable, "-m", "threedgen", "text-to-3d", "a \u2603 cube", "--dry-run"]
    result = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert result.returncode == 0, result.stderr
    assert "\\u2603" in result.stdout
