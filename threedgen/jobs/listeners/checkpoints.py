"""Checkpoints: the whole state of a run, saved every few steps and at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch

from threedgen.core import checkpoint
from threedgen.core.schedule import every_steps
from threedgen.core.settings import above, settings
from threedgen.guidance.priors.executors.executor import used_by
from threedgen.loop.events import Event, StepDone
from threedgen.loop.state import RunState


class Checkpoints:
    """A listener that writes the folder of the checkpoint, each time as a whole (see threedgen.core.checkpoint)."""

    @settings
    class Config:
        """When checkpoints are written.

        Attributes:
            every (steps): Steps between two checkpoints. A value below 1 is a share of the steps of the stage. One
                more is written after the last step.
        """

        every: Annotated[float, above(0.0)] = 0.1

    def __init__(self, config: Config, folder: Path, total: int) -> None:
        """folder: of the checkpoint. total: steps of the stage."""
        self.every = every_steps(config.every, total, "checkpoint.every")
        self.folder = folder

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        if event.state.step % self.every == 0 or event.state.step == event.total:
            save(self.folder, event.state)


class Circumstances(NamedTuple):
    """What the last bits of the results depend on beside the recipe.

    threads: of the process, 0 if unknown. executors: how the priors of the stage are computed, as JSON (see
    `executor.used_by`).
    """

    threads: int
    executors: Sequence[Mapping[str, Any]]


def save(folder: Path, state: RunState) -> None:
    """Writes the state and its circumstances."""
    circumstances = {
        "threads": torch.get_num_threads(),
        "executors": used_by(state.guidances),
        "earlier_executors": list(state.executors),
    }
    checkpoint.save(folder, state.tensors(), {**state.numbers(), **circumstances})


def load(folder: Path, state: RunState) -> Circumstances:
    """Restores `state`; returns the circumstances in which it was written."""
    tensors, numbers = checkpoint.load(folder)
    state.restore(tensors, numbers)
    state.executors = numbers.get("earlier_executors", ())
    # A version of threedgen that recorded no executors had none.
    executors = numbers.get("executors", [{"executor": "eager"}])
    return Circumstances(int(numbers.get("threads", 0)), executors)


def stage_of(folder: Path) -> int:
    """The 0-based stage of the recipe that a checkpoint belongs to."""
    return int(checkpoint.load_state(folder).get("stage", 0))
