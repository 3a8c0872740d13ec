"""Saves the run's whole state every n steps and at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from threedgen.core import checkpoint
from threedgen.core.schedule import every_steps
from threedgen.loop.events import Event, StepDone
from threedgen.loop.state import RunState


class Checkpoints:
    """Writes `folder` every n steps and after the last one, atomically (see threedgen.core.checkpoint)."""

    @dataclass(frozen=True)
    class Config:
        """every: steps between checkpoints, or below 1 a share of the run."""

        every: float = 0.1

    def __init__(self, config: Config, folder: Path, total: int) -> None:
        self.every = every_steps(config.every, total, "checkpoint.every")
        self.folder = folder

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        if event.state.step % self.every == 0 or event.state.step == event.total:
            save(self.folder, event.state)


def save(folder: Path, state: RunState) -> None:
    checkpoint.save(folder, state.tensors(), {**state.numbers(), "threads": torch.get_num_threads()})


def load(folder: Path, state: RunState) -> int:
    """Restores `state`; returns the number of threads of the process that wrote it (0: unknown)."""
    tensors, numbers = checkpoint.load(folder)
    state.restore(tensors, numbers)
    return int(numbers.get("threads", 0))


def stage_of(folder: Path) -> int:
    """Which stage of a recipe a checkpoint is in the middle of, or at the end of."""
    return int(checkpoint.load_state(folder).get("stage", 0))
