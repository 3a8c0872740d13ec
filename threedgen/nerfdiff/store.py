"""A trained NerfDiff on disk: nerfdiff.json describes it, model.safetensors holds its weights in half precision."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from threedgen.nerfdiff.model import NerfDiffArchitecture, NerfDiffModel
from threedgen.training.documents import build, section
from threedgen.training.store import read_model, write_model

DOCUMENT = "nerfdiff.json"


def save_model(model: NerfDiffModel, folder: Path, about: dict[str, Any]) -> None:
    """Writes the weights and the document. about: what the document says of the training."""
    write_model(folder, DOCUMENT, model.state_dict(), {"architecture": asdict(model.architecture), **about})


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> NerfDiffModel:
    """The model in a folder of `threedgen train nerfdiff`, frozen and in float32. Raises UserError."""

    def make(document: dict[str, Any]) -> NerfDiffModel:
        return NerfDiffModel(build(NerfDiffArchitecture, section(document, "architecture")))

    return read_model(folder, DOCUMENT, "nerfdiff", make)[0].to(device)
