"""The progress bar: phase, step, speed, time left, and the loss, on stderr so that stdout stays clean."""

from __future__ import annotations

import sys
from typing import Any

from threedgen.loop.events import Event, PhaseStarted, RunFinished, RunStarted, StepDone, StepRolledBack


class ProgressBar:
    """A rich progress bar; on a stream that is not a terminal, a plain line every tenth of the run."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: Any = None
        self._task: Any = None
        self._interactive = sys.stderr.isatty()

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self._print(event.name)
        elif isinstance(event, RunStarted):
            self._start(event.state.step, event.total)
        elif isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, StepRolledBack):
            self._print(f"{event.reason} at step {event.step}: rolled back to step {event.to}, other draws")
        elif isinstance(event, RunFinished):
            self.close()

    def close(self) -> None:
        """Gives the terminal back; safe to call at any time, any number of times."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self, step: int, total: int) -> None:
        if not self._interactive:
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._task = self._bar.add_task("distilling", total=total, completed=step, note="")
        self._bar.start()

    def _step(self, event: StepDone) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=event.step + 1, note=f"loss {event.metrics['loss']:.4g}")
        elif (event.step + 1) % max(1, event.total // 10) == 0:
            seconds = event.metrics.get("seconds", 0.0)
            left = seconds * (event.total - event.step - 1)
            self._print(
                f"step {event.step + 1}/{event.total}, {seconds:.2f} s a step, about {left:.0f} s left, "
                f"loss {event.metrics['loss']:.4g}"
            )

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)
