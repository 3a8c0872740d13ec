"""Which sections a recipe has, and whose Config is the schema of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from threedgen.core import plugins
from threedgen.core.errors import UserError

# Sections that a family's name chooses, and sections whose component is fixed (its Config is the schema).
FAMILIES = ("representation", "renderer", "cameras", "guidance")
NAMED = {"renderer": "auto", "cameras": "orbit"}  # families with a name that need not be written
FIXED = {
    "background": "threedgen.loop.background:Background",
    "regularizers": "threedgen.loop.regularizers:Regularizers",
    "optimizer": "threedgen.loop.optim:Config",
    "preview": "threedgen.jobs.listeners.previews:Previews",
    "checkpoint": "threedgen.jobs.listeners.checkpoints:Checkpoints",
    "export": "threedgen.jobs.asset:Config",
}
# What a recipe says of itself: `threedgen recipes` shows it.
ABOUT = ("description", "paper", "needs", "memory")
SCALARS: Mapping[str, Any] = {
    "prompt": str,
    "seed": int,
    "steps": int,
    "device": str,
    **dict.fromkeys(ABOUT, str),
}
DEFAULTS = {"seed": 0, "device": "auto", **dict.fromkeys(ABOUT, "")}
DEVICES = ("auto", "cpu", "cuda")


def schema_of(cls: type[Any], path: str) -> type[Any]:
    """The Config dataclass of a component's class, or the class itself where it is one."""
    schema = getattr(cls, "Config", cls)
    if not dataclasses.is_dataclass(schema):
        raise UserError(
            f"'{path}': {cls.__module__}:{cls.__name__} has no Config dataclass, so a recipe cannot name it"
        )
    return schema  # type: ignore[return-value]


def section_of(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = values.get(key, {})
    if section is None:
        return {}
    if isinstance(section, str) and key in FAMILIES:
        return {"name": section}
    if not isinstance(section, Mapping):
        raise UserError(f"'{key}' must be a section with keys, got {section!r}")
    return section


def renderer_of(name: str, cls: type[Any]) -> str:
    """The renderer that the class of representation `name` says it is drawn by."""
    found = getattr(cls, "renderer", None)
    if not isinstance(found, str):
        raise UserError(
            f"'{name}' does not say which renderer draws it: set renderer.name, one of "
            f"{', '.join(plugins.names('renderer'))}"
        )
    return found
