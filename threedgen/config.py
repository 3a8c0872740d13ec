"""Recipes: YAML files that extend each other, `key=value` overrides, and one typed schema over the result.

    recipe = load_recipe("text-to-3d", ["guidance.0.scale=5"], prompt="a red cube")

The schema of a component's section is the Config dataclass of the class that the section names, so a
misspelt key or a wrong type is one UserError that names the full path and the nearest good key, in YAML and
on the command line alike. Layers are merged section by section; a section whose `name` changes is replaced
as a whole (another component's keys make no sense in it), and so are lists and schedules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threedgen import plugins, typed
from threedgen.errors import UserError
from threedgen.layers import (
    first_line,
    merge,
    merge_layers,
    nested,
    parse_value,
    recipe_layers,
    split_overrides,
)
from threedgen.typed import join

# Sections that a family's name chooses, and sections whose component is fixed (its Config is the schema).
FAMILIES = {"representation": "representation", "renderer": "renderer", "guidance": "guidance"}
FIXED = {
    "cameras": "threedgen.cameras:OrbitSampler",
    "background": "threedgen.background:Background",
    "regularizers": "threedgen.regularizers:Regularizers",
    "optimizer": "threedgen.optim:Config",
    "preview": "threedgen.listeners.previews:Previews",
    "checkpoint": "threedgen.listeners.checkpoints:Checkpoints",
    "export": "threedgen.finish:Config",
}
SCALARS: Mapping[str, Any] = {"prompt": str, "seed": int, "steps": int, "device": str, "description": str}
DEFAULTS = {"seed": 0, "device": "auto", "description": ""}
DEVICES = ("auto", "cpu", "cuda")


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
    recipe files and the command line set; `reads` the paths of the config fields read so far."""

    prompt: str
    seed: int
    steps: int
    device: str
    representation: Choice
    renderer: Choice
    guidance: tuple[Choice, ...]
    fixed: Mapping[str, Choice]
    resolved: Mapping[str, Any]
    given: frozenset[str]
    reads: set[str] = field(default_factory=set)

    def choices(self) -> Iterator[Choice]:
        yield self.representation
        yield self.renderer
        yield from self.guidance
        yield from self.fixed.values()


def load_recipe(
    source: str | Path, overrides: Sequence[str] = (), *, prior: str | None = None, **settings: Any
) -> Recipe:
    """The recipe called `source` (built-in name or YAML file) under `settings` and `key=value` overrides.

    prior: "embedded", a pipeline folder or a hub id, for every guidance that has a prior.
    settings: top-level values taken as they are (prompt, seed, steps, device); None means "not given".
    Raises UserError for everything a user can get wrong.
    """
    values = merge_layers(recipe_layers(source))
    values = merge(values, {key: value for key, value in settings.items() if value is not None})
    if prior is not None:
        values = _with_prior(values, prior)
    for key, raw in split_overrides(overrides):
        values = _apply_override(values, key, raw)
    return resolve(values)


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
        values = _apply_override(values, key, raw)
    # Everything is written out there, defaults too: nothing says what somebody chose.
    return dataclasses.replace(resolve(values), given=frozenset())


def resolve(values: Mapping[str, Any]) -> Recipe:
    """Checks merged plain values against the schema grafted from the chosen components."""
    known = [*SCALARS, *FAMILIES, *FIXED]
    for key in values:
        if key not in known:
            raise UserError(typed.unknown_key("", str(key), known))
    values = merge(DEFAULTS, values)
    for key in ("prompt", "steps", *FAMILIES):
        if key not in values:
            raise UserError(f"the recipe does not set '{key}'")
    scalars = {key: typed.convert(hint, values[key], key) for key, hint in SCALARS.items() if key in values}
    if not scalars["prompt"].strip():
        raise UserError('the prompt is empty: say what to make, for example "a red cube"')
    if scalars["steps"] < 1:
        raise UserError(f"'steps' must be at least 1, got {scalars['steps']}")
    if not 0 <= scalars["seed"] < 2**63:
        raise UserError(f"'seed' must be between 0 and 2^63 - 1, got {scalars['seed']}")
    if scalars["device"] not in DEVICES:
        raise UserError(f"unknown device '{scalars['device']}': use one of {', '.join(DEVICES)}")
    reads: set[str] = set()
    guidance = typed.convert(list[dict], values["guidance"], "guidance")
    if not guidance:
        raise UserError("the recipe has no guidance: nothing would drive the optimization")
    chosen = {key: _choose(key, _section(values, key), key, reads) for key in ("representation", "renderer")}
    guides = tuple(_choose("guidance", item, f"guidance.{i}", reads) for i, item in enumerate(guidance))
    fixed = {
        key: _graft(key, key, plugins.load(target), dict(_section(values, key)), key, reads)
        for key, target in FIXED.items()
    }
    resolved: dict[str, Any] = dict(scalars)
    for choice in chosen.values():
        resolved[choice.path] = {"name": choice.name, **typed.plain(choice.config)}
    resolved["guidance"] = [
        {"name": guide.name, "weight": typed.plain(guide.weight), **typed.plain(guide.config)}
        for guide in guides
    ]
    for key, choice in fixed.items():
        resolved[key] = typed.plain(choice.config)
    recipe = Recipe(
        scalars["prompt"], scalars["seed"], scalars["steps"], scalars["device"],
        chosen["representation"], chosen["renderer"], guides, fixed,
        resolved, frozenset(_paths(values)), reads,
    )  # fmt: skip
    check_intervals(recipe)
    return recipe


def check_intervals(recipe: Recipe) -> None:
    """UserError when something that is to happen every n steps could never happen within the run."""
    for choice in recipe.choices():
        for path, value in _leaves(typed.plain(choice.config), choice.path):
            key = path.rsplit(".", 1)[-1]
            periodic = key == "every" or key.endswith(("_every", "_interval"))
            if periodic and isinstance(value, int | float) and path in recipe.given and value > recipe.steps:
                raise UserError(
                    f"'{path}' is every {value:g} steps but the run has {recipe.steps}: it would never "
                    "happen; lower it (below 1 it is a share of the run) or raise steps"
                )


def every_steps(value: float, total: int, path: str) -> int:
    """An interval in steps: values below 1 are fractions of the run, others steps. UserError unless > 0."""
    if not value > 0.0:
        raise UserError(f"'{path}' must be positive, got {value:g}")
    return max(1, round(value * total)) if value < 1.0 else int(value)


def never_read(recipe: Recipe) -> list[str]:
    """Paths the recipe sets, in components' sections, that nothing has read so far."""
    missing = []
    for choice in recipe.choices():
        hints = typed.hints(choice.config.__class__)  # type() would see the Tracked wrapper
        for key in hints:
            path = join(choice.path, key)
            if path in recipe.given and path not in recipe.reads:
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
        from threedgen.schedule import Schedule

        weight = typed.convert(Schedule, values.pop("weight", 1.0), join(path, "weight"))
    config = typed.build(_schema(cls, path), values, path)
    return Choice(name, cls, typed.Tracked(config, path, reads), path, weight)


def _with_prior(values: dict[str, Any], prior: str) -> dict[str, Any]:
    if not prior.strip():
        raise UserError("--prior is empty: name embedded, a pipeline folder or a hub id")
    chosen = {"name": "embedded"} if prior == "embedded" else {"path": prior}
    items = values.get("guidance") or []
    guides = [{**item, "prior": chosen} if _has_prior(item) else item for item in items]
    if guides == items and not any(_has_prior(item) for item in items):
        raise UserError("--prior: no guidance of this recipe has a prior")
    return {**values, "guidance": guides}


def _has_prior(item: Any) -> bool:
    name = item.get("name") if isinstance(item, Mapping) else None
    if not isinstance(name, str):
        return False
    return "prior" in typed.hints(_schema(plugins.find("guidance", name), "guidance"))


def _schema(cls: type[Any], path: str) -> type[Any]:
    """The Config dataclass of a component's class, or the class itself where it is one."""
    schema = getattr(cls, "Config", cls)
    if not dataclasses.is_dataclass(schema):
        raise UserError(
            f"'{path}': {cls.__module__}:{cls.__name__} has no Config dataclass, so a recipe cannot name it"
        )
    return schema  # type: ignore[return-value]


def _section(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = values.get(key, {})
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise UserError(f"'{key}' must be a section with keys, got {section!r}")
    return section


def _apply_override(values: dict[str, Any], key: str, raw: str) -> dict[str, Any]:
    keys = key.split(".")
    hint = _hint_at(values, keys)
    value = raw if typed.wants_text(hint) else parse_value(key, raw)
    return merge(values, nested(values, keys, value, key))


def _hint_at(values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The schema's type at a dotted key, Any where the schema is free. UserError for an unknown key."""
    head, rest = keys[0], list(keys[1:])
    if head in SCALARS:
        return SCALARS[head] if not rest else Any
    if head not in FAMILIES and head not in FIXED:
        raise UserError(typed.unknown_key("", head, [*SCALARS, *FAMILIES, *FIXED]))
    if not rest:
        return Any
    path = head
    if head == "guidance":
        items = values.get("guidance") or []
        if not rest[0].isdigit() or int(rest[0]) >= len(items) or len(rest) == 1:
            return Any
        section, path = items[int(rest[0])], f"guidance.{rest[0]}"
        rest = rest[1:]
        if rest[0] == "weight":
            return Any
    else:
        section = values.get(head) or {}
    if head in FAMILIES and rest[0] == "name":
        return str
    if head in FAMILIES:
        name = section.get("name") if isinstance(section, Mapping) else None
        if not isinstance(name, str):
            return Any
        cls = plugins.find(FAMILIES[head], name)
    else:
        cls = plugins.load(FIXED[head])
    return _descend(_schema(cls, path), rest, path, ["name", "weight"] if head == "guidance" else [])


def _descend(hint: Any, keys: Sequence[str], path: str, extra: Sequence[str]) -> Any:
    for key in keys:
        if not (dataclasses.is_dataclass(hint) and isinstance(hint, type)):
            return Any
        known = typed.hints(hint)
        if key not in known:
            raise UserError(typed.unknown_key(path, key, [*known, *extra]))
        hint, path = known[key], join(path, key)
    return hint


def _paths(values: Any, path: str = "") -> Iterator[str]:
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for key, value in items:
        here = join(path, str(key))
        yield here
        if isinstance(value, Mapping | list):
            yield from _paths(value, here)


def _leaves(values: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping | list):
        items = values.items() if isinstance(values, Mapping) else enumerate(values)
        for key, value in items:
            yield from _leaves(value, join(path, str(key)))
    else:
        yield path, values
