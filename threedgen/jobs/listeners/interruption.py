"""Ctrl-C at the end of a step: the checkpoint of that step is written, and the run stops."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any, Self

from threedgen.jobs.listeners.checkpoints import save
from threedgen.loop.events import Event, StepDone


class Interruption:
    """A listener that is a context manager as well: while it is entered, Ctrl-C waits for the end of the step.

    A second Ctrl-C interrupts at once, and leaves the last checkpoint there was. Outside the main thread, and where
    the program handles Ctrl-C itself, nothing is changed.
    """

    def __init__(self, folder: Path) -> None:
        """folder: of the checkpoint."""
        self._folder = folder
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def __call__(self, event: Event) -> None:
        if self._asked and isinstance(event, StepDone):
            save(self._folder, event.state)
            raise KeyboardInterrupt

    def _ask(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
