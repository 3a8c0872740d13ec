"""The models that a recipe needs: where they are, what has to be fetched, and the memory of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError
from threedgen.core.roles import GuidanceRoles, declared
from threedgen.guidance.priors import hub
from threedgen.guidance.priors.folder import weights
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.load import SHIPPED, PriorConfig
from threedgen.recipes.recipe import Recipe

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Model:
    """A prior of a recipe.

    name: as the recipe says. parts: bytes of the weights of each part in memory, {} if they are not known. fetch:
    bytes to fetch, 0 for a model that is here, None if the hub does not say. note: why something is not known.
    """

    name: str
    parts: dict[str, int] = field(default_factory=dict)
    fetch: int | None = 0
    note: str = ""


def models_of(recipe: Recipe, device: str) -> list[Model]:
    """Every model of a recipe once. Nothing is loaded or fetched; the hub is asked for sizes."""
    found: dict[str, Model] = {}
    for config in priors_of(recipe):
        name = config.path or config.name
        if name not in found:
            found[name] = _model(config, name, device)
    return list(found.values())


def priors_of(recipe: Recipe) -> Iterator[PriorConfig]:
    """The settings of every prior of a recipe, in the order of its stages and guidances."""
    for stage in recipe.all_stages:
        for guide in stage.guidance:
            setting = declared(guide.cls, GuidanceRoles).prior_setting
            config = getattr(guide.config, setting) if setting else None
            if isinstance(config, PriorConfig):
                yield config


def _model(config: PriorConfig, name: str, device: str) -> Model:
    folder = SHIPPED.get(config.name) if not config.path else Path(config.path).expanduser()
    if folder is None:
        return Model(name, note="it has no weights on disk")
    if config.path and not folder.exists() and hub.is_hub_id(config.path):
        kept = hub.kept(config.path, config.variant)
        if kept is None:
            return _to_fetch(config, name, device)
        folder = kept
    if not folder.is_dir():
        return Model(name, note="a single file, whose parts are counted when it is read")
    try:
        return Model(name, _parts(folder, _size(config, device)))
    except UserError as error:
        return Model(name, note=str(error))


def _to_fetch(config: PriorConfig, name: str, device: str) -> Model:
    try:
        sizes = hub.to_fetch(config.path, _size(config, device) == _BYTES["float16"], config.variant)
    except UserError as error:
        return Model(name, fetch=None, note=str(error))
    parts: dict[str, int] = {}
    for file, size in sizes.items():
        part, _, rest = file.partition("/")
        if rest.endswith(".safetensors"):
            parts[part] = parts.get(part, 0) + size
    return Model(name, parts, sum(sizes.values()))


def _size(config: PriorConfig, device: str) -> int:
    """Bytes of a weight in memory."""
    automatic = "float16" if device == "cuda" and config.path else "float32"
    return _BYTES.get(automatic if config.dtype == "auto" else config.dtype, 4)


def _parts(folder: Path, size: int) -> dict[str, int]:
    pipeline: Any = PipelineFolder(folder)
    parts = [part for part in pipeline.index if pipeline.class_of(part) is not None]
    counts = {part: weights.elements_of(pipeline.part(part)) for part in parts}
    return {part: count * size for part, count in counts.items() if count}
