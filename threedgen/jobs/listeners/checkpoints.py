"""Checkpoints: the whole state of a run, saved every few steps and at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.schedule import every_steps
from threedgen.core.settings import above, at_least, between, settings
from threedgen.guidance.priors.executors.executor import used_by
from threedgen.loop.events import Event, StepDone
from threedgen.loop.state import RunState
from threedgen.recipes import typed
from threedgen.recipes.recipe import Recipe


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
    """Restores `state`; returns the circumstances in which it was written. Raises UserError for a checkpoint that
    is damaged or does not fit."""
    tensors, plain = checkpoint.load(folder)
    numbers = _numbers(folder, plain)
    if numbers.step is None or numbers.stage != state.stage:
        raise _damaged(folder, "its step is missing or of another stage")
    with _in(folder):
        state.restore(tensors, {"step": numbers.step, "rollbacks": numbers.rollbacks})
    state.executors = numbers.earlier_executors
    return Circumstances(numbers.threads, numbers.executors)


def load_tensors(folder: Path, scene: Any) -> None:
    """Restores a scene alone. Raises UserError."""
    tensors, _ = checkpoint.load(folder)
    with _in(folder):
        checkpoint.fill(scene, checkpoint.unprefixed("scene", tensors), "scene")


def stage_of(folder: Path, recipe: Recipe) -> int:
    """The 0-based stage of the recipe that a checkpoint belongs to. Raises UserError if the recipe has no such
    stage, or not so many steps."""
    numbers = _numbers(folder, checkpoint.load_state(folder))
    stages = recipe.all_stages
    if numbers.stage >= len(stages):
        raise _damaged(folder, f"it is in stage {numbers.stage + 1}, and the recipe has {len(stages)}")
    steps = stages[numbers.stage].steps
    if numbers.step is not None and numbers.step > steps:
        raise _damaged(folder, f"it is at step {numbers.step}, and the recipe has {steps}")
    return numbers.stage


@settings
class _Numbers:
    """What a checkpoint says beside its tensors, as `save` writes it.

    Attributes:
        stage: Stage of the recipe.
        step: Steps done in this stage; None in a composed scene, which has no steps.
        rollbacks: How often a bad step was taken back.
        seed: Seed of the stage.
        threads: Threads of the process, 0 if unknown.
        executors: How the priors of the stage are computed. A version of threedgen that recorded none had only one
            way.
        earlier_executors: The same of the stages before.
    """

    stage: Annotated[int, at_least(0)] = 0
    step: Annotated[int | None, at_least(0)] = None
    rollbacks: Annotated[int, at_least(0)] = 0
    seed: Annotated[int, between(0, 2**63 - 1)] = 0
    threads: Annotated[int, at_least(0)] = 0
    executors: tuple[Mapping[str, Any], ...] = ({"executor": "eager"},)
    earlier_executors: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for facts in (*self.executors, *self.earlier_executors):
            wanted = (
                ("executor",) if facts.get("executor") == "eager" else ("executor", "version", "precision")
            )
            if not all(isinstance(facts.get(name), str) for name in wanted):
                raise UserError(f"{dict(facts)!r} does not say how a prior was computed")


def _numbers(folder: Path, plain: Mapping[str, Any]) -> _Numbers:
    """Everything that is read from the state of a run goes through here. Raises UserError."""
    try:
        return typed.build(_Numbers, plain, "")
    except UserError as error:
        raise _damaged(folder, str(error)) from error


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    """Says which checkpoint it is that does not fit."""
    try:
        yield
    except UserError as error:
        raise UserError(f"cannot use the checkpoint {folder}: {error}") from error


def _damaged(folder: Path, reason: str) -> UserError:
    path = folder / checkpoint.STATE_FILE
    return UserError(
        f"{path} is damaged or of another version of threedgen ({reason}): restore it or start again"
    )
