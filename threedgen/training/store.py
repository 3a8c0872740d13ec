"""A trained model on disk: a JSON document that describes it, and its weights in half precision beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from threedgen.core import inside
from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError
from threedgen.training.documents import FORMAT, DocumentError, read_document

WEIGHTS = "model.safetensors"
Model = TypeVar("Model", bound=torch.nn.Module)


def write_model(folder: Path, document: str, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes FOLDER/document and the weights, each whole or not at all. about: the values of the document."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().half().contiguous() for name, value in weights.items()}
    with replacing(folder / WEIGHTS) as path:
        save_file(tensors, path)
    with replacing(folder / document) as path:
        path.write_text(json.dumps({"format": FORMAT, **about}, indent=1) + "\n", encoding="utf-8")


def read_model(
    folder: str | Path, document: str, kind: str, make: Callable[[dict[str, Any]], Model]
) -> tuple[Model, dict[str, Any]]:
    """The model in a folder that `write_model` wrote, frozen and in float32, and its document.

    kind: name of the training command, for messages. make: makes the model that a document describes, with any
    weights; it raises DocumentError for a document that is damaged. Raises UserError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder).expanduser()
    if not (folder / document).is_file():
        raise UserError(
            f"'{folder}' holds no {document}: name the folder of a training with `threedgen train {kind}`"
        )
    try:
        inside.require_readable(folder)
        values = read_document(folder / document)
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and thrown away
            model = make(values)
    except (OSError, DocumentError, RuntimeError) as error:  # a RuntimeError: sizes that no memory holds
        raise _damaged(folder, kind, error) from error
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, kind, error) from error
    try:
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    except RuntimeError as error:  # names or shapes of the weights do not fit the document
        raise _damaged(folder, kind, error) from error
    return model.requires_grad_(False).eval(), values


def _damaged(folder: Path, kind: str, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"'{folder}' is not a {kind} model ({reason}): train or copy it again")
