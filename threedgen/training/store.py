"""A trained model on disk: a JSON document that says what it is, and its weights in half precision beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError

WEIGHTS = "model.safetensors"
_FORMAT = 1
Model = TypeVar("Model", bound=torch.nn.Module)


def write_model(folder: Path, document: str, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes FOLDER/document and the weights, each whole or not at all. about: what the document says."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().half().contiguous() for name, value in weights.items()}
    with replacing(folder / WEIGHTS) as path:
        save_file(tensors, path)
    with replacing(folder / document) as path:
        path.write_text(json.dumps({"format": _FORMAT, **about}, indent=1) + "\n", encoding="utf-8")


def read_model(
    folder: str | Path, document: str, kind: str, make: Callable[[dict[str, Any]], Model]
) -> tuple[Model, dict[str, Any]]:
    """The model of a folder that `write_model` wrote, frozen, in float32, and its document.

    kind: of the training, for messages. make: the model that a document means, with any weights. Raises UserError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder).expanduser()
    if not (folder / document).is_file():
        raise UserError(f"'{folder}' holds no {document}: name a folder that `threedgen train {kind}` left")
    try:
        values = json.loads((folder / document).read_text(encoding="utf-8"))
        if values.get("format") != _FORMAT:
            raise ValueError(f"format {values.get('format')!r}, this version reads {_FORMAT}")
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and thrown away
            model = make(values)
        weights = load_file(folder / WEIGHTS)
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"'{folder}' is not a {kind} model ({reason}): train or copy it again") from error
    return model.requires_grad_(False).eval(), values
