"""Whether a stopped training may continue: only with the same objects, and not with other settings for what codes,
weights and random draws depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError
from threedgen.ssdnerf.config import SECTIONS
from threedgen.ssdnerf.posed_objects import PosedObjects

# The section diffusion is fixed as well, except for the settings in _FREE.
_FIXED = (
    "seed",
    "views",
    "codes.channels",
    "codes.resolution",
    "codes.initial",
    "decoder.hidden",
    "decoder.directions",
    "rendering.extent",
    "rendering.cells",
    "rendering.threshold",
)
_FREE = ("weight", "learning_rate", "dropout", "drop", "momentum")


def digest(objects: PosedObjects) -> str:
    """A digest of the names of all objects in their order, which tells to which objects the codes of a bank
    belong."""
    return hashlib.blake2b(repr(list(objects.names)).encode(), digest_size=8).hexdigest()


def require_objects(folder: Path, state: dict[str, Any], objects: PosedObjects) -> None:
    """Raises UserError for the checkpoint of a training on other objects, or of another kind of training."""
    if "settings" not in state:
        raise UserError(f"{folder} holds another kind of training: choose another --out")
    if state["scenes"] != digest(objects) or state["source"] != objects.source:
        raise UserError(f"{folder} holds a training on other objects or pictures: choose another --out")


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, such as "batch is 4 and was 2". then, now: plain values of a Config.

    Raises UserError for a setting that must not differ. Settings that the checkpoint of an older version lacks are
    not compared.
    """
    before, after = dict(_flat(then)), dict(_flat(json.loads(json.dumps(now))))
    changed: list[str] = []
    for key, value in after.items():
        if key not in before or before[key] == value:
            continue
        text = f"{key} is {value} and was {before[key]}"
        section, _, name = key.partition(".")
        if key in _FIXED or (section == "diffusion" and name not in _FREE):
            raise UserError(
                f"this training cannot continue with other settings, and {text}: set {key}={before[key]}, or "
                "choose another --out"
            )
        changed.append(text)
    return changed


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every setting with its dotted name. A schedule stays whole."""
    for key, value in values.items():
        if key in SECTIONS:
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value
