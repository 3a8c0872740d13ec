"""The table of errors of a training, and what the model cards of trainings that have one say alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from threedgen.training.denoiser_trainer import DenoiserTrainer

ERRORS = "errors.jsonl"


def add_errors(trainer: DenoiserTrainer, errors: Mapping[str, float]) -> None:
    """Adds a line to the table of errors in the folder of a training: how far it is, and the errors."""
    line = {"step": trainer.step, "pictures": trainer.pictures, "seconds": round(trainer.seconds), **errors}
    with (trainer.folder / ERRORS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def card_values(trainer: DenoiserTrainer, loss: float, machine: str) -> dict[str, Any]:
    """The numbers of a training. loss: the last mean loss. machine: where the training ran."""
    table = trainer.folder / ERRORS
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    return {
        "parameters": sum(value.numel() for value in trainer.average.parameters()) / 1e6,
        "pictures": trainer.pictures,
        "steps": trainer.step,
        "batch": trainer.config.batch,
        "minutes": trainer.seconds / 60.0,
        "machine": machine,
        "loss": loss,
        "origin": trainer.origin or "nothing",
        "errors": json.dumps(json.loads(lines[-1])) if lines else "none",
    }
