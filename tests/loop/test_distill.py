"""The loop with objects of third parties: determinism, exact resume, rollback, and what it refuses."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import fake_parts
import pytest
import torch

from threedgen.cameras.orbit import OrbitSampler
from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.types import Signal
from threedgen.jobs import run as jobs
from threedgen.jobs.listeners import metrics
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.background import ColorBackground
from threedgen.loop.distill import distill, new_state
from threedgen.loop.events import StepDone, StepRolledBack
from threedgen.loop.watchdog import Diverged, Watchdog
from threedgen.recipes.load import load_recipe

pytestmark = [
    pytest.mark.filterwarnings("ignore:no exporter for Tensor"),
    pytest.mark.usefixtures("trusted_runs"),
]


def run_loop(steps=30, seed=0, listeners=None, weights=None, guidances=None, **pull):
    scene = fake_parts.Points(fake_parts.Points.Config(), seed)
    guide = fake_parts.Pull(fake_parts.Pull.Config(**pull), "cpu")
    cameras = OrbitSampler(OrbitSampler.Config(batch=2, resolution=4))
    renderer = fake_parts.Averager(fake_parts.Averager.Config())
    guidances = [guide] if guidances is None else guidances
    return distill(
        scene,
        renderer,
        cameras,
        guidances,
        "red",
        steps=steps,
        seed=seed,
        listeners=listeners,
        weights=weights,
    )


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_is_a_function_of_its_seed():
    first, second, other = run_loop(seed=3), run_loop(seed=3), run_loop(seed=4)
    assert same(first.tensors(), second.tensors())
    assert not torch.equal(first.scene.bias, other.scene.bias)


def test_the_loop_optimises():
    colour = run_loop(steps=200).scene.at().mean(0)
    assert (colour - torch.tensor([1.0, 0.0, 0.0])).abs().max() < 0.15


def test_listeners_hear_every_step_in_order():
    heard = []
    run_loop(steps=3, listeners=[heard.append])
    names = [type(event).__name__ for event in heard]
    assert names == ["RunStarted", *["GradientsReady", "StepDone"] * 3, "RunFinished"]
    done = [event for event in heard if isinstance(event, StepDone)]
    assert [event.step for event in done] == [0, 1, 2]
    assert {"loss", "guidance/noise", "rows"} <= done[0].metrics.keys()


def test_numbers_of_a_guidance_may_be_tensors_and_are_heard_as_numbers():
    def guide(output, *_):
        loss = output.rgb.square().sum()
        return Signal(loss, {"own": loss.detach(), "whole": torch.tensor([2]), "plain": 0.5})

    heard = []
    run_loop(steps=1, guidances=[guide, guide], listeners=[heard.append])
    (done,) = (event for event in heard if isinstance(event, StepDone))
    numbers = {"own": done.signals[0].loss.item(), "whole": 2.0, "plain": 0.5}
    assert [signal.metrics for signal in done.signals] == [numbers, numbers]
    named = {f"guidance{which}/{name}": value for which in ("", 1) for name, value in numbers.items()}
    assert done.metrics.items() >= named.items()
    assert {type(value) for value in [*done.metrics.values(), *done.signals[0].metrics.values()]} == {float}


def test_a_snapshot_restores_the_run_exactly():
    snapshots = {}

    def keep(event):
        if isinstance(event, StepDone) and event.state.step == 17:
            snapshots[17] = event.state.snapshot()

    whole = run_loop(steps=30, listeners=[keep])
    scene = fake_parts.Points(fake_parts.Points.Config(), 0)
    state = new_state(scene, (), steps=30)
    state.restore(*snapshots[17])
    guide = fake_parts.Pull(fake_parts.Pull.Config(), "cpu")
    cameras = OrbitSampler(OrbitSampler.Config(batch=2, resolution=4))
    renderer = fake_parts.Averager(fake_parts.Averager.Config())
    distill(scene, renderer, cameras, [guide], "red", steps=30, state=state)
    assert same(whole.tensors(), state.tensors())


def test_a_nan_gradient_is_taken_back_once():
    heard = []
    state = run_loop(listeners=[Watchdog(every=5), heard.append], nan_at=(13,))
    back = [event for event in heard if isinstance(event, StepRolledBack)]
    assert len(back) == 1
    assert (back[0].step, back[0].to) == (13, 10)
    assert back[0].reason == "NaN in the gradient of 'values'"
    assert (state.step, state.rollbacks) == (30, 1)
    assert all(torch.isfinite(value).all() for value in state.tensors().values())


def test_a_nan_gradient_that_comes_back_stops_the_run_in_the_last_good_state():
    states = []
    with pytest.raises(Diverged, match=r"NaN in the gradient of 'values' at step 13, again"):
        run_loop(
            listeners=[Watchdog(every=5), lambda event: states.append(event.state)], nan_at=(13,), nan_tries=9
        )
    assert states[-1].step == 10
    assert all(torch.isfinite(value).all() for value in states[-1].tensors().values())


def test_weights_are_schedules_and_a_zero_weight_is_not_evaluated():
    calls = []

    class Counting(fake_parts.Pull):
        def __call__(self, output, cameras, prompt, step, total, seed):
            calls.append((step, seed))
            return super().__call__(output, cameras, prompt, step, total, seed)

    guides = [fake_parts.Pull(fake_parts.Pull.Config(), "cpu"), Counting(fake_parts.Pull.Config(), "cpu")]
    run_loop(steps=10, guidances=guides, weights=[1.0, {0: 0.0, 0.5: 1.0}])
    assert [step for step, _ in calls] == [5, 6, 7, 8, 9]
    assert all(seed != 0 for _, seed in calls), "a second guidance must draw from streams of its own"
    with pytest.raises(UserError, match="nothing drives step 0"):
        run_loop(steps=10, weights=[0.0])


@pytest.mark.parametrize("weights", [[], [1.0, 1.0]])
def test_weights_are_as_many_as_guidances(weights):
    with pytest.raises(UserError, match=f"{len(weights)} weights for 1 guidances"):
        run_loop(steps=1, weights=weights)


def test_background_share():
    plain = ColorBackground(ColorBackground.Config(color=(0.0, 1.0, 0.0), random=0.3))
    colours = torch.stack([plain(5, step) for step in range(2000)])
    share = (colours != torch.tensor([0.0, 1.0, 0.0])).any(1).float().mean()
    assert abs(share - 0.3) < 0.04
    assert torch.equal(plain(5, 7), plain(5, 7))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"random": 1.5}, "random is 1.5; it must be between 0 and 1"),
        ({"random": float("nan")}, "random is nan"),
        ({"color": (0.0, 0.5, 1.5)}, "color holds 1.5; every number of it must be between 0 and 1"),
    ],
)
def test_a_background_out_of_bounds_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        ColorBackground.Config(**values)


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    path = tmp_path / "recipe.yaml"
    path.write_text(fake_parts.RECIPE)
    return path


def start(recipe_file, out, *settings, **keywords):
    recipe = load_recipe(recipe_file, settings, prompt="red", **keywords)
    return jobs.start(recipe, out)


def test_a_parameter_in_no_group_is_refused(recipe_file, tmp_path):
    with pytest.raises(UserError, match=r"parameter orphan is in no optimizer group"):
        start(recipe_file, tmp_path / "run", "representation.forgotten_group=true")
    assert not (tmp_path / "run").exists()


def test_a_complaint_in_the_first_step_leaves_no_run(recipe_file, tmp_path):
    with pytest.raises(UserError, match="the guidance refuses step 0"):
        start(recipe_file, tmp_path / "run", "guidance.0.refuse_at=0")
    assert not (tmp_path / "run").exists()


def test_a_complaint_in_a_later_step_keeps_the_run(recipe_file, tmp_path):
    with pytest.raises(UserError, match="the guidance refuses step 12"):
        start(recipe_file, tmp_path / "run", "guidance.0.refuse_at=12")
    assert len(metrics.read(tmp_path / "run" / "metrics.jsonl")) == 12
    assert checkpoint.load(tmp_path / "run" / "checkpoint")[1]["step"] == 10


def test_a_run_that_breaks_for_good_keeps_its_last_good_state(recipe_file, tmp_path):
    with pytest.raises(Diverged):
        start(recipe_file, tmp_path / "run", "guidance.0.nan_at=[13]", "guidance.0.nan_tries=9")
    _, numbers = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert numbers["step"] == 10


def test_full_disk_during_a_checkpoint(recipe_file, tmp_path, monkeypatch):
    import errno

    real, calls = checkpoint._write_durably, []

    def full_after_first(path, data):
        calls.append(path)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(checkpoint, "_write_durably", full_after_first)
    with pytest.raises(UserError, match="No space left"):
        start(recipe_file, tmp_path / "run")
    monkeypatch.setattr(checkpoint, "_write_durably", real)
    _, numbers = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert numbers["step"] == 10
    assert jobs.resume(RunDirectory.open(tmp_path / "run")) == []
    assert checkpoint.load(tmp_path / "run" / "checkpoint")[1]["step"] == 40


def test_killed_and_resumed_is_the_same_run(recipe_file, tmp_path):
    """SIGKILL at two steps of one run of the real components: same bits, no step twice in metrics.jsonl."""
    recipe_file.write_text(fake_parts.REAL_RECIPE)
    whole = start(recipe_file, tmp_path / "whole")
    expected, numbers = checkpoint.load(whole.checkpoint)
    kills = sorted(random.Random(0).sample(range(1, 40), 2))
    out = tmp_path / "killed"
    environment = {
        **os.environ,
        "FAKE_KILL": "1",
        "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[1:3])),
    }

    def run(*arguments):
        command = [sys.executable, "-m", "threedgen", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    kill = f"guidance.1.kill_at={kills[0]}"
    first = run("text-to-3d", "red", "--recipe", str(recipe_file), "--out", str(out), kill)
    assert first.returncode == -9, first.stderr
    resolved = out / "recipe.yaml"
    resolved.write_text(resolved.read_text().replace(f"kill_at: {kills[0]}", f"kill_at: {kills[1]}"))
    assert run("resume", str(out)).returncode == -9
    resolved.write_text(resolved.read_text().replace(f"kill_at: {kills[1]}", "kill_at: -1"))
    last = run("resume", str(out))
    assert last.returncode == 0, last.stderr
    tensors, state = checkpoint.load(out / "checkpoint")
    assert state["step"] == numbers["step"] == 40
    assert same(expected, tensors), f"killed at {kills}"
    rows = metrics.read(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(40))
    whole_rows = metrics.read(whole.metrics)
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in whole_rows]
    for name in ("asset.ply", "asset.glb"):
        assert (out / name).read_bytes() == (whole.path / name).read_bytes()


_KILLED_WHILE_WRITING = """
import os, signal, sys
import threedgen.export.video
threedgen.export.video.write_contact_sheet = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
from threedgen.commands.main import main
main(sys.argv[1:])
"""


def test_killed_while_the_files_are_written_and_resumed(recipe_file, tmp_path):
    """The steps are not done again, and the files are those of an uninterrupted run."""
    recipe_file.write_text(fake_parts.REAL_RECIPE)
    whole, out = start(recipe_file, tmp_path / "whole"), tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[1:3]))}
    arguments = ["text-to-3d", "red", "--recipe", str(recipe_file), "--out", str(out)]
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_WHILE_WRITING, *arguments], env=environment, capture_output=True
    )
    assert killed.returncode == -9, killed.stderr
    assert not (out / "report.json").exists(), "an unfinished run must not look finished"
    rows = (out / "metrics.jsonl").read_text()
    jobs.resume(RunDirectory.open(out))
    assert (out / "metrics.jsonl").read_text() == rows
    for name in ("asset.ply", "asset.glb", "contact_sheet.png"):
        assert (out / name).read_bytes() == (whole.path / name).read_bytes(), name
    assert (out / "report.json").is_file()
