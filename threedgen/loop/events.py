"""The events of the loop, as plain values, and its listeners, which are plain callables.

A listener is any `listener(event) -> None`; it uses the types of events that it needs and ignores the others. If it
raises StepRejected on GradientsReady, it has restored an earlier state, from which the loop continues. Any other
exception ends the run.
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
    """Before the first step of this process. state.step is not 0 if a run is resumed. total: steps of the run."""

    state: RunState
    total: int


@dataclass(frozen=True)
class GradientsReady:
    """After the backward pass, before the optimizer uses the gradients. step: counts from 0. loss: a scalar."""

    state: RunState
    step: int
    total: int
    loss: Tensor


@dataclass(frozen=True)
class StepDone:
    """A step is complete; state.step is already step + 1.

    metrics: numbers to log by name. signals: those of the guidances that were called. output, cameras: the
    render of the step and its views.
    """

    state: RunState
    step: int
    total: int
    metrics: Mapping[str, float]
    signals: Sequence[Signal]
    output: RenderOutput
    cameras: Cameras


@dataclass(frozen=True)
class StepRolledBack:
    """Step `step` was rejected because of `reason`; the state is now that before step `to`."""

    state: RunState
    step: int
    to: int
    reason: str


@dataclass(frozen=True)
class RunFinished:
    """After the last step. The scene is final."""

    state: RunState
    total: int


@dataclass(frozen=True)
class PhaseStarted:
    """Work other than steps begins (loading, exporting); progress displays show its name."""

    name: str


Event = RunStarted | GradientsReady | StepDone | StepRolledBack | RunFinished | PhaseStarted
Listener = Callable[[Event], None]


class StepRejected(Exception):
    """A listener raises it on GradientsReady after it restored an earlier state. The message is the reason."""


@dataclass
class Emitter:
    """Calls every listener with every event, in order."""

    listeners: Sequence[Listener] = field(default_factory=tuple)

    def __call__(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)
