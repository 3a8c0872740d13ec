"""Ctrl-C in the middle of a run: the step is finished, its checkpoint is written, and resuming loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_parts
import pytest
import torch

from threedgen.core import checkpoint
from threedgen.jobs.listeners import interruption
from threedgen.jobs.listeners.interruption import Interruption
from threedgen.jobs.run import resume, start
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.events import RunStarted, StepDone
from threedgen.recipes.load import load_recipe

pytestmark = [
    pytest.mark.filterwarnings("ignore:no exporter for Tensor"),
    pytest.mark.usefixtures("trusted_runs"),
]

MARKER = "SLOW_STEP"  # the file that a process writes when its slow step begins


class Slow(fake_parts.Pull):
    """A guidance that takes some seconds for one step, in a process that sets MARKER."""

    @dataclass(frozen=True)
    class Config(fake_parts.Pull.Config):
        slow_at: int = 5
        seconds: float = 3.0

    def __call__(self, output, cameras, prompt, step, total, seed):
        config: Any = self.config
        if step == config.slow_at and MARKER in os.environ:
            Path(os.environ[MARKER]).touch()
            time.sleep(config.seconds)
        return super().__call__(output, cameras, prompt, step, total, seed)


RECIPE = fake_parts.RECIPE.replace("fake_parts:Pull", "test_interruption:Slow").replace(
    "checkpoint: {every: 10}", "checkpoint: {every: 4}"
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)


@pytest.fixture(autouse=True)
def _as_in_the_foreground():
    """A shell lets processes in the background, and their children, ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(*settings: str) -> subprocess.Popen[str]:
    """A process that runs the recipe into the folder `run` and has just begun its slow step."""
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        MARKER: "slow",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "threedgen", "text-to-3d", "red", "--recipe", "recipe.yaml"]
    process = subprocess.Popen(
        [*command, "--out", "run", *settings],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120.0
    while not Path("slow").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "the slow step did not begin"
        time.sleep(0.05)
    return process


def steps_of(folder: str) -> int:
    return int(checkpoint.load_state(Path(folder) / "checkpoint")["step"])


def test_the_run_stops_after_the_step_and_resumes_to_the_same_bits():
    process = started()
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert message.splitlines()[-1] == "threedgen: interrupted; continue it with `threedgen resume run`"
    assert steps_of("run") == 6, "the slow step is finished and in the checkpoint"
    run = RunDirectory.open("run")
    assert len(run.metrics.read_text().splitlines()) == 6
    resume(run)
    assert run.finished
    start(load_recipe(Path("recipe.yaml"), prompt="red"), Path("whole"))
    (expected, numbers), (tensors, others) = (
        checkpoint.load(Path(folder) / "checkpoint") for folder in ("whole", "run")
    )
    assert numbers["step"] == others["step"] == 40
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(expected[name], tensors[name]) for name in expected)


def test_a_second_ctrl_c_stops_at_once():
    process = started("guidance.0.seconds=600")
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None, "the first one waits for the end of the step"
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "continue it with `threedgen resume run`" in message
    assert steps_of("run") == 4, "the last checkpoint is left as it was"


def test_a_handler_is_installed_in_the_context_only():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with Interruption(Path("checkpoint")):
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_is_installed_in_a_thread():
    seen: list[Any] = []

    def enter() -> None:
        with Interruption(Path("checkpoint")):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_a_handler_of_the_program_stays():
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: calls.append(number))
    try:
        with Interruption(Path("checkpoint")) as listener:
            signal.raise_signal(signal.SIGINT)
            listener(StepDone(None, 0, 1, {}, (), None, None))  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]


def test_it_waits_for_the_end_of_a_step(monkeypatch):
    saved: list[Any] = []
    monkeypatch.setattr(interruption, "save", lambda *arguments: saved.append(arguments))
    state: Any = SimpleNamespace(step=3)

    def interrupted() -> None:
        with Interruption(Path("checkpoint")) as listener:
            signal.raise_signal(signal.SIGINT)
            listener(RunStarted(state, 9))
            assert saved == []
            listener(StepDone(state, 2, 9, {}, (), None, None))  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert saved == [(Path("checkpoint"), state)]


def test_it_is_not_lost_after_the_last_step():
    with pytest.raises(KeyboardInterrupt), Interruption(Path("checkpoint")):
        signal.raise_signal(signal.SIGINT)


def test_another_error_is_raised_instead_of_it():
    def failing() -> None:
        with Interruption(Path("checkpoint")):
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
