"""A trained NerfDiff on disk: nerfdiff.json says what it is, model.safetensors holds it in half precision."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from threedgen.nerfdiff.model import NerfDiffArchitecture, NerfDiffModel
from threedgen.training.store import read_model, write_model

DOCUMENT = "nerfdiff.json"


def save_model(model: NerfDiffModel, folder: Path, about: dict[str, Any]) -> None:
    """Writes weights and document. about: what else the document says (of its training)."""
    write_model(folder, DOCUMENT, model.state_dict(), {"architecture": asdict(model.architecture), **about})


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> NerfDiffModel:
    """The model of a folder that `threedgen train nerfdiff` left, frozen, in float32. Raises UserError."""

    def make(document: dict[str, Any]) -> NerfDiffModel:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in document["architecture"].items()
        }
        return NerfDiffModel(NerfDiffArchitecture(**values))

    return read_model(folder, DOCUMENT, "nerfdiff", make)[0].to(device)
