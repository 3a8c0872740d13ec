"""Recipes: YAML files that extend each other, `key=value` overrides, and one typed schema over the result.

    recipe = load_recipe("text-to-3d", ["guidance.0.scale=5"], prompt="a red cube")

The schema of a component's section is the Config dataclass of the class that the section names. A misspelt key or a
wrong type therefore raises one UserError that names the full path and the nearest known key, in YAML as on the
command line. Layers are merged as threedgen.recipes.layers describes. A recipe with `stages` is resolved stage
by stage (see threedgen.recipes.stages).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from threedgen.core import inside, plugins, trust
from threedgen.core.documents import LARGEST, parse_yaml
from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule
from threedgen.recipes import checks, stages, typed
from threedgen.recipes.layers import (
    OVERLAYS,
    REFINED,
    WITH_PRIOR,
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
from threedgen.recipes.priors import name_priors, named_parts, names_a_model
from threedgen.recipes.recipe import WHOLE_RUN, Choice, Recipe
from threedgen.recipes.schema import DEFAULTS, FIXED, KEYS, NAMED, SCALARS, renderer_of, schema_of, section_of
from threedgen.recipes.typed import join


def load_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    prior: str | None = None,
    text_prior: str | None = None,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
    base: Path | None = None,
    real_prior: bool = False,
    refine: int | None = None,
    adjust: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    derive: Callable[[Recipe], Sequence[str]] | None = None,
    **settings: Any,
) -> Recipe:
    """The recipe called `source` (built-in name or YAML file) under `settings` and `key=value` overrides.

    prior: "embedded", a pipeline folder or a hub id, for every guidance that has a prior. text_prior: the same, for
        the guidances that use the prompt in a recipe with others that use a picture (Magic123); `prior` is then for
        the latter. If a folder or an id is named, here or as `prior.path`, the recipe's `with_prior` is laid
        over the rest.
    tokenizer: a folder with the tokenizer of a prior that is a single file; of `text_prior` if the recipe has both.
    vae: a file or folder of an autoencoder that replaces the one of the same prior.
    real_prior: lay the recipe's `with_prior` over the rest in any case.
    refine: refine what the recipe makes in one pass, in so many steps, which are then those of the run.
    base: the folder that "run:" paths stand for until the run's folder exists (see threedgen.recipes.layers).
    adjust: changes the plain values before settings and overrides are applied.
    derive: `key=value` settings that follow from others, of the recipe without them; overrides win over these, too.
    settings: top-level values taken as they are (prompt, seed, steps, device); None means "not given". Steps are
        those of the whole run: stages keep their shares of it.

    Raises UserError for everything that a user can get wrong.
    """
    layers = recipe_layers(source)
    if not is_builtin(source):
        _resolve_with_prior(layers)
    pairs = split_overrides(overrides)
    values = merge_layers(layers, real_prior=real_prior or names_a_model((prior, text_prior), layers, pairs))
    values = values if adjust is None else adjust(values)
    if refine is not None:
        values, settings = _refined(values, str(source)), {**settings, "steps": refine}
    values = _without_overlays(values)
    plain = values
    steps = settings.pop("steps", None)
    values = merge(values, {key: value for key, value in settings.items() if value is not None})
    if steps is not None:
        values = stages.with_steps(values, steps)
    parts = named_parts(tokenizer, vae)
    if prior is not None or text_prior is not None or parts:
        values = name_priors(values, prior, text_prior, parts)
    recipe = resolve(_overridden(values, pairs), base)
    derived = split_overrides(derive(recipe)) if derive is not None else []
    if derived:
        recipe = resolve(_overridden(_overridden(values, derived), pairs), base)
    # The task derives settings from others, such as the seed: nobody changed these.
    own = {key for key, _ in derived} - {key for key, _ in pairs}
    return dataclasses.replace(recipe, origin={"recipe": str(source), **_changes(plain, recipe, base, own)})


def _changes(
    plain: Mapping[str, Any], recipe: Recipe, base: Path | None, without: Set[str]
) -> dict[str, dict[str, tuple[Any, Any]]]:
    """The settings of `recipe`, but for its prompt, that are others than in the plain values that it was made of,
    as the "changed" of its origin; nothing if the plain values are no recipe yet."""
    try:
        before = dict(typed.leaves(resolve({**plain, "prompt": recipe.prompt}, base).resolved))
    except UserError:  # the recipe needs what the command sets
        return {}
    after = dict(typed.leaves(recipe.resolved))
    names = (name for name in dict.fromkeys((*before, *after)) if name not in without)
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {"changed": {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}}


def _overridden(values: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    for key, raw in pairs:
        values = apply_override(values, key, raw)
    return values


def _resolve_with_prior(layers: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError for a mistake in the `with_prior` of a user's recipe, even if no real prior is named yet."""
    if any(WITH_PRIOR in layer for layer in layers):
        values = merge_layers(layers, real_prior=True)
        resolve({**_without_overlays(values), "prompt": "-"})


def _without_overlays(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in OVERLAYS}


def _refined(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The values with the section that refines what a recipe makes in one pass. Raises UserError if it has none."""
    section = values.get(REFINED)
    if not isinstance(section, Mapping):
        raise UserError(
            f"recipe '{source}' has nothing to refine: --refine is for recipes that make an asset in one pass, "
            "such as hunyuan3d"
        )
    return merge(values, section)


def read_resolved(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe that a run wrote: it extends nothing, and the text of its prompt is taken as it is.

    Raises UserError if it cannot be read, if it names a class that a run must not name (see
    threedgen.core.trust), and for wrong overrides.
    """
    try:
        values = parse_yaml(inside.read_text(path, LARGEST))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a recipe: expected keys and values")
    for name in plugins.foreign_classes(values):
        trust.check_class(path.parent, name)
    recipe = resolve(_overridden(values, split_overrides(overrides)), path.parent, written=True)
    # All values are written out there, defaults too, so that none of them counts as given.
    facts = {"given": frozenset(), "folder": path.parent}
    own = tuple(dataclasses.replace(stage, **facts) for stage in recipe.stages)
    return dataclasses.replace(recipe, **facts, stages=own)


def resolve(values: Mapping[str, Any], base: Path | None = None, written: bool = False) -> Recipe:
    """The recipe of merged plain values, checked against the schemas of the chosen components.

    written: a run wrote the values with every default, among which intervals may be longer than the run. Raises
    UserError.
    """
    if not values.get("stages"):
        return _resolve({key: value for key, value in values.items() if key != "stages"}, "", base, written)
    sections = enumerate(stages.merged(values))
    own = tuple(_resolve(section, f"stages.{i}", base, written) for i, section in sections)
    total = sum(stage.steps for stage in own)
    document = stages.document(own[-1].resolved, [stage.resolved for stage in own])
    return dataclasses.replace(own[-1], steps=total, stages=own, resolved=document)


def _resolve(values: Mapping[str, Any], prefix: str, base: Path | None, written: bool) -> Recipe:
    """A recipe without stages, or the stage at the path `prefix`."""
    checks.check_keys(values, KEYS, prefix)
    values = merge(DEFAULTS, located(values, base))
    scalars = _scalars(values, prefix)
    representation = _choose("representation", section_of(values, "representation", prefix), prefix)
    renderer = _choose("renderer", _renderer(values, representation.name, prefix), prefix)
    cameras = _choose("cameras", section_of(values, "cameras", prefix), prefix)
    guidance = _guidance(values["guidance"], prefix)
    fixed = {
        key: _graft(key, plugins.load(target), section_of(values, key, prefix), join(prefix, key))
        for key, target in FIXED.items()
    }
    resolved: dict[str, Any] = dict(scalars)
    for key, choice in (("representation", representation), ("renderer", renderer), ("cameras", cameras)):
        resolved[key] = {"name": choice.name, **typed.plain(choice.config)}
    resolved["guidance"] = [
        {"name": guide.name, "weight": typed.plain(guide.weight), **typed.plain(guide.config)}
        for guide in guidance
    ]
    for key, choice in fixed.items():
        resolved[key] = typed.plain(choice.config)
    recipe = Recipe(
        scalars["prompt"], scalars["seed"], scalars["steps"], scalars["device"],
        representation, renderer, cameras, guidance, fixed,
        relative(resolved, base), frozenset(_paths(values, prefix)),
    )  # fmt: skip
    if not written:
        checks.check_intervals(recipe, prefix)
    return recipe


def _scalars(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The settings that are in no section."""
    scalars = {
        key: typed.convert(hint, values[key], key if key in WHOLE_RUN else join(prefix, key))
        for key, hint in SCALARS.items()
        if key in values
    }
    checks.check_prompt(scalars["prompt"])
    return scalars


def _renderer(values: Mapping[str, Any], representation: str, prefix: str) -> Mapping[str, Any]:
    """The section of the renderer, with the one that the representation declares in place of auto."""
    section = section_of(values, "renderer", prefix)
    automatic = section.get("name", NAMED["renderer"]) == "auto"
    return {**section, "name": renderer_of(representation)} if automatic else section


def _guidance(items: Any, prefix: str) -> tuple[Choice, ...]:
    sections = typed.convert(list[dict], items, join(prefix, "guidance"))
    checks.check_guidance(sections)
    return tuple(_choose("guidance", item, prefix, f"guidance.{i}") for i, item in enumerate(sections))


def _choose(family: str, section: Mapping[str, Any], prefix: str, key: str = "") -> Choice:
    """The component that a section names. key: of the section, if it is not the family's."""
    path = join(prefix, key or family)
    values = dict(section)
    name = values.pop("name", NAMED.get(family))
    if not isinstance(name, str):
        known = ", ".join(plugins.names(family))
        raise UserError(f"'{path}' needs a name: one of {known}, or package.module:Class")
    weight: Any = 1.0
    if family == "guidance":
        weight = typed.convert(Schedule, values.pop("weight", 1.0), join(path, "weight"))
    return _graft(name, plugins.find(family, name), values, path, weight)


def _graft(name: str, cls: type[Any], values: Mapping[str, Any], path: str, weight: Any = 1.0) -> Choice:
    return Choice(name, cls, typed.build(schema_of(cls, path), values, path), path, weight)


def _paths(values: Any, path: str = "") -> Iterator[str]:
    """The paths of everything in nested mappings and lists."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for key, value in items:
        here = join(path, str(key))
        yield here
        if isinstance(value, Mapping | list):
            yield from _paths(value, here)
