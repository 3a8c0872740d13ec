"""Every setting of a recipe in words: its path, value, type, range and unit, and what it does.

The sentences are those of the docstrings of the Configs (see threedgen.recipes.documented).
"""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from threedgen.core import plugins
from threedgen.core.schedule import Schedule
from threedgen.core.settings import Bound, bound_of, finite
from threedgen.recipes import typed
from threedgen.recipes.documented import Description, descriptions
from threedgen.recipes.recipe import ABOUT, WHOLE_RUN, Choice, Recipe
from threedgen.recipes.schema import FAMILIES, SCALARS, RunSettings, schema_of
from threedgen.recipes.typed import join

_WIDTH = 100  # columns
_INDENT = "    "
_NAMES = {
    "representation": "The kind of asset that is optimised.",
    "renderer": "The renderer of the representation. auto takes the one that the representation declares.",
    "cameras": "The sampler of the training views.",
    "guidance": "What drives the optimisation: a loss on the renders.",
}
_WEIGHT = "Factor of this guidance's loss. A guidance is not computed while its weight is 0."


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe.

    path: with dots. value: plain, as YAML would hold it; None for a section, whose settings follow. kind: its
    type and range in words. unit: empty if it has none. text: sentences; empty if its docstring has none.
    section: whether it is a section with settings of its own.
    """

    path: str
    value: Any
    kind: str
    unit: str
    text: str
    section: bool = False


def recipe_settings(recipe: Recipe) -> list[Setting]:
    """All settings of a recipe in the order of its sections; the stages after what concerns the whole run."""
    texts = descriptions(RunSettings)
    staged = bool(recipe.stages)
    found = [
        _leaf(key, recipe.resolved[key], SCALARS[key], texts[key])
        for key in SCALARS
        if key not in ABOUT and (key in WHOLE_RUN or not staged)
    ]
    for index, stage in enumerate(recipe.all_stages):
        if staged:
            path = f"stages.{index}.steps"
            found.append(_leaf(path, stage.steps, SCALARS["steps"], texts["steps"]))
        for choice in stage.choices():
            if not staged or choice.name not in WHOLE_RUN:
                found += _component(choice)
    shared = [choice for key, choice in recipe.fixed.items() if staged and key in WHOLE_RUN]
    for choice in shared:
        found += config_settings(choice.config, choice.name)
    return found


def config_settings(config: Any, path: str = "") -> list[Setting]:
    """All settings of a Config and of the Configs in it, under `path`."""
    return list(_of_config(config, path))


def printed(settings: Sequence[Setting]) -> str:
    """The settings as text of at most 100 columns, with a blank line between components."""
    components = itertools.groupby(settings, _component_of)
    return "\n\n".join("\n".join(map(_paragraph, group)) for _, group in components)


def _paragraph(setting: Setting) -> str:
    unit = f" ({setting.unit})" if setting.unit else ""
    if setting.section:
        heading, text = f"{setting.path}{unit}:", setting.text
    else:
        heading = f"{setting.path} = {_yaml(setting.value)}{unit}"
        text = f"{setting.kind[:1].upper()}{setting.kind[1:]}. {setting.text}"
    return "\n".join([*_wrapped(heading, ""), *_wrapped(text, _INDENT)])


def _component(choice: Choice) -> Iterator[Setting]:
    """A component's name, the weight of a guidance, and the settings of its Config."""
    family = next((key for key in choice.path.split(".") if key in FAMILIES), None)
    if family is not None:
        yield Setting(f"{choice.path}.name", choice.name, _names(family), "", _NAMES[family])
    if family == "guidance":
        yield _leaf(f"{choice.path}.weight", typed.plain(choice.weight), Schedule, Description("", _WEIGHT))
    yield from _of_config(choice.config, choice.path)


def _of_config(config: Any, path: str) -> Iterator[Setting]:
    texts, hints = descriptions(type(config)), typed.hints(type(config))
    inner = {family: key for family, key in plugins.INNER.items() if {family, key} <= hints.keys()}
    chosen = {key: plugins.find(family, getattr(config, family)) for family, key in inner.items()}
    for name, hint in hints.items():
        value, here = getattr(config, name), join(path, name)
        text = texts.get(name, Description("", ""))
        if name in chosen:  # the settings of the class that another field names, with their defaults
            value = typed.build(schema_of(chosen[name], here), value, here)
        if dataclasses.is_dataclass(value) and not _is_schedule(hint):
            yield Setting(here, None, typed.noun(type(value)), text.unit, text.text, section=True)
            yield from _of_config(value, here)
        elif name in inner:
            yield Setting(here, value, _names(name), text.unit, text.text)
        else:
            yield _leaf(here, typed.plain(value), hint, text)


def _names(family: str) -> str:
    return f"one of {', '.join(plugins.names(family))}, or package.module:Class"


def _leaf(path: str, value: Any, hint: Any, text: Description) -> Setting:
    return Setting(path, value, _kind(hint), text.unit, text.text)


def _kind(hint: Any) -> str:
    """The type and the range of a setting in words."""
    noun, bound = typed.noun(hint), bound_of(hint)
    if bound is None or bound == finite:
        return noun
    several = _is_schedule(hint) or noun.startswith("a list")
    first, *others = noun.split(" or null")
    return f"{first}, {'each number ' if several else ''}{bound}" + (", or null" if others else "")


def _is_schedule(hint: Any) -> bool:
    marks = getattr(hint, "__metadata__", ())
    if any(isinstance(mark, str) and mark.endswith("schedule") for mark in marks):
        return True
    return any(_is_schedule(inner) for inner in typing.get_args(hint) if not isinstance(inner, Bound))


def _component_of(setting: Setting) -> list[str]:
    """The path of the component that a setting belongs to; that of its stage if it is in none."""
    keys = setting.path.split(".") if setting.section else setting.path.split(".")[:-1]
    start = 2 if keys[:1] == ["stages"] else 0
    return keys[: start + (2 if keys[start : start + 1] == ["guidance"] else 1)]


def _yaml(value: Any) -> str:
    """A plain value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _wrapped(text: str, first: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=_INDENT, break_long_words=False,
        break_on_hyphens=False
    )  # fmt: skip
