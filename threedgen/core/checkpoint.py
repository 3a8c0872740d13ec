"""Checkpoints: a folder that holds one complete state at any moment, whatever stops the process.

    FOLDER/state.json                   JSON: format, name and digest of the tensor file, the size of each tensor,
                                        the caller's state
    FOLDER/tensors-DIGEST.safetensors   the tensors

A save writes a new tensor file under a new name, flushes it to the disk, and only then replaces state.json by one
atomic rename. Until then the old pair is the checkpoint, from then on the new one. SIGKILL, a power failure or a
full disk in between leaves the old pair and incomplete files, which the next save removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedgen.core import inside
from threedgen.core.atomic import flush
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError

FORMAT = 1
STATE_FILE = "state.json"
_TENSOR_FILE = re.compile(r"tensors-[0-9a-f]+\.safetensors")
_PARTIAL = ".partial"


def exists(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` holds a checkpoint. Raises UserError if it may not be read."""
    path = Path(folder) / STATE_FILE
    try:
        return path.is_file()
    except OSError as error:  # before Python 3.14: no permission
        raise UserError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error


def save(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replaces the checkpoint in `folder` (which is made if it is missing) atomically and durably.

    tensors: any names, shapes, dtypes and devices; they are loaded on the CPU with the same shapes and dtypes.
    state: anything that JSON can hold. Raises UserError if the disk is full or the folder cannot be written;
    the previous checkpoint is then intact.
    """
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    # safetensors refuses tensors that share memory or are not contiguous; these copies are neither.
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    data = to_bytes(copies)
    digest = _digest(data)
    tensor_file = f"tensors-{digest[:16]}.safetensors"
    sizes = {name: value.nbytes for name, value in copies.items()}
    document = {
        "format": FORMAT,
        "tensors": tensor_file,
        "digest": digest,
        "sizes": sizes,
        "state": dict(state),
    }
    text = json.dumps(document, indent=1).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder, keep=_current_tensor_file(folder))
        _write_atomically(folder / tensor_file, data)
        _write_atomically(folder / STATE_FILE, text)
    except OSError as error:
        tidy(folder)
        raise UserError(
            f"cannot write the checkpoint {folder}: {error.strerror or error}; free some space or choose "
            "another folder (a previous checkpoint there is intact)"
        ) from error
    tidy(folder)


def load(folder: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the state of the checkpoint in `folder`.

    It is safe to call while another process saves. Raises UserError, which names the file, if it is missing,
    truncated, altered or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    folder = Path(folder)
    document = _read_document(folder)
    while True:
        tensor_path = folder / document["tensors"]
        try:
            data = _read_tensors(tensor_path, document["sizes"])
            break
        except OSError as error:
            # Another process may have replaced the checkpoint between the two reads: then read again.
            newer = _read_document(folder)
            if newer["tensors"] == document["tensors"]:
                raise UserError(f"cannot read {tensor_path}: {error.strerror or error}") from error
            document = newer
    if _digest(data) != document["digest"]:
        raise _altered(tensor_path)
    try:
        return from_bytes(data), document["state"]
    except (SafetensorError, KeyError) as error:  # a KeyError: a type of numbers that torch does not have
        raise UserError(f"{tensor_path} is not a safetensors file ({error})") from error


def load_state(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The state of the checkpoint in `folder` without its tensors. Raises UserError as `load` does."""
    return _read_document(Path(folder))["state"]


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / STATE_FILE
    damaged = UserError(f"{path} is damaged or not a checkpoint; restore it or start the run again")
    try:
        document = parse_json(inside.read_bytes(path, inside.DOCUMENT))
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint in {folder}: {STATE_FILE} is missing") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise damaged from error
    if not isinstance(document, dict) or "format" not in document:
        raise damaged
    if document["format"] != FORMAT:
        raise UserError(
            f"{path} has format {document['format']}; this version of threedgen reads format {FORMAT}"
        )
    name, digest, state = (document.get(key) for key in ("tensors", "digest", "state"))
    sizes = document.get("sizes")  # of each tensor in bytes; versions before this one wrote none
    if not (isinstance(name, str) and isinstance(digest, str) and isinstance(state, dict)):
        raise damaged
    if not _TENSOR_FILE.fullmatch(name) or not (sizes is None or _are_sizes(sizes)):
        raise damaged
    return {"tensors": name, "digest": digest, "sizes": sizes, "state": state}


def _are_sizes(values: Any) -> bool:
    return isinstance(values, dict) and all(type(size) is int and size >= 0 for size in values.values())


def _read_tensors(path: Path, sizes: Mapping[str, int] | None) -> bytes:
    """The tensor file, if it is as large as the tensors that it should hold; no more than that is read.

    sizes: in bytes; None: what the header of the file says. Raises UserError for another size, and OSError.
    """
    with inside.opened(path) as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        header = file.read(length) if length <= inside.DOCUMENT else b""
        try:
            if sizes is None:
                described = parse_json(header).items()
                ends = [entry["data_offsets"][1] for name, entry in described if name != "__metadata__"]
                size = max(ends, default=0)
            else:
                size = sum(sizes.values())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _altered(path) from error
        if os.fstat(file.fileno()).st_size != 8 + length + size:
            raise _altered(path)
        return start + header + file.read(size)


def _altered(path: Path) -> UserError:
    return UserError(f"{path} is truncated or altered; restore it or start the run again")


def fill(module: Any, tensors: Mapping[str, Tensor], what: str) -> None:
    """Loads `tensors` into a module, whose whole state they must be; a module that has a size of its own for each
    state takes theirs. what: the module, for messages.

    Raises UserError for tensors of other names or shapes, such as those of another version of its class. The module
    is then of no use.
    """
    names = set(module.state_dict())
    try:
        module.load_state_dict(dict(tensors))
    except UserError:
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        # What a module of any class does with tensors that it does not know.
        raise _misfit(what, names, tensors, error) from error
    now = module.state_dict()
    for name, value in tensors.items():
        same = name in now and now[name].shape == value.shape
        if not same or now[name].is_floating_point() != value.is_floating_point():
            raise _misfit(what, set(now), tensors, f"{name} is {list(value.shape)} of {value.dtype}")
    if len(now) != len(tensors):
        raise _misfit(what, set(now), tensors, "")


def _misfit(what: str, names: set[str], tensors: Mapping[str, Tensor], reason: object) -> UserError:
    missing, unknown = sorted(names - set(tensors)), sorted(set(tensors) - names)
    lines = str(reason).splitlines() or [""]
    parts = [f"{missing[0]} is missing"] if missing else []
    parts += [f"{unknown[0]} is unknown"] if unknown else []
    shown = ", ".join(parts) or lines[-1].strip()
    return UserError(f"the saved {what} does not fit this version of threedgen or this recipe: {shown}")


MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam keeps of each parameter, beside the number of its steps, "step"."""


def check_moments(saved: Mapping[str, Tensor], parameter: Tensor, name: str) -> None:
    """Raises UserError unless `saved` is all that Adam keeps of a parameter. name: of the parameter."""
    wanted = {"step": torch.Size(), **dict.fromkeys(MOMENTS, parameter.shape)}
    for key in sorted(wanted.keys() | saved.keys()):
        if key not in wanted:
            raise UserError(f"optimizer state of {name} does not fit: {key} is unknown")
        if key not in saved:
            raise UserError(f"optimizer state of {name} does not fit: {key} is missing")
        given = saved[key]
        if given.shape != wanted[key] or not given.is_floating_point():
            raise UserError(
                f"optimizer state {name}.{key} is {list(given.shape)} of {given.dtype} but its parameter is "
                f"{list(parameter.shape)}: the checkpoint belongs to another scene"
            )


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under "PREFIX.NAME", so that several objects can share one checkpoint."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named "PREFIX.NAME", as "NAME"; the others are left out."""
    start = prefix + "."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _write_atomically(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + _PARTIAL)
    _write_durably(partial, data)
    os.replace(partial, path)
    flush(path.parent)


def _write_durably(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    flush(path)


def _current_tensor_file(folder: Path) -> str | None:
    """The tensor file that state.json names, whatever its format; None if it names none."""
    try:
        document = parse_json(inside.read_bytes(folder / STATE_FILE, inside.DOCUMENT))
    except (OSError, UserError, ValueError):
        return None
    return document.get("tensors") if isinstance(document, dict) else None


def _sweep(folder: Path, keep: str | None) -> None:
    """Removes what an interrupted save left, and no file that this module did not write."""
    for path in folder.iterdir():
        ours = path.name.startswith("tensors-") and path.suffix in (".safetensors", _PARTIAL)
        if path.name == STATE_FILE + _PARTIAL or (ours and path.name != keep):
            path.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Removes what saves that were killed have left. Only for the process that writes the checkpoint."""
    # Files that cannot be removed now only cost space, and the next save tries again.
    with contextlib.suppress(OSError):
        _sweep(folder, keep=_current_tensor_file(folder))
