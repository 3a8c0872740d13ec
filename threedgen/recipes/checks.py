"""Whether a recipe is possible, as far as its classes say it."""

from __future__ import annotations

import itertools
from typing import Any

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.core.types import TriMesh
from threedgen.recipes import stages, typed
from threedgen.recipes.recipe import Choice, Recipe
from threedgen.recipes.typed import leaves


def check_recipe(recipe: Recipe) -> None:
    """UserError where a stage cannot go on from the one before, or a renderer draws another primitive than it gets.

    As far as the classes say it; nothing is built, so it costs nothing to ask before the first step.
    """
    for part in recipe.all_stages:
        given = _primitive_of(part.representation)
        if given is not None:
            check_drawn(part, given)
    for before, after in itertools.pairwise(recipe.all_stages):
        take_over(after.representation)
        given = _primitive_of(before.representation)
        if given is not None:
            needs_mesh(after.representation, given)


def check_drawn(recipe: Recipe, given: type[Any]) -> None:
    """UserError where the renderer says what it draws, and the representation's primitive `given` is not that."""
    drawn = getattr(recipe.renderer.cls, "primitive", None)
    if drawn is not None and not issubclass(given, drawn):
        raise UserError(
            f"the renderer '{recipe.renderer.name}' draws a {drawn.__name__}, but '{recipe.representation.name}' "
            f"gives a {given.__name__}: set renderer.name=auto"
        )


def take_over(choice: Choice) -> Any:
    from_asset = getattr(choice.cls, "from_asset", None)
    if from_asset is None:
        able = (
            name for name in plugins.BUILTIN["representation"]
            if hasattr(plugins.find("representation", name), "from_asset")
        )  # fmt: skip
        raise UserError(
            f"'{choice.path}': '{choice.name}' cannot go on from an earlier stage (it has no from_asset); "
            f"{' and '.join(able)} can"
        )
    return from_asset


def needs_mesh(choice: Choice, given: type[Any]) -> bool:
    """Whether a primitive of type `given` must be meshed before the representation takes it over.

    UserError where it takes neither.
    """
    wanted = choice.cls.starts_from
    if issubclass(given, wanted):
        return False
    if TriMesh in wanted:
        return True
    raise UserError(
        f"'{choice.path}': '{choice.name}' starts from {' or '.join(kind.__name__ for kind in wanted)}, not from "
        f"the {given.__name__} of the stage before"
    )


def _primitive_of(choice: Choice) -> type[Any] | None:
    """What a representation gives, told from the renderer that it names; None where that does not say it."""
    name = getattr(choice.cls, "renderer", None)
    return getattr(plugins.find("renderer", name), "primitive", None) if isinstance(name, str) else None


def check_intervals(recipe: Recipe, prefix: str = "") -> None:
    """UserError when something that is to happen every n steps could never happen within the run, or within the
    stage whose path is `prefix`."""
    for choice in recipe.choices():
        for path, value in leaves(typed.plain(choice.config), choice.path):
            if prefix and path.removeprefix(f"{prefix}.").split(".")[0] in stages.WHOLE_RUN:
                continue  # a stage may be shorter than that
            key = path.rsplit(".", 1)[-1]
            periodic = key == "every" or key.endswith(("_every", "_interval"))
            if periodic and isinstance(value, int | float) and path in recipe.given and value > recipe.steps:
                raise UserError(
                    f"'{path}' is every {value:g} steps but the run has {recipe.steps}: it would never "
                    "happen; lower it (below 1 it is a share of the run) or raise steps"
                )
