"""A trained reconstructor on disk: reconstructor.json describes it, model.safetensors holds its weights in half
precision."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from threedgen.reconstruction.network import Reconstructor, ReconstructorArchitecture
from threedgen.training.documents import build, section
from threedgen.training.store import read_model, write_model

DOCUMENT = "reconstructor.json"


def save_reconstructor(model: Reconstructor, folder: Path, about: dict[str, Any]) -> None:
    """Writes the weights and the document. about: what the document says of the training."""
    write_model(folder, DOCUMENT, model.state_dict(), {"architecture": asdict(model.architecture), **about})


def load_reconstructor(folder: str | Path, device: torch.device | str = "cpu") -> Reconstructor:
    """The model in a folder of `threedgen train reconstructor`, frozen and in float32. Raises UserError."""

    def make(document: dict[str, Any]) -> Reconstructor:
        return Reconstructor(build(ReconstructorArchitecture, section(document, "architecture")))

    return read_model(folder, DOCUMENT, "reconstructor", make)[0].to(device)
