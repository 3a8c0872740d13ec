"""diffusers and transformers as they are asked for here: quietly, and with one line for what they refuse."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from threedgen.core import machine
from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder import files
from threedgen.guidance.priors.folder.files import first_line

_SENTENCEPIECE = "pip install sentencepiece protobuf (the extra threedgen[deepfloyd])"


_T = TypeVar("_T")


def load_model(model: Any, part: Path, dtype_keyword: str, dtype: torch.dtype) -> Any:
    """`from_pretrained` of a diffusers or transformers class; absent weights are an error, not random numbers."""

    def load() -> tuple[Any, dict[str, Any]]:
        return model.from_pretrained(
            str(part),
            local_files_only=True,
            use_safetensors=True,
            variant=files.variant(part),
            output_loading_info=True,
            **{dtype_keyword: dtype},
        )

    with quiet():
        loaded, info = or_user_error(load, part)
    # Both libraries would fill absent weights with random numbers and go on.
    if info["missing_keys"]:
        absent = sorted(info["missing_keys"])
        raise UserError(
            f"prior part '{part}' lacks {len(absent)} weights (first: {absent[0]}): copy it again"
        )
    return loaded


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and warnings of the libraries while a model loads: what matters becomes a UserError."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = transformers_logging.is_progress_bar_enabled()
    try:
        for library in libraries:
            library.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def or_user_error(load: Callable[[], _T], part: Path) -> _T:
    """What `load` returns; its failures as one line about `part`."""
    from safetensors import SafetensorError

    try:
        return load()
    except UserError:
        raise
    except ImportError as error:
        _blame_torchvision(error)
        raise UserError(
            f"prior part '{part}' needs a package that is not here ({first_line(error)}): {_SENTENCEPIECE}"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        _blame_torchvision(error)
        raise UserError(
            f"prior part '{part}' cannot be loaded ({first_line(error)}): copy it again"
        ) from error


def _blame_torchvision(error: Exception) -> None:
    """A torchvision built for another torch fails at import, and transformers' models fail with it."""
    installed = machine.version("torchvision")
    if installed is None:
        return
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as fault:
        raise UserError(
            f"torchvision {installed} does not fit torch {torch.__version__} and breaks transformers "
            f"({first_line(fault)}): pip uninstall torchvision (threedgen does not use it)"
        ) from error


def _require_sentencepiece(part: Path) -> None:
    """A tokenizer that is a SentencePiece model and nothing else has to be converted (DeepFloyd IF's)."""
    if (part / "tokenizer.json").is_file() or not (part / "spiece.model").is_file():
        return
    absent = [name for name in ("sentencepiece", "protobuf") if machine.version(name) is None]
    if absent:
        raise UserError(f"prior part '{part}' needs {' and '.join(absent)}: {_SENTENCEPIECE}")


def diffusers_class(name: str) -> Any:
    """A class of diffusers by its name."""
    return _class("diffusers", name, Path(name))


def _class(library: str, name: str, part: Path) -> Any:
    """A class of a library that exports its names lazily: getting it is what imports its module."""
    return or_user_error(lambda: getattr(importlib.import_module(library), name), part)
