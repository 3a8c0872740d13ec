"""The progress display of the project: what is being done, how far it is and how long it will take.

It writes to stderr, so that stdout holds nothing but results. In a notebook it appears below the cell.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Self

from threedgen.loop.events import Event, PhaseStarted, RunFinished, RunStarted, StepDone, StepRolledBack

_LINES = 10  # lines that a task prints if there is no terminal


class Progress:
    """Shows tasks as bars with the time left. If stderr is no terminal, a task prints a line for every tenth of it.

    A context manager: at its end the terminal is free for other output. shown: False for a display that prints
    nothing.
    """

    def __init__(self, shown: bool = True) -> None:
        self._shown = shown
        self._console: Any = None
        self._bars: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, text: str) -> None:
        """Prints a line above the bars."""
        if self._shown:
            self._open().print(text, markup=False, highlight=False, style="none")

    def task(self, name: str, total: int | None = None, done: int = 0) -> Task:
        """A new task of `total` items (None: not known yet), of which `done` were done before."""
        bars = self._interactive() if self._shown else None
        number = None if bars is None else bars.add_task(name, total=total, completed=done, note="")
        return Task(self, name, total, done, bars, number)

    def close(self) -> None:
        """Removes the bars from the terminal; may be called at any time and more than once."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _open(self) -> Any:
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, soft_wrap=True)
        return self._console

    def _interactive(self) -> Any:
        """The bars, or None if there is neither a terminal nor a notebook."""
        if not (sys.stderr.isatty() or self._open().is_jupyter):
            return None
        if self._bars is None:
            from rich import progress

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[note]}"),
                console=self._open(),
            )
            self._bars.start()
        return self._bars


class Task:
    """One task of a `Progress`, which makes it."""

    def __init__(
        self, display: Progress, name: str, total: int | None, done: int, bars: Any, number: Any
    ) -> None:
        self._display, self._name, self._total = display, name, total
        self._bars, self._number = bars, number
        self._begun, self._first, self._printed = time.monotonic(), done, done

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """`done` items are done now. note: a few words about them. total: given if it was not known before."""
        self._total = self._total if total is None else total
        if self._bars is not None:
            self._bars.update(self._number, completed=done, total=self._total, note=note)
            return
        if not self._total or done * _LINES // self._total <= self._printed * _LINES // self._total:
            return
        self._printed = done
        left = (time.monotonic() - self._begun) / max(1, done - self._first) * (self._total - done)
        text = f"{self._name}: {done}/{self._total}, about {left:.0f} s left"
        self._display.say(f"{text}, {note}" if note else text)

    def end(self) -> None:
        """Removes the bar of this task."""
        if self._bars is not None:
            self._bars.remove_task(self._number)


class ProgressBar:
    """A listener that shows phases as lines and the steps of a run as a task with their loss."""

    def __init__(self) -> None:
        self._display = Progress()
        self._task: Task | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self._display.say(event.name)
        elif isinstance(event, RunStarted):
            self._task = self._display.task("distilling", event.total, event.state.step)
        elif isinstance(event, StepDone) and self._task is not None:
            self._task.update(event.step + 1, f"loss {event.metrics['loss']:.4g}")
        elif isinstance(event, StepRolledBack):
            self._display.say(
                f"{event.reason} at step {event.step}: continuing from step {event.to} with other random draws"
            )
        elif isinstance(event, RunFinished):
            self.close()

    def close(self) -> None:
        """Removes the bar from the terminal; may be called at any time and more than once."""
        self._display.close()
        self._task = None
