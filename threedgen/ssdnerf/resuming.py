"""What a stopped training may go on with: the settings that mean something else in the middle of it are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from threedgen.core.errors import UserError

# Those that codes, weights or draws depend on. Of `diffusion` all but what only says how fast it learns.
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
_SECTIONS = ("codes", "decoder", "diffusion", "rendering", "guiding", "finetuning")
_FREE = ("weight", "learning_rate", "dropout", "drop", "momentum")


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs and may, as "batch is 4 and was 2". then, now: plain values of a Config.

    Raises UserError for what must not differ. Settings that a checkpoint of an older version does not name are not
    looked at.
    """
    before, after = dict(_flat(then)), dict(_flat(json.loads(json.dumps(now))))
    changed: list[str] = []
    for key, value in after.items():
        if key not in before or before[key] == value:
            continue
        text = f"{key} is {value} and was {before[key]}"
        part, _, name = key.partition(".")
        if key in _FIXED or (part == "diffusion" and name not in _FREE):
            raise UserError(
                f"this training cannot go on where {text}: say {key}={before[key]}, or choose another --out"
            )
        changed.append(text)
    return changed


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every setting under its dotted name; a schedule stays whole."""
    for key, value in values.items():
        if key in _SECTIONS:
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value
