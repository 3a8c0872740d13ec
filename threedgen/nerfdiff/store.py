"""A trained NerfDiff on disk: nerfdiff.json says what it is, model.safetensors holds it in half precision."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from threedgen.errors import UserError
from threedgen.export.atomic import replacing
from threedgen.nerfdiff.model import NerfDiffArchitecture, NerfDiffModel

DOCUMENT, WEIGHTS = "nerfdiff.json", "model.safetensors"
_FORMAT = 1


def save_model(model: NerfDiffModel, folder: Path, about: dict[str, Any]) -> None:
    """Writes weights and document. about: what else the document says (of its training)."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    with replacing(folder / WEIGHTS) as path:
        save_file(tensors, path)
    document = {"format": _FORMAT, "architecture": asdict(model.architecture), **about}
    with replacing(folder / DOCUMENT) as path:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> NerfDiffModel:
    """The model of a folder that `threedgen train nerfdiff` left, frozen, in float32. Raises UserError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder).expanduser()
    if not (folder / DOCUMENT).is_file():
        raise UserError(f"'{folder}' holds no {DOCUMENT}: name a folder that `threedgen train nerfdiff` left")
    try:
        document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
        if document.get("format") != _FORMAT:
            raise ValueError(f"format {document.get('format')!r}, this version reads {_FORMAT}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in document["architecture"].items()
        }
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and thrown away
            model = NerfDiffModel(NerfDiffArchitecture(**values))
        weights = load_file(folder / WEIGHTS)
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"'{folder}' is not a NerfDiff model ({reason}): train or copy it again") from error
    return model.requires_grad_(False).eval().to(device)
