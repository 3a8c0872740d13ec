"""What the model cards of trainings with a table of errors say alike."""

from __future__ import annotations

import json
from typing import Any

from threedgen.training.denoiser_trainer import DenoiserTrainer


def card_values(trainer: DenoiserTrainer, loss: float, machine: str) -> dict[str, Any]:
    """The numbers of a training. loss: the last mean loss. machine: where the training ran."""
    table = trainer.folder / "errors.jsonl"
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
