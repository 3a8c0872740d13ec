"""The settings that all tasks share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from threedgen.export.quality import settings_of
from threedgen.jobs.listeners.progress import ProgressBar
from threedgen.loop.events import Listener

Settings = Mapping[str, Any] | Sequence[str]


class Common(TypedDict, total=False):
    """What every task takes.

    seed: of every random draw. steps: of the whole run. device: "auto", "cpu" or "cuda". backend: the library that
    renders, "auto" for the fastest one that works here. quality: of the meshes, "draft", "default" or "high".
    settings: of the recipe, {"cameras.batch": 8} or ["cameras.batch=8"]; they win over the quality. What is not
    given is as the recipe says.
    """

    seed: int | None
    steps: int | None
    device: str | None
    backend: str | None
    quality: str | None
    settings: Settings


def overrides(common: Common) -> list[str]:
    """The `key=value` settings of a recipe that a task was given. Raises UserError for an unknown quality."""
    backend = common.get("backend")
    own = [f"export.{setting}" for setting in settings_of(common.get("quality"))]
    own += [] if backend is None else [f"renderer.backend={backend}"]
    return [*own, *as_settings(common.get("settings", ()))]


def as_settings(settings: Settings) -> list[str]:
    """Settings as `key=value` texts."""
    if isinstance(settings, Mapping):
        return [f"{key}={_text(value)}" for key, value in settings.items()]
    return list(settings)


def top_level(common: Common) -> dict[str, Any]:
    """The settings of the whole run, as `load_recipe` takes them."""
    return {"seed": common.get("seed"), "steps": common.get("steps"), "device": common.get("device")}


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


@contextmanager
def showing(progress: bool, listeners: Sequence[Listener]) -> Iterator[list[Listener]]:
    """The listeners, and a progress bar before them if there shall be one."""
    bar = ProgressBar() if progress else None
    try:
        yield [*([bar] if bar is not None else []), *listeners]
    finally:
        if bar is not None:
            bar.close()
