"""Recipes: YAML files that extend each other, `key=value` overrides, and one typed schema over the result.

    recipe = load_recipe("text-to-3d", ["guidance.0.scale=5"], prompt="a red cube")

The schema of a component's section is the Config dataclass of the class that the section names, so a
misspelt key or a wrong type is one UserError that names the full path and the nearest good key, in YAML and
on the command line alike. Layers are merged section by section; a section whose `name` changes is replaced
as a whole (another component's keys make no sense in it), and so are lists and schedules. A recipe with
`stages` is resolved stage by stage (see threedgen.recipes.stages).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.recipes import stages, typed
from threedgen.recipes.layers import (
    WITH_PRIOR,
    WITH_VIDEO_PRIOR,
    first_line,
    located,
    merge,
    merge_layers,
    recipe_layers,
    relative,
    split_overrides,
)
from threedgen.recipes.overrides import apply_override
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


@dataclass(frozen=True)
class Choice:
    """One component of a recipe: its class, its Config, and (for a guidance) the schedule of its weight."""

    name: str
    cls: type[Any]
    config: Any
    path: str
    weight: Any = 1.0

    def make(self, *arguments: Any, **keywords: Any) -> Any:
        """The component: its class called with its Config and whatever else it needs."""
        return self.cls(self.config, *arguments, **keywords)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `resolved` is its plain form with every default written out; `given` the paths the
    recipe files and the command line set; `reads` the paths of the config fields read so far. fixed: the
    sections that are one component each. stages: the recipe of each stage, where there are several; the
    other fields are then the last stage's, `steps` the sum."""

    prompt: str
    seed: int
    steps: int
    device: str
    representation: Choice
    renderer: Choice
    cameras: Choice
    guidance: tuple[Choice, ...]
    fixed: Mapping[str, Choice]
    resolved: Mapping[str, Any]
    given: frozenset[str]
    reads: set[str] = field(default_factory=set)
    stages: tuple[Recipe, ...] = ()

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """The stages, or the recipe itself where it has none."""
        return self.stages or (self,)

    def choices(self) -> Iterator[Choice]:
        yield self.representation
        yield self.renderer
        yield self.cameras
        yield from self.guidance
        yield from self.fixed.values()


def load_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    prior: str | None = None,
    text_prior: str | None = None,
    base: Path | None = None,
    real_prior: bool = False,
    adjust: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    **settings: Any,
) -> Recipe:
    """The recipe called `source` (built-in name or YAML file) under `settings` and `key=value` overrides.

    prior: "embedded", a pipeline folder or a hub id, for every guidance that has a prior. text_prior: the same, for
    the guidances that go by the prompt where others turn a picture (Magic123); `prior` is then for the latter.
    Where a folder or an id is named, here or as `prior.path`, the recipe's `with_prior` is laid over the rest; with
    real_prior in any case.
    base: where "run:" paths are before the run's folder is there (see threedgen.recipes.layers). adjust: changes
    the plain values before settings and overrides come to them. settings: top-level values taken as they are (prompt,
    seed, steps, device); None means "not given". Steps are of the whole run: stages keep their shares of it. Raises
    UserError for everything a user can get wrong.
    """
    layers = recipe_layers(source)
    if any(WITH_PRIOR in layer for layer in layers):  # a mistake there is said now, not when a model comes
        checked = merge_layers(layers, real_prior=True)
        checked.pop(WITH_VIDEO_PRIOR, None)
        resolve({**checked, "prompt": "-"})
    pairs = split_overrides(overrides)
    values = merge_layers(layers, real_prior=real_prior or _names_a_model((prior, text_prior), layers, pairs))
    values = values if adjust is None else adjust(values)
    values.pop(WITH_VIDEO_PRIOR, None)
    steps = settings.pop("steps", None)
    values = merge(values, {key: value for key, value in settings.items() if value is not None})
    if steps is not None:
        values = stages.with_steps(values, steps)
    if prior is not None or text_prior is not None:
        values = _name_priors(values, prior, text_prior)
    for key, raw in pairs:
        values = apply_override(values, key, raw)
    return resolve(values, base)


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
    reads: set[str] = set()
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
        chosen[key] = _choose(key, {"name": NAMED.get(key), **section}, join(prefix, key), reads)
    guides = tuple(
        _choose("guidance", item, join(prefix, f"guidance.{i}"), reads) for i, item in enumerate(guidance)
    )
    fixed = {
        key: _graft(key, key, plugins.load(target), dict(section_of(values, key)), join(prefix, key), reads)
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
        relative(resolved, base), frozenset(_paths(values, prefix)), reads,
    )  # fmt: skip
    check_intervals(recipe, prefix)
    return recipe


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


def never_read(recipe: Recipe) -> list[str]:
    """Paths the recipe sets, in components' sections, that nothing has read so far."""
    missing = []
    for part in recipe.parts:
        for choice in part.choices():
            hints = typed.hints(choice.config.__class__)  # type() would see the Tracked wrapper
            for key in hints:
                path = join(choice.path, key)
                if path in part.given and path not in part.reads:
                    missing.append(path)
    return missing


def _choose(family: str, section: Mapping[str, Any], path: str, reads: set[str]) -> Choice:
    values = dict(section)
    name = values.pop("name", None)
    if not isinstance(name, str):
        known = ", ".join(plugins.names(family))
        raise UserError(f"'{path}' needs a name: one of {known}, or package.module:Class")
    return _graft(family, name, plugins.find(family, name), values, path, reads)


def _graft(
    family: str, name: str, cls: type[Any], values: dict[str, Any], path: str, reads: set[str]
) -> Choice:
    weight: Any = 1.0
    if family == "guidance":
        from threedgen.core.schedule import Schedule

        weight = typed.convert(Schedule, values.pop("weight", 1.0), join(path, "weight"))
    config = typed.build(schema_of(cls, path), values, path)
    return Choice(name, cls, typed.Tracked(config, path, reads), path, weight)


def _names_a_model(
    priors: Sequence[str | None], layers: Sequence[Mapping[str, Any]], overrides: Sequence[tuple[str, str]]
) -> bool:
    """Whether a real prior guides: by --prior, by `prior.path` in a recipe, or by a setting of it."""
    named = [prior for prior in priors if prior is not None]
    if named:
        return any(prior != "embedded" for prior in named)
    if any(key.endswith("prior.path") and raw.strip(" '\"") for key, raw in overrides):
        return True
    sections = [section for layer in layers for section in stages.merged(layer)]
    asked = [
        item.get("prior") for section in sections for item in _guides(section) if isinstance(item, Mapping)
    ]
    return any(isinstance(section, Mapping) and section.get("path") for section in asked)


def _name_priors(values: Mapping[str, Any], prior: str | None, text_prior: str | None) -> dict[str, Any]:
    """Every guidance's prior replaced by the one named for its kind; how it is loaded (dtype, LoRA, options) stays.

    Raises UserError for an empty name, and where no guidance is of the kind.
    """
    for option, name in (("--prior", prior), ("--text-prior", text_prior)):
        if name is not None and not name.strip():
            raise UserError(f"{option} is empty: name embedded, a pipeline folder or a hub id")
    guides = [item for section in stages.merged(values) for item in _guides(section)]
    both = any(map(turns_a_picture, guides)) and any(map(_goes_by_text, guides))
    if text_prior is not None and not both:
        raise UserError(
            "--text-prior is for recipes that have a view-conditioned prior as well, such as magic123"
        )
    if prior is not None and not any(
        has_field(item, field) for item in guides for field in ("prior", "model")
    ):
        raise UserError("--prior: no guidance of this recipe has a prior")

    def named(item: Any) -> Any:
        chosen = text_prior if both and _goes_by_text(item) else prior
        if chosen is None:
            return item
        if has_field(item, "model"):
            return {**item, "model": "" if chosen == "embedded" else chosen}
        if not has_field(item, "prior"):
            return item
        old = item.get("prior")
        kept = (
            {key: old[key] for key in old if key not in ("name", "path")} if isinstance(old, Mapping) else {}
        )
        own = "embedded-view" if turns_a_picture(item) else "embedded"
        return {**item, "prior": {**kept, **({"name": own} if chosen == "embedded" else {"path": chosen})}}

    def renamed(section: Mapping[str, Any]) -> dict[str, Any]:
        new = dict(section)
        if "guidance" in section:
            new["guidance"] = [named(item) for item in _guides(section)]
        scene = section.get("representation")
        if prior is not None and isinstance(scene, Mapping) and has_field(scene, "model", "representation"):
            new["representation"] = {**scene, "model": "" if prior == "embedded" else prior}
        return new

    return stages.over_all(values, renamed)


def turns_a_picture(item: Any) -> bool:
    """Whether a guidance asks its prior about a picture seen from elsewhere."""
    told = item.get("reference") if isinstance(item, Mapping) else None
    return has_field(item, "prior") and isinstance(told, Mapping) and bool(told.get("image"))


def _goes_by_text(item: Any) -> bool:
    return has_field(item, "prior") and not turns_a_picture(item)


def _guides(values: Mapping[str, Any]) -> list[Any]:
    items = values.get("guidance")
    return list(items) if isinstance(items, Sequence) and not isinstance(items, str) else []


def has_field(item: Any, field: str, family: str = "guidance") -> bool:
    """Whether the component that a section chooses has such a setting."""
    name = item.get("name") if isinstance(item, Mapping) else None
    if not isinstance(name, str):
        return False
    return field in typed.hints(schema_of(plugins.find(family, name), family))


def _paths(values: Any, path: str = "") -> Iterator[str]:
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for key, value in items:
        here = join(path, str(key))
        yield here
        if isinstance(value, Mapping | list):
            yield from _paths(value, here)


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values at the ends of nested mappings and lists, and their paths."""
    if isinstance(values, Mapping | list):
        items = values.items() if isinstance(values, Mapping) else enumerate(values)
        for key, value in items:
            yield from leaves(value, join(path, str(key)))
    else:
        yield path, values
