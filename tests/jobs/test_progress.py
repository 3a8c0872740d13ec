"""The progress display: lines without a terminal, bars with one, and nothing if it is not shown."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from threedgen.jobs.listeners import progress
from threedgen.jobs.listeners.progress import Progress, ProgressBar
from threedgen.loop.events import PhaseStarted, RunFinished, RunStarted, StepDone, StepRolledBack

NOTHING: Any = None


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def lines(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == "", "stdout holds nothing but results"
    return captured.err.splitlines()


def test_a_task_prints_a_line_for_every_tenth(clock, capsys):
    with Progress() as display:
        task = display.task("rendering", 40)
        for done in range(1, 41):
            task.update(done)
    printed = lines(capsys)
    assert [line.split(":")[1].split(",")[0] for line in printed] == [
        f" {done}/40" for done in range(4, 44, 4)
    ]
    assert all(line.startswith("rendering: ") for line in printed)


def test_short_tasks_print_each_item_once(clock, capsys):
    with Progress() as display:
        task = display.task("objects", 3)
        for done in (0, 1, 1, 2, 3):
            task.update(done)
    assert [line.partition(",")[0] for line in lines(capsys)] == [f"objects: {done}/3" for done in (1, 2, 3)]


def test_the_time_left_follows_the_rate_of_this_process(clock, capsys):
    """60 of 100 items were done before: 10 more in 20 seconds leave 30 more, for 60 seconds."""
    with Progress() as display:
        task = display.task("distilling", 100, done=60)
        clock.now += 20.0
        task.update(70, "loss 0.5")
        clock.now += 40.0  # at half the speed from here on
        task.update(80)
    assert lines(capsys) == [
        "distilling: 70/100, about 60 s left, loss 0.5",
        "distilling: 80/100, about 60 s left",
    ]


def test_nothing_is_printed_until_the_total_is_known(clock, capsys):
    with Progress() as display:
        task = display.task("evaluating")
        task.update(5)
        assert lines(capsys) == []
        task.update(5, total=10)
        task.end()
    assert lines(capsys) == ["evaluating: 5/10, about 0 s left"]


def test_texts_are_printed_as_they_are(capsys):
    with Progress() as display:
        display.say("a [red] cube, 100% of 3 m")
    assert lines(capsys) == ["a [red] cube, 100% of 3 m"]


def test_nothing_is_printed_if_it_is_not_shown(capsys, monkeypatch):
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        with Progress(shown=False) as display:
            display.say("a line")
            task = display.task("a task", 2)
            task.update(1, "note")
            task.update(2)
            task.end()
        assert lines(capsys) == []


def test_a_terminal_gets_a_bar_that_is_removed_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress() as display:
        task = display.task("sampling", 8, done=2)
        (bar,) = display._bars.tasks
        assert (bar.description, bar.total, bar.completed) == ("sampling", 8, 2)
        task.update(6, "two left")
        assert (bar.completed, bar.fields["note"]) == (6, "two left")
        task.end()
        assert display._bars.tasks == []
    assert display._bars is None
    assert "sampling" in capsys.readouterr().err
    display.close()


def state(step: int) -> Any:
    return SimpleNamespace(step=step)


def done(step: int, total: int, loss: float) -> StepDone:
    return StepDone(state(step + 1), step, total, {"loss": loss}, (), NOTHING, NOTHING)


def test_the_listener_shows_phases_steps_and_rollbacks(clock, capsys):
    listener = ProgressBar()
    listener(PhaseStarted("loading the prior"))
    listener(PhaseStarted("distilling"))
    listener(RunStarted(state(10), 20))
    for step in range(10, 13):
        clock.now += 2.0
        listener(done(step, 20, 0.123456))
    listener(StepRolledBack(state(10), 13, 10, "the loss is not finite"))
    listener(RunFinished(state(20), 20))
    assert lines(capsys) == [
        "loading the prior",
        "distilling",
        "distilling: 12/20, about 16 s left, loss 0.1235",
        "the loss is not finite at step 13: continuing from step 10 with other random draws",
    ]
