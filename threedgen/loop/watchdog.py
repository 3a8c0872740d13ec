"""A listener that notices a loss or a gradient that is not finite, rolls the run back, and stops a run that breaks
again."""

from __future__ import annotations

import torch

from threedgen.core.errors import UserError
from threedgen.loop.events import Event, GradientsReady, RunStarted, StepDone, StepRejected
from threedgen.loop.state import RunState


class Diverged(UserError):
    """A run that broke again after a rollback; its state is the last good one."""


class Watchdog:
    """Rolls back to the last good state if the loss or a gradient is not finite.

    every: steps between the snapshots that it keeps in memory. After a rollback the random draws change. If the run
    breaks again less than `every` steps after the step in which it broke, Diverged names the parameter, and the run
    ends in the last good state.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self._good: tuple[dict[str, torch.Tensor], dict[str, int]] | None = None
        self._broke_at: int | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._good = event.state.snapshot()
        elif isinstance(event, GradientsReady):
            reason = self._problem(event)
            if reason is not None:
                self._take_back(event, reason)
        elif isinstance(event, StepDone) and event.state.step % self.every == 0:
            self._good = event.state.snapshot()

    def _problem(self, event: GradientsReady) -> str | None:
        if event.state.is_finite(event.loss):
            return None
        # A gradient names a parameter, which says more about the cause than the loss does.
        return event.state.broken() or "NaN or an infinite value in the loss"

    def _take_back(self, event: GradientsReady, reason: str) -> None:
        assert self._good is not None, "the watchdog missed RunStarted"
        again = self._broke_at is not None and event.step < self._broke_at + self.every
        tries = event.state.rollbacks
        self._restore(event.state, tries + 1)
        if again:
            raise Diverged(
                f"{reason} at step {event.step}, again after a rollback: stopped in the state before step "
                f"{event.state.step}; lower optimizer.scale or the guidance scale, or change the seed"
            )
        self._broke_at = event.step
        raise StepRejected(reason)

    def _restore(self, state: RunState, rollbacks: int) -> None:
        assert self._good is not None
        tensors, numbers = self._good
        state.restore(tensors, {**numbers, "rollbacks": rollbacks})
