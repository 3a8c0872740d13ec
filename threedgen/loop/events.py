"""What the loop tells the world: events as plain values, listeners as plain callables.

A listener is any `listener(event) -> None`; it looks at the types it cares about and ignores the rest. Two
listeners may say more than nothing: one that raises StepRejected on GradientsReady has put the state back
and asks for another try, and any other exception ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.core.types import Cameras, RenderOutput, Signal
    from threedgen.loop.state import RunState


@dataclass(frozen=True)
class RunStarted:
    """Before the first step (of this process: state.step is not 0 when a run is resumed)."""

    state: RunState
    total: int


@dataclass(frozen=True)
class GradientsReady:
    """After backward, before the optimizer uses the gradients. step: 0-based."""

    state: RunState
    step: int
    total: int
    loss: Tensor


@dataclass(frozen=True)
class StepDone:
    """A step is complete; state.step is already step + 1. metrics: numbers to log, by name."""

    state: RunState
    step: int
    total: int
    metrics: Mapping[str, float]
    signals: Sequence[Signal]
    output: RenderOutput
    cameras: Cameras


@dataclass(frozen=True)
class StepRolledBack:
    """Step `step` was rejected because of `reason`; the state is that before step `to`."""

    state: RunState
    step: int
    to: int
    reason: str


@dataclass(frozen=True)
class RunFinished:
    """After the last step; the scene is final."""

    state: RunState
    total: int


@dataclass(frozen=True)
class PhaseStarted:
    """Something other than steps begins (loading, exporting), for whoever shows progress."""

    name: str


Event = RunStarted | GradientsReady | StepDone | StepRolledBack | RunFinished | PhaseStarted
Listener = Callable[[Event], None]


class StepRejected(Exception):
    """Raised by a listener on GradientsReady after it restored an earlier state; carries the reason."""


@dataclass
class Emitter:
    """Calls every listener with every event, in order."""

    listeners: Sequence[Listener] = field(default_factory=tuple)

    def __call__(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)
