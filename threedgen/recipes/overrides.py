"""`key=value` settings of the command line, laid over the values of a recipe, with the types of its schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.recipes import stages, typed
from threedgen.recipes.layers import merge, nested, parse_value
from threedgen.recipes.recipe import WHOLE_RUN
from threedgen.recipes.schema import FAMILIES, FIXED, KEYS, NAMED, SCALARS, renderer_of, schema_of, section_of
from threedgen.recipes.typed import join


def apply_override(values: dict[str, Any], key: str, raw: str) -> dict[str, Any]:
    """`values` with the setting `key=raw`. Raises UserError for an unknown key or a value that is not YAML."""
    keys = key.split(".")
    place = int(keys[1]) if keys[0] == "stages" and len(keys) > 2 and keys[1].isdigit() else -1
    if 0 <= place < len(values.get("stages") or ()):
        # If the stage shares a list with others, it gets its own copy.
        section, own = stages.merged(values)[place], list(values["stages"])
        changed = merge(section, _override(section, keys[2:], raw, key))
        own[place] = {**own[place], keys[2]: changed[keys[2]]}
        return {**values, "stages": own}
    if not values.get("stages") or keys[0] in ("stages", *WHOLE_RUN):
        return merge(values, _override(values, keys, raw, key))
    if keys == ["steps"]:
        return stages.with_steps(values, typed.convert(int, parse_value(key, raw), key))
    # A setting of a section holds for every stage, also if a stage has its own section. The representation is an
    # exception: if a later stage has its own, it is there to continue the end of the first.
    own = []
    for index, (stage, section) in enumerate(zip(values["stages"], stages.merged(values), strict=True)):
        if index > 0 and keys[0] == "representation" and "representation" in stage:
            own.append(stage)
        else:
            changed = merge(section, _override(section, keys, raw, key))
            own.append({**stage, keys[0]: changed[keys[0]]})
    return {**values, "stages": own}


def _override(values: Mapping[str, Any], keys: list[str], raw: str, key: str) -> dict[str, Any]:
    """The layer with which a `key=value` setting is laid over `values`."""
    if keys[-1] in FAMILIES and keys[-1] != "guidance" and raw.lstrip()[:1] != "{":
        keys, key = [*keys, "name"], f"{key}.name"  # representation=triplane
    hint = _hint_at(values, keys)
    value = raw if typed.wants_text(hint) else parse_value(key, raw)
    return nested(values, keys, value, key)


def _hint_at(values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The schema's type at a dotted key, Any if the schema allows anything. Raises UserError for an unknown key."""
    head, rest = keys[0], list(keys[1:])
    if head == "stages":
        sections = stages.merged(values)
        inside = len(rest) > 1 and rest[0].isdigit() and int(rest[0]) < len(sections)
        return _hint_at(sections[int(rest[0])], rest[1:]) if inside else Any
    if head in SCALARS:
        return SCALARS[head] if not rest else Any
    if head not in FAMILIES and head not in FIXED:
        raise UserError(typed.unknown_key("", head, list(KEYS)))
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
        section = section_of(values, head)
    if head in FAMILIES and rest[0] == "name":
        return str
    if head in FAMILIES:
        name = section.get("name", NAMED.get(head)) if isinstance(section, Mapping) else None
        if name == "auto" and head == "renderer":
            chosen = section_of(values, "representation").get("name")
            if isinstance(chosen, str):
                name = renderer_of(chosen)
        if not isinstance(name, str):
            return Any
        cls = plugins.find(head, name)
    else:
        cls = plugins.load(FIXED[head])
    return _descend(schema_of(cls, path), rest, path, ["name", "weight"] if head == "guidance" else [])


def _descend(hint: Any, keys: Sequence[str], path: str, extra: Sequence[str]) -> Any:
    for key in keys:
        if not (dataclasses.is_dataclass(hint) and isinstance(hint, type)):
            return Any
        known = typed.hints(hint)
        if key not in known:
            raise UserError(typed.unknown_key(path, key, [*known, *extra]))
        hint, path = known[key], join(path, key)
    return hint
