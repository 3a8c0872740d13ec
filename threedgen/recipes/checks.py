"""Whether a recipe is possible, as far as its values and the classes of its components say.

Nothing is built, so that these checks cost nothing before the first step of a run.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.core.roles import RendererRoles, RepresentationRoles, declared
from threedgen.core.types import TriMesh
from threedgen.recipes import typed
from threedgen.recipes.recipe import WHOLE_RUN, Choice, Recipe
from threedgen.recipes.typed import join, leaves


def check_keys(values: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    """Raises UserError for a key that no recipe has, and for one that is missing. prefix: the path of the stage."""
    for key in values:
        if key not in known:
            raise UserError(typed.unknown_key(prefix, str(key), [*known, "stages"]))
    for key in ("prompt", "steps", "representation", "guidance"):
        if key not in values:
            raise UserError(f"the recipe does not set '{join(prefix, key)}'")


def check_prompt(prompt: str) -> None:
    """Raises UserError for an empty prompt."""
    if not prompt.strip():
        raise UserError('the prompt is empty: say what to make, for example "a red cube"')


def check_guidance(guidance: Sequence[Any]) -> None:
    """Raises UserError for a list of guidances without any."""
    if not guidance:
        raise UserError("the recipe has no guidance: nothing would drive the optimization")


def check_config(schema: type[Any], cls: type[Any], path: str) -> None:
    """Raises UserError unless the Config of a component's class is a dataclass."""
    if not dataclasses.is_dataclass(schema):
        raise UserError(
            f"'{path}': {cls.__module__}:{cls.__name__} has no Config dataclass, so a recipe cannot name it"
        )


def check_renderer(name: str, renderer: str) -> None:
    """Raises UserError for a representation `name` that declares no renderer, if the recipe chooses none."""
    if not renderer:
        raise UserError(
            f"'{name}' does not say which renderer draws it: set renderer.name, one of "
            f"{', '.join(plugins.names('renderer'))}"
        )


def check_stages(sections: Any) -> None:
    """Raises UserError unless the stages are a list of sections without the keys of the whole run."""
    if not isinstance(sections, Sequence) or not all(isinstance(stage, Mapping) for stage in sections):
        raise UserError("'stages' must be a list of sections, one for each stage")
    for index, key in ((index, key) for index, stage in enumerate(sections) for key in stage):
        if key in WHOLE_RUN:
            raise UserError(f"'stages.{index}.{key}' is about the whole run: write it outside the stages")


def check_shares(total: int, shares: Sequence[Any]) -> None:
    """Raises UserError unless `total` steps can be divided among stages in the ratio of their steps, `shares`."""
    if total < len(shares):
        raise UserError(f"{total} steps for {len(shares)} stages: each needs at least 1")
    if not all(isinstance(share, int) and share > 0 for share in shares):
        raise UserError("every stage needs 'steps', a whole number of at least 1")


def check_recipe(recipe: Recipe) -> None:
    """Raises UserError if a stage cannot continue the one before, or a renderer draws another primitive than it
    gets."""
    for stage in recipe.all_stages:
        given = _primitive_of(stage.representation)
        if given is not None:
            check_drawn(stage, given)
    for before, after in itertools.pairwise(recipe.all_stages):
        take_over(after.representation)
        given = _primitive_of(before.representation)
        if given is not None:
            needs_mesh(after.representation, given)


def check_drawn(recipe: Recipe, given: type[Any]) -> None:
    """Raises UserError if the renderer declares another primitive than `given`, that of the representation."""
    drawn = declared(recipe.renderer.cls, RendererRoles).primitive
    if drawn is not None and not issubclass(given, drawn):
        raise UserError(
            f"the renderer '{recipe.renderer.name}' draws a {drawn.__name__}, but '{recipe.representation.name}' "
            f"gives a {given.__name__}: set renderer.name=auto"
        )


def take_over(choice: Choice) -> Any:
    """The classmethod `from_asset` with which a representation continues the end of an earlier stage.

    Raises UserError if it has none.
    """
    if not _starts_from(choice.cls):
        able = [
            name
            for name in plugins.BUILTIN["representation"]
            if _starts_from(plugins.find("representation", name))
        ]
        raise UserError(
            f"'{choice.path}': '{choice.name}' cannot continue an earlier stage (it starts from no primitive); "
            f"{', '.join(able[:-1])} and {able[-1]} can"
        )
    return choice.cls.from_asset


def needs_mesh(choice: Choice, given: type[Any]) -> bool:
    """Whether a primitive of type `given` must become a mesh before the representation continues it.

    Raises UserError if it takes neither.
    """
    wanted = _starts_from(choice.cls)
    if issubclass(given, wanted):
        return False
    if TriMesh in wanted:
        return True
    raise UserError(
        f"'{choice.path}': '{choice.name}' starts from {' or '.join(kind.__name__ for kind in wanted)}, not from "
        f"the {given.__name__} of the stage before"
    )


def check_intervals(recipe: Recipe, prefix: str = "") -> None:
    """Raises UserError if something that was set to happen every n steps could never happen within the run, or
    within the stage whose path is `prefix`."""
    for path, value in never_happening(recipe, prefix):
        if path in recipe.given:
            raise UserError(
                f"'{path}' is every {value:g} steps but the run has {recipe.steps}: it would never happen; lower "
                "it (below 1 it is a fraction of the run) or raise steps"
            )


def never_happening(recipe: Recipe, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The path and the value of every interval in steps that is longer than the run, or than the stage whose path
    is `prefix`, defaults included."""
    for choice in recipe.choices():
        for path, value in leaves(typed.plain(choice.config), choice.path):
            if prefix and path.removeprefix(f"{prefix}.").split(".")[0] in WHOLE_RUN:
                continue  # one stage may be shorter than that
            key = path.rsplit(".", 1)[-1]
            periodic = key == "every" or key.endswith(("_every", "_interval"))
            if periodic and isinstance(value, int | float) and value > recipe.steps:
                yield path, value


def _starts_from(cls: type[Any]) -> tuple[type[Any], ...]:
    return declared(cls, RepresentationRoles).starts_from


def _primitive_of(choice: Choice) -> type[Any] | None:
    """The primitive of a representation according to the renderer that it declares; None if these do not say it."""
    name = declared(choice.cls, RepresentationRoles).renderer
    return declared(plugins.find("renderer", name), RendererRoles).primitive if name else None
