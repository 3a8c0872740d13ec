"""A whole training: its steps, its checkpoints, its measurements, and the model that it writes into the folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from threedgen.ssdnerf.model import save_model, steps_of_model
from threedgen.ssdnerf.trainer import Trainer, require_finite
from threedgen.ssdnerf.watch import Watch

Report = Callable[[int, str], None]  # (steps done, text for the progress bar)


def train(
    trainer: Trainer, watch: Watch | None, about: dict[str, Any], save_every: int, report: Report
) -> None:
    """Trains up to config.steps. about: what the document of the model says of the training.

    Every `save_every` steps and at the end it saves a checkpoint and writes the model with the averaged networks
    into trainer.folder. watch: None in all processes but the first. Raises UserError if a loss is no longer finite;
    the last checkpoint is then from before that step.
    """
    config = trainer.config

    def write_model() -> None:
        if trainer.world.first:
            save_model(trainer.averages, trainer.folder, {**about, **_progress(trainer)})

    if trainer.step >= config.steps and steps_of_model(trainer.folder) != trainer.step:
        write_model()  # the training was stopped between its last checkpoint and the model
    if watch is not None:
        watch.catch_up(trainer)
    while trainer.step < config.steps:
        measured = trainer.train_step()
        require_finite(measured, trainer.step)
        for name, value in measured.items():
            trainer.unwritten.setdefault(name, []).append(value)
        saving = trainer.step % save_every == 0 or trainer.step == config.steps
        if saving:
            trainer.save()
            write_model()
        if watch is not None:
            watch.step(trainer)
            report(trainer.step, watch.headline)


def _progress(trainer: Trainer) -> dict[str, Any]:
    return {
        "steps": trainer.step,
        "scenes": len(trainer.objects),
        "processes": trainer.world.size,
        "hours": round(trainer.seconds / 3600.0, 3),
        "batch": trainer.config.batch,
    }
