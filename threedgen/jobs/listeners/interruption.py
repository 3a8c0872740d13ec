"""Ctrl-C during a run: the step is finished, its checkpoint is written, and then the run stops."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any, Self

from threedgen.jobs.listeners.checkpoints import save
from threedgen.loop.events import Event, StepDone


class Interruption:
    """A listener that is a context manager as well: inside the context, Ctrl-C waits for the end of the step.

    A second Ctrl-C interrupts at once and leaves the last checkpoint that was written. Nothing changes outside the
    main thread, where Python allows no signal handlers, and in programs that handle Ctrl-C themselves.
    """

    def __init__(self, folder: Path) -> None:
        """folder: of the checkpoint."""
        self._folder = folder
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
        if self._asked and kind is None:
            raise KeyboardInterrupt  # it came after the last step, which has its checkpoint

    def __call__(self, event: Event) -> None:
        if self._asked and isinstance(event, StepDone):
            save(self._folder, event.state)
            raise KeyboardInterrupt

    def _ask(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
