"""A trained diffusion model of scenes on disk: dfm.json describes it, model.safetensors holds its weights in half
precision."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from threedgen.dfm.scene_field import SceneField
from threedgen.guidance.priors.picture_encoder import PictureArchitecture
from threedgen.training.documents import DocumentError, build, section
from threedgen.training.picture_trainer import SIZES
from threedgen.training.store import read_model, write_model

DOCUMENT = "dfm.json"


def save_scene_field(model: SceneField, folder: Path, about: dict[str, Any]) -> None:
    """Writes the weights and the document. about: what the document says of the training."""
    write_model(folder, DOCUMENT, model.state_dict(), {"architecture": asdict(model.architecture), **about})


def load_scene_field(folder: str | Path, device: torch.device | str = "cpu") -> SceneField:
    """The model in a folder of `threedgen train dfm`, frozen and in float32. Raises UserError."""

    def make(document: dict[str, Any]) -> SceneField:
        architecture = build(PictureArchitecture, section(document, "architecture"))
        if architecture.size not in SIZES:
            raise DocumentError(f"its pictures have {architecture.size} pixels")
        try:
            return SceneField(architecture)
        except (ArithmeticError, ValueError) as error:  # sizes that no layer has
            raise DocumentError(str(error)) from error

    return read_model(folder, DOCUMENT, "dfm", make)[0].to(device)
