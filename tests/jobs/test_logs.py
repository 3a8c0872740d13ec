"""Logs of other programs hold the numbers and pictures of every step, and do not keep a run from being resumed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import fake_parts
import pytest

from threedgen.commands.main import main
from threedgen.jobs.listeners import logs
from threedgen.jobs.listeners.metrics import read
from threedgen.jobs.run_directory import RunDirectory

pytestmark = [
    pytest.mark.usefixtures("trusted_runs"),
    pytest.mark.filterwarnings("ignore:no exporter for Tensor"),
]
needs_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="tensorboard is not installed (threedgen[tensorboard])"
)
needs_wandb = pytest.mark.skipif(
    find_spec("wandb") is None, reason="wandb is not installed (threedgen[wandb])"
)
RUN = ["text-to-3d", "red", "--recipe", "recipe.yaml", "--out", "run"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(fake_parts.RECIPE)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_log_whose_package_is_missing_is_one_line_before_the_run(name, monkeypatch, capsys):
    monkeypatch.setattr(logs, "find_spec", lambda package: None)
    assert main([*RUN, "--log", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert f"--log {name}: {name} is not installed; pip install 'threedgen[{name}]'" in line
    assert not Path("run").exists()


@needs_tensorboard
def test_tensorboard_has_every_number_of_every_step_also_after_a_resume():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*RUN, "--log", "tensorboard", "--log", "tensorboard"]) == 0
    assert main(["resume", "run", "--steps", "44", "--log", "tensorboard", "--trust"]) == 0
    board = EventAccumulator("run/tensorboard", size_guidance={"images": 0, "scalars": 0})
    board.Reload()
    rows = read(RunDirectory(Path("run")).metrics)
    assert [one.step for one in board.Scalars("loss")] == list(range(1, 45))
    assert [one.value for one in board.Scalars("loss")] == pytest.approx([row["loss"] for row in rows])
    assert len(board.Images("views")) >= 10


@needs_wandb
def test_wandb_works_without_a_network(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert main([*RUN, "--log", "wandb"]) == 0
    (file,) = Path("wandb").glob("offline-run-*/*.wandb")
    assert file.stat().st_size > 0
    assert b"guidance/noise" in file.read_bytes()
    assert main(["resume", "run", "--steps", "44", "--log", "wandb", "--trust"]) == 0
    assert len(list(Path("wandb").glob("offline-run-*/*.wandb"))) == 2


@needs_wandb
def test_wandb_that_refuses_leaves_no_run(monkeypatch, capsys):
    import wandb

    def refuse(**settings):
        raise wandb.errors.UsageError("no API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    assert main([*RUN, "--log", "wandb"]) == 2
    assert "no API key configured; run `wandb login`, or set WANDB_MODE=offline" in capsys.readouterr().err
    assert not Path("run").exists()
