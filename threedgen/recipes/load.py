"""Recipes: YAML files that extend each other, `key=value` overrides, and one typed schema over the result.

    recipe = load_recipe("text-to-3d", ["guidance.0.scale=5"], prompt="a red cube")

The schema of a component's section is the Config dataclass of the class that the section names, so a misspelt key
or a wrong type is one UserError that names the full path and the nearest good key, in YAML and on the command
line alike. Layers are merged section by section; a section whose `name` changes is replaced as a whole (another
component's keys make no sense in it), and so are lists and schedules. A recipe with `stages` is resolved stage by
stage (see threedgen.recipes.stages).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.recipes import stages, typed
from threedgen.recipes.checks import check_intervals
from threedgen.recipes.layers import (
    WITH_PRIOR,
    WITH_VIDEO_PRIOR,
    first_line,
    is_builtin,
    located,
    merge,
    merge_layers,
    recipe_layers,
    relative,
    split_overrides,
)
from threedgen.recipes.overrides import apply_override
from threedgen.recipes.priors import name_priors, names_a_model
from threedgen.recipes.recipe import Choice, Recipe
from threedgen.recipes.schema import (
    DEFAULTS,
    DEVICES,
    FAMILIES,
    FIXED,
    NAMED,
    SCALARS,
    renderer_of,
    schema_of,
    section_of,
)
from threedgen.recipes.typed import join


def load_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    prior: str | None = None,
    text_prior: str | None = None,
    base: Path | None = None,
    real_prior: bool = False,
    adjust: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    derive: Callable[[Recipe], Sequence[str]] | None = None,
    **settings: Any,
) -> Recipe:
    """The recipe called `source` (built-in name or YAML file) under `settings` and `key=value` overrides.

    prior: "embedded", a pipeline folder or a hub id, for every guidance that has a prior. text_prior: the same,
    for the guidances that are told the prompt in a recipe with others that are shown a picture (Magic123);
    `prior` is then for the latter. If a folder or an id is named, here or as `prior.path`, the recipe's
    `with_prior` is laid over the rest; with real_prior in any case. base: where "run:" paths are before the run's
    folder exists (see threedgen.recipes.layers). adjust: changes the plain values before settings and overrides
    are applied. derive: `key=value` settings that follow from others, of the recipe without them; overrides win
    over these too. settings: top-level values taken as they are (prompt, seed, steps, device); None means "not
    given". Steps are of the whole run: stages keep their shares of it. Raises UserError for everything a user can
    get wrong.
    """
    layers = recipe_layers(source)
    if not is_builtin(source):
        _check_with_prior(layers)
    pairs = split_overrides(overrides)
    values = merge_layers(layers, real_prior=real_prior or names_a_model((prior, text_prior), layers, pairs))
    values = values if adjust is None else adjust(values)
    values.pop(WITH_VIDEO_PRIOR, None)
    steps = settings.pop("steps", None)
    values = merge(values, {key: value for key, value in settings.items() if value is not None})
    if steps is not None:
        values = stages.with_steps(values, steps)
    if prior is not None or text_prior is not None:
        values = name_priors(values, prior, text_prior)
    recipe = resolve(_overridden(values, pairs), base)
    derived = split_overrides(derive(recipe)) if derive is not None else []
    return resolve(_overridden(_overridden(values, derived), pairs), base) if derived else recipe


def _overridden(values: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    for key, raw in pairs:
        values = apply_override(values, key, raw)
    return values


def _check_with_prior(layers: Sequence[Mapping[str, Any]]) -> None:
    """UserError for a mistake in the `with_prior` of somebody's own recipe, also if no real prior is named yet."""
    if any(WITH_PRIOR in layer for layer in layers):
        checked = merge_layers(layers, real_prior=True)
        checked.pop(WITH_VIDEO_PRIOR, None)
        resolve({**checked, "prompt": "-"})


def read_resolved(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe a run wrote: already resolved, so no `extends`, no interpolation, prompt text untouched."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a recipe: expected keys and values")
    for key, raw in split_overrides(overrides):
        values = apply_override(values, key, raw)
    recipe = resolve(values, path.parent)
    # Everything is written out there, defaults too: nothing says what somebody chose.
    parts = tuple(dataclasses.replace(part, given=frozenset()) for part in recipe.stages)
    return dataclasses.replace(recipe, given=frozenset(), stages=parts)


def resolve(values: Mapping[str, Any], base: Path | None = None) -> Recipe:
    """Checks merged plain values against the schema grafted from the chosen components."""
    if not values.get("stages"):
        return _resolve({key: value for key, value in values.items() if key != "stages"}, "", base)
    sections = stages.merged(values)
    parts = tuple(_resolve(section, f"stages.{i}", base) for i, section in enumerate(sections))
    total = sum(part.steps for part in parts)
    document = stages.document(parts[-1].resolved, [part.resolved for part in parts])
    return dataclasses.replace(parts[-1], steps=total, stages=parts, resolved=document)


def _resolve(values: Mapping[str, Any], prefix: str, base: Path | None) -> Recipe:
    """One stage, or a recipe without stages; `prefix` goes before every path that a complaint names."""
    known = [*SCALARS, *FAMILIES, *FIXED]
    for key in values:
        if key not in known:
            raise UserError(typed.unknown_key(prefix, str(key), [*known, "stages"]))
    values = merge(DEFAULTS, located(values, base))
    for key in ("prompt", "steps", "representation", "guidance"):
        if key not in values:
            raise UserError(f"the recipe does not set '{join(prefix, key)}'")
    scalars = {key: typed.convert(hint, values[key], key) for key, hint in SCALARS.items() if key in values}
    if not scalars["prompt"].strip():
        raise UserError('the prompt is empty: say what to make, for example "a red cube"')
    if scalars["steps"] < 1:
        raise UserError(f"'{join(prefix, 'steps')}' must be at least 1, got {scalars['steps']}")
    if not 0 <= scalars["seed"] < 2**63:
        raise UserError(f"'seed' must be between 0 and 2^63 - 1, got {scalars['seed']}")
    if scalars["device"] not in DEVICES:
        raise UserError(f"unknown device '{scalars['device']}': use one of {', '.join(DEVICES)}")
    guidance = typed.convert(list[dict], values["guidance"], "guidance")
    if not guidance:
        raise UserError("the recipe has no guidance: nothing would drive the optimization")
    chosen: dict[str, Choice] = {}
    for key in ("representation", "renderer", "cameras"):
        section = section_of(values, key)
        if section.get("name", NAMED.get(key)) == "auto" and key == "renderer":
            section = {
                **section,
                "name": renderer_of(chosen["representation"].name, chosen["representation"].cls),
            }
        chosen[key] = _choose(key, {"name": NAMED.get(key), **section}, join(prefix, key))
    guides = tuple(
        _choose("guidance", item, join(prefix, f"guidance.{i}")) for i, item in enumerate(guidance)
    )
    fixed = {
        key: _graft(key, key, plugins.load(target), dict(section_of(values, key)), join(prefix, key))
        for key, target in FIXED.items()
    }
    resolved: dict[str, Any] = dict(scalars)
    for key, choice in chosen.items():
        resolved[key] = {"name": choice.name, **typed.plain(choice.config)}
    resolved["guidance"] = [
        {"name": guide.name, "weight": typed.plain(guide.weight), **typed.plain(guide.config)}
        for guide in guides
    ]
    for key, choice in fixed.items():
        resolved[key] = typed.plain(choice.config)
    recipe = Recipe(
        scalars["prompt"], scalars["seed"], scalars["steps"], scalars["device"],
        chosen["representation"], chosen["renderer"], chosen["cameras"], guides, fixed,
        relative(resolved, base), frozenset(_paths(values, prefix)),
    )  # fmt: skip
    check_intervals(recipe, prefix)
    return recipe


def _choose(family: str, section: Mapping[str, Any], path: str) -> Choice:
    values = dict(section)
    name = values.pop("name", None)
    if not isinstance(name, str):
        known = ", ".join(plugins.names(family))
        raise UserError(f"'{path}' needs a name: one of {known}, or package.module:Class")
    return _graft(family, name, plugins.find(family, name), values, path)


def _graft(family: str, name: str, cls: type[Any], values: dict[str, Any], path: str) -> Choice:
    weight: Any = 1.0
    if family == "guidance":
        from threedgen.core.schedule import Schedule

        weight = typed.convert(Schedule, values.pop("weight", 1.0), join(path, "weight"))
    config = typed.build(schema_of(cls, path), values, path)
    return Choice(name, cls, config, path, weight)


def _paths(values: Any, path: str = "") -> Iterator[str]:
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for key, value in items:
        here = join(path, str(key))
        yield here
        if isinstance(value, Mapping | list):
            yield from _paths(value, here)
