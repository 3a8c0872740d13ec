"""A whole training: steps, checkpoints, what is watched, and the model that is left in the folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from threedgen.ssdnerf.model import save_model, steps_of_model
from threedgen.ssdnerf.trainer import Trainer, require_finite
from threedgen.ssdnerf.watch import Watch

Report = Callable[[int, str], None]  # (steps done, what the progress bar says)


def train(
    trainer: Trainer, watch: Watch | None, about: dict[str, Any], save_every: int, report: Report
) -> None:
    """Trains to config.steps. about: what the model's document says of the training.

    Saves every `save_every` steps and at the end, and leaves the averaged networks in trainer.folder each time.
    watch: of the first process. Raises UserError where a loss is not a number any more; the last checkpoint is from
    before that.
    """
    config = trainer.config

    def leave_model() -> None:
        if trainer.world.first:
            save_model(trainer.averages, trainer.folder, {**about, **_progress(trainer)})

    if trainer.step >= config.steps and steps_of_model(trainer.folder) != trainer.step:
        leave_model()  # it was stopped behind its last checkpoint
    while trainer.step < config.steps:
        seen = trainer.train_step()
        require_finite(seen, trainer.step)
        saving = trainer.step % save_every == 0 or trainer.step == config.steps
        if saving:
            trainer.save()
            leave_model()
        if watch is not None:
            watch.step(trainer, seen)
            report(trainer.step, watch.headline)


def _progress(trainer: Trainer) -> dict[str, Any]:
    return {
        "steps": trainer.step,
        "scenes": len(trainer.scenes),
        "processes": trainer.world.size,
        "hours": round(trainer.seconds / 3600.0, 3),
        "batch": trainer.config.batch,
    }
