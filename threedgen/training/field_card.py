"""The model card of a field of things."""

from __future__ import annotations

import json
from pathlib import Path

from threedgen.training.field_trainer import FieldTrainer

_CARD = """# A field of things

A text-conditioned radiance field, written by `threedgen train prior --kind field`. A caption is encoded by the
small CLIP text model in text_encoder/, which was trained to give the sentence vectors of all-MiniLM-L6-v2
(Apache-2.0), and its pooled state and the code of one thing are decoded to three feature planes that are rendered
from any camera. `--prior` takes this folder: noisy pictures are denoised by the closed-form answer for the
rendered picture.

- pictures: {size} x {size} pixels; {pictures} pictures in {steps} steps, {minutes:.0f} minutes on {machine}
- last mean loss: {loss:.5f}; started from: {origin}
- last line of the table of errors (see threedgen/training/field_report.py): {errors}

## What it was trained on

Pictures of procedural things of threedgen, and of objects of Sweet Home 3D's furniture libraries if these were
installed: 175 of them are in the public domain (CC0), 645 are under CC-BY 3.0. ATTRIBUTION.md in the repository
names their creators. Whether weights that were trained on works under CC-BY are bound by its terms is not
settled; no mesh and no texture is part of these weights.

## Limits

It knows only the things it was trained on, and shows one of them: it remembers, and invents nothing. A word that it
was not trained on shows the nearest known thing. Styles, actions and most materials have no effect, and details are
those of {size} pixels.
"""


def write_field_card(trainer: FieldTrainer, folder: Path, loss: float, machine: str) -> None:
    """Writes README.md into `folder`. loss: the last mean loss. machine: where the training ran."""
    table = trainer.folder / "errors.jsonl"
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    (folder / "README.md").write_text(
        _CARD.format(
            size=trainer.size,
            pictures=trainer.pictures,
            steps=trainer.step,
            minutes=trainer.seconds / 60.0,
            machine=machine,
            loss=loss,
            origin=trainer.origin or "nothing",
            errors=json.dumps(json.loads(lines[-1])) if lines else "none",
        ),
        encoding="utf-8",
    )
