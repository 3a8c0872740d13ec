"""Whether a stopped training may continue: only with the same objects, and not with other settings for what codes,
weights and random draws depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.settings import at_least, settings
from threedgen.recipes import typed
from threedgen.ssdnerf.config import SECTIONS
from threedgen.ssdnerf.posed_objects import PosedObjects

CHECKPOINT = "checkpoint"

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


@settings
class Saved:
    """What the checkpoint of a training says beside its tensors.

    Attributes:
        step: Number of steps done.
        seconds (seconds): Duration of these steps.
        scenes: Digest of the names of the objects.
        source: Digest of their pictures.
        settings: The settings of the training, in their sections.
        unwritten: What was measured since the last line of losses.
    """

    step: Annotated[int, at_least(0)]
    seconds: Annotated[float, at_least(0.0)]
    scenes: str
    source: str
    settings: Mapping[str, Any]
    unwritten: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in SECTIONS:
            if not isinstance(self.settings.get(name, {}), Mapping):
                raise UserError(f"settings.{name} is no section")


def read_saved(folder: Path) -> tuple[dict[str, Tensor], Saved]:
    """The tensors and the state in the checkpoint of a training in `folder`. Raises UserError if it is damaged
    or of another kind of training."""
    tensors, plain = checkpoint.load(folder / CHECKPOINT)
    if "settings" not in plain:
        raise UserError(f"{folder} holds another kind of training: choose another --out")
    try:
        saved = typed.build(Saved, plain, "")
    except UserError as error:
        path = folder / CHECKPOINT / checkpoint.STATE_FILE
        raise UserError(f"{path} is damaged ({error}): restore it, or choose another --out") from error
    if "slots" not in tensors or tensors["slots"].is_floating_point():
        raise UserError(
            f"the checkpoint of {folder} has no slots of codes: restore it, or choose another --out"
        )
    return tensors, saved


def require_objects(folder: Path, saved: Saved, objects: PosedObjects) -> None:
    """Raises UserError for the checkpoint of a training on other objects."""
    if saved.scenes != digest(objects) or saved.source != objects.source:
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
