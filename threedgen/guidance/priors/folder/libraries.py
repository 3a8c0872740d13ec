"""Calls of diffusers and transformers: without their output, and with one line for each failure of theirs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from threedgen.core import machine
from threedgen.core.empty import made_empty
from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder import files
from threedgen.guidance.priors.folder.files import first_line
from threedgen.guidance.priors.folder.single_weights import Source
from threedgen.guidance.priors.folder.weights import only_chosen

_SENTENCEPIECE = "pip install sentencepiece protobuf (the extra threedgen[deepfloyd])"

_T = TypeVar("_T")


def load_model(model: Any, part: Path, dtype_keyword: str, dtype: torch.dtype) -> Any:
    """`from_pretrained` of a class of diffusers or transformers. Raises UserError, also for missing weights."""

    source = Source.read(part)

    def load() -> tuple[Any, dict[str, Any]]:
        if source is not None:
            return _from_single_file(model, config, source.tensors(config), dtype)
        with only_chosen(part) as (folder, variant):
            return model.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                variant=variant,
                output_loading_info=True,
                **{dtype_keyword: dtype},
            )

    config = files.read_config(part / "config.json")
    with quiet():
        loaded, info = or_user_error(load, part)
    # Both libraries would fill missing weights with random numbers and continue.
    if info["missing_keys"]:
        absent = sorted(info["missing_keys"])
        raise UserError(
            f"prior part '{part}' lacks {len(absent)} weights (first: {absent[0]}): copy it again"
        )
    return loaded


def _from_single_file(
    model: Any, config: dict[str, Any], tensors: dict[str, torch.Tensor], dtype: torch.dtype
) -> tuple[Any, dict[str, Any]]:
    """A model of weights that were read from a single file, and what the loading of a folder says beside it."""
    if "architectures" in config:
        described = model.config_class.from_dict(config)
        return model.from_pretrained(
            None, config=described, state_dict=tensors, dtype=dtype, output_loading_info=True
        )
    with made_empty():  # sizes that do not fit the file take no memory
        loaded = model.from_config(config)
    weights = {name: value.to(dtype) for name, value in tensors.items()}
    missing = set(loaded.state_dict()) - set(weights)
    if not missing:
        loaded.load_state_dict(weights, assign=True)
    return loaded.eval(), {"missing_keys": missing}


@contextmanager
def quiet() -> Iterator[None]:
    """Switches off the progress bars and warnings of both libraries while a model is read or written."""
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
    """The result of `load`, which calls a library on the files of `part`.

    Whatever the library raises becomes a UserError about `part`: a wrong file or config can make it raise any
    exception. An exception that a line of threedgen raises passes unchanged.
    """
    try:
        return load()
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        _blame_torchvision(error)
        raise UserError(
            f"prior part '{part}' needs a package that is not installed ({first_line(error)}): {_SENTENCEPIECE}"
        ) from error
    except Exception as error:
        if _is_ours(error):
            raise
        _blame_torchvision(error)
        if not part.exists():
            raise UserError(f"prior part '{part}' is missing: copy the pipeline folder again") from error
        raise UserError(
            f"prior part '{part}' cannot be loaded ({type(error).__name__}: {first_line(error)}): copy it again"
        ) from error


def _is_ours(error: Exception) -> bool:
    """Whether a line of threedgen raised an exception, or called a library with wrong arguments."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return module.split(".")[0] == "threedgen"


def _blame_torchvision(error: Exception) -> None:
    """Raises UserError if torchvision is the cause: built for another torch it fails at import, and the models of
    transformers fail with it."""
    installed = machine.version("torchvision")
    if installed is None:
        return
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as fault:  # whatever its import raises
        raise UserError(
            f"torchvision {installed} does not fit torch {torch.__version__} and breaks transformers "
            f"({first_line(fault)}): pip uninstall torchvision (threedgen does not use it)"
        ) from error


def require_sentencepiece(part: Path) -> None:
    """Raises UserError if a tokenizer needs packages that are not installed: one that is only a SentencePiece model
    (as that of DeepFloyd IF) has to be converted."""
    if (part / "tokenizer.json").is_file() or not (part / "spiece.model").is_file():
        return
    absent = [name for name in ("sentencepiece", "protobuf") if machine.version(name) is None]
    if absent:
        raise UserError(f"prior part '{part}' needs {' and '.join(absent)}: {_SENTENCEPIECE}")


def diffusers_class(name: str) -> Any:
    """A class of diffusers by its name."""
    return class_of("diffusers", name, Path(name))


def class_of(library: str, name: str, part: Path) -> Any:
    """A class that `part` needs of a library, whose lazy exports import the module of a class at its first use."""
    return or_user_error(lambda: getattr(importlib.import_module(library), name), part)
