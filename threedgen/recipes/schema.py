"""The sections of a recipe, and the Config that is the schema of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.core.settings import at_least, between, settings
from threedgen.recipes import checks, typed
from threedgen.recipes.typed import join

# Sections whose component is chosen by a name, and sections whose component has no choice (its Config is the
# schema).
FAMILIES = ("representation", "renderer", "cameras", "guidance")
NAMED = {"renderer": "auto", "cameras": "orbit"}  # the name if a recipe writes none
FIXED = {
    "background": "threedgen.loop.background:ColorBackground",
    "regularizers": "threedgen.loop.regularizers:Regularizers",
    "optimizer": "threedgen.loop.optim:Config",
    "preview": "threedgen.jobs.listeners.previews:Previews",
    "checkpoint": "threedgen.jobs.listeners.checkpoints:Checkpoints",
    "export": "threedgen.jobs.asset:Config",
}


@settings
class RunSettings:
    """The settings of a recipe that are in no section.

    Attributes:
        prompt: What to make, in words.
        seed: Seed of every random draw of the run.
        steps (steps): Number of optimizer steps of the run, or of the stage.
        device: Where to compute. auto takes the GPU if there is one.
        description: The recipe in one line.
        paper: The paper that the recipe follows.
        needs: The priors and the input that the recipe needs.
        memory: The memory that the recipe takes, measured or estimated.
    """

    _: KW_ONLY
    prompt: str
    seed: Annotated[int, between(0, 2**63 - 1)] = 0
    steps: Annotated[int, at_least(1)]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    description: str = ""
    paper: str = ""
    needs: str = ""
    memory: str = ""


SCALARS: Mapping[str, Any] = typed.hints(RunSettings)
DEFAULTS: Mapping[str, Any] = {
    item.name: item.default
    for item in dataclasses.fields(RunSettings)
    if item.default is not dataclasses.MISSING
}
KEYS = (*SCALARS, *FAMILIES, *FIXED)


def schema_of(cls: type[Any], path: str) -> type[Any]:
    """The Config dataclass of a component's class, or the class itself if it is one.

    Raises UserError, which names the section at `path`, if it is not a dataclass.
    """
    schema = getattr(cls, "Config", cls)
    checks.check_config(schema, cls, path)
    return schema


def section_of(values: Mapping[str, Any], key: str, prefix: str = "") -> Mapping[str, Any]:
    """A section of a recipe or of the stage at `prefix`; `representation: mesh` is short for {name: mesh}.

    Raises UserError if it is not a section.
    """
    section = values.get(key, {})
    if section is None:
        return {}
    if isinstance(section, str) and key in FAMILIES:
        return {"name": section}
    if not isinstance(section, Mapping):
        raise UserError(f"'{join(prefix, key)}' must be a section with keys, got {section!r}")
    return section


def renderer_of(name: str) -> str:
    """The renderer that the class of the representation `name` declares. Raises UserError if it declares none."""
    found = declared(plugins.find("representation", name), RepresentationRoles).renderer
    checks.check_renderer(name, found)
    return found
