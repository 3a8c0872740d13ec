"""Weights of the networks of measures, from a safetensors file that the user made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.paths import existing


def read_weights(
    path: str | Path, wanted: Mapping[str, Mapping[str, tuple[int, ...]]], what: str, how: str
) -> tuple[str, dict[str, Tensor]]:
    """Which of several networks a safetensors file holds, and its tensors in float32 on the CPU.

    wanted: name of a network -> names and shapes of its tensors; further tensors in the file are ignored. what: the
    network, for messages; how: a line that makes the file. Raises UserError if there is no such file, if it is no
    complete safetensors file, and if it holds none of the networks, other shapes or numbers that are not finite.
    """
    from safetensors import SafetensorError, safe_open

    escaped = f"{what}; {how}".replace("{", "{{").replace("}", "}}")  # `existing` formats the message
    file = existing(path, f"there is no file '{{path}}' of {escaped}")
    try:
        with safe_open(file, framework="pt") as opened:
            names = set(opened.keys())
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in names}
            network = _fitting(file, wanted, shapes, what, how)
            tensors = {name: opened.get_tensor(name).float() for name in wanted[network]}
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{file}' is not a safetensors file, or incomplete ({error}); {how}") from error
    broken = sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))
    if broken:
        raise UserError(f"'{file}' holds numbers that are not finite (first: {broken[0]}); {how}")
    return network, tensors


def _fitting(
    file: Path,
    wanted: Mapping[str, Mapping[str, tuple[int, ...]]],
    shapes: Mapping[str, tuple[int, ...]],
    what: str,
    how: str,
) -> str:
    """The network of which the file has every tensor in the right shape.

    Raises UserError, which names a tensor that the most similar network needs.
    """
    problems = {}
    for network, needed in wanted.items():
        wrong = [name for name, shape in needed.items() if shapes.get(name) != shape]
        if not wrong:
            return network
        problems[network] = wrong
    nearest = min(problems, key=lambda network: len(problems[network]) / len(wanted[network]))
    first = problems[nearest][0]
    has = f"is {list(shapes[first])}" if first in shapes else "is missing"
    raise UserError(
        f"'{file}' does not hold {what}: {first} {has}, {list(wanted[nearest][first])} is needed; {how}"
    )


def fingerprint(files: list[Path]) -> str:
    """Twelve hexadecimal digits that change with the content of the files."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]
