"""Models of the Hugging Face hub: from the local cache if they are complete there, else fetched."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threedgen.core import trust
from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder import light
from threedgen.guidance.priors.folder.files import PipelineFolder, first_line
from threedgen.guidance.priors.folder.weights import (
    chosen_names,
    elements_of,
    no_variant,
    variants_in,
    variants_of,
)

_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
_CONFIGS = ["model_index.json", light.NAME, "*/*.json", "tokenizer*/*"]
_ALL = [*_CONFIGS, "*/*.safetensors"]  # not the copies for other libraries, and not the single files
_NETWORK = (
    "httpx",
    "httpx2",
    "requests",
)  # the libraries, by version of the hub's, whose errors are no answers
_UNREAD = ("safety_checker", "feature_extractor", "watermarker")
_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token of yours"


def is_hub_id(path: str) -> bool:
    """Whether a text has the form of OWNER/NAME or OWNER/NAME@REVISION."""
    return _ID.fullmatch(path) is not None


def fetched(hub_id: str, half: bool = False, variant: str = "") -> Path:
    """The folder of a hub model in the local cache, which is completed from the hub if anything is missing.

    half: what has to be fetched is fetched in half precision where the model has that. variant: what is fetched in
    every part that has it, a word in the names of the files or WHOLE; "": no special one.

    Raises UserError if the model cannot be fetched, with what to do about it.
    """
    from huggingface_hub import constants

    name, revision = _named(hub_id)
    folder, missing = _kept(name, revision, variant)
    if folder is not None and not missing:
        return folder
    missing = f"its {missing}" if missing else "it"
    trust.check_fetch(hub_id)
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"hub model '{hub_id}': {missing} is not in the local cache, and HF_HUB_OFFLINE forbids to fetch it: "
            "unset the variable, or give the path of a folder"
        )
    folder = _downloaded(hub_id, name, revision, half, variant)
    if missing := _missing(folder):
        raise UserError(
            f"hub model '{hub_id}': its {missing} cannot be fetched: check the connection and the page "
            f"https://huggingface.co/{name}, or give the path of a folder"
        )
    return folder


def kept(hub_id: str, variant: str = "") -> Path | None:
    """The folder of a hub model in the local cache if nothing of it is missing there, else None."""
    folder, missing = _kept(*_named(hub_id), variant)
    return None if missing else folder


def to_fetch(hub_id: str, half: bool = False, variant: str = "") -> dict[str, int]:
    """The files that `fetched` would fetch, with their bytes; the hub is asked for them.

    Raises UserError if it does not answer, or HF_HUB_OFFLINE forbids to ask it.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"hub model '{hub_id}': HF_HUB_OFFLINE forbids to ask the hub for its size")
    name, revision = _named(hub_id)
    with _answered(hub_id, name):
        sizes = _listed(hub_id, name, revision, half, variant)
    return {file: size for file, size in sizes.items() if size}


def _named(hub_id: str) -> tuple[str, dict[str, Any]]:
    """The name of a model, and its revision as the hub's functions take it."""
    match = _ID.fullmatch(hub_id)
    assert match is not None, f"{hub_id} is no id"
    given = match["revision"]
    return match["name"], {} if given is None else {"revision": given}


def _kept(name: str, revision: dict[str, Any], variant: str) -> tuple[Path | None, str]:
    """The folder of a model in the local cache, if there is one, and what it lacks."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_ALL, local_files_only=True, **revision))
    except LocalEntryNotFoundError:
        return None, ""
    return folder, _missing(folder) or _missing_variant(folder, variant)


def _listed(hub_id: str, name: str, revision: dict[str, Any], half: bool, variant: str) -> dict[str, int]:
    """The files that a model needs, with the bytes that are not in the cache yet."""
    from huggingface_hub import snapshot_download

    with _reaching(hub_id):
        listed: Any = snapshot_download(name, allow_patterns=_ALL, dry_run=True, **revision)
    sizes = {
        item.filename: item.file_size if item.will_download else 0
        for item in listed
        if item.filename.partition("/")[0] not in _UNREAD
    }
    if variant and variant not in variants_in(sizes):
        raise no_variant(f"hub model '{hub_id}'", variant, variants_in(sizes))
    return {file: sizes[file] for file in chosen_names(sizes, half, variant)}


def _downloaded(hub_id: str, name: str, revision: dict[str, Any], half: bool, variant: str) -> Path:
    from huggingface_hub import snapshot_download

    with _answered(hub_id, name):
        wanted = _listed(hub_id, name, revision, half, variant)
        total = sum(wanted.values())
        if total:
            print(f"fetching {hub_id} from the hub: {total / 1e9:.2f} GB", file=sys.stderr)
        with _reaching(hub_id):
            return Path(snapshot_download(name, allow_patterns=sorted(wanted), **revision))


@contextmanager
def _answered(hub_id: str, name: str) -> Iterator[None]:
    """Turns what the hub answers in place of a model into a UserError."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"https://huggingface.co/{name}"
    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"hub model '{hub_id}' asks you to accept its licence: do so on {page}, then {_LOGIN}"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"hub model '{hub_id}' has no such revision: {page} lists them") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no hub model '{name}', or it is private: check the name on {page}; for a "
            f"private one {_LOGIN}"
        ) from error
    except (HFValidationError, OSError) as error:  # those of the network and of the hub are OSErrors
        raise UserError(
            f"no folder '{hub_id}', and the hub model of that name cannot be fetched ({first_line(error)}): "
            "check the name and the connection, or give a folder with model_index.json, "
            "scheduler/scheduler_config.json, and for each of unet (or transformer), vae, text_encoder its "
            "config.json and .safetensors, and tokenizer/"
        ) from error


@contextmanager
def _reaching(hub_id: str) -> Iterator[None]:
    """Raises what the hub answered, which the library wraps, and a UserError if nothing answered."""
    from huggingface_hub.errors import DryRunError, HfHubHTTPError

    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, DryRunError) else error
        if isinstance(cause, HfHubHTTPError):
            raise cause from None
        if cause is None or type(cause).__module__.partition(".")[0] not in _NETWORK:
            raise
        raise UserError(
            f"hub model '{hub_id}' cannot be fetched, because no network reaches the hub ({first_line(cause)}): "
            "check the connection, or copy the model from another machine and give the path of its folder"
        ) from error


def _missing(folder: Path) -> str:
    """The first part of a model that the cache lacks, or ""."""
    if not (folder / "model_index.json").is_file():
        return "model_index.json"
    pipeline = PipelineFolder(folder)
    for part in pipeline.index:
        # What only looks at finished pictures is never fetched by some programs, and never read here.
        if pipeline.class_of(part) is None or part in _UNREAD:
            continue
        if not _is_whole(folder / part):
            return part
    return ""


def _missing_variant(folder: Path, variant: str) -> str:
    """The variant if the denoiser in the cache lacks it, or "": other parts may not have it on the hub either."""
    there = [found for part in ("unet", "transformer") for found in variants_of(folder / part)]
    return f"variant '{variant}'" if variant and variant not in there else ""


def _is_whole(part: Path) -> bool:
    try:
        has_weights = elements_of(part) > 0
    except UserError:  # a shard is missing, or a file is damaged
        return False
    return has_weights or (part.is_dir() and not (part / "config.json").is_file() and any(part.iterdir()))
