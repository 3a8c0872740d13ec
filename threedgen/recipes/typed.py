"""Plain YAML values to the frozen Config dataclasses of components, and back.

Only this module decides whether a value fits a type hint, and only it puts the path of a setting before a message.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from threedgen.core.errors import UserError
from threedgen.core.plugins import did_you_mean
from threedgen.core.schedule import Milestones, Ramp, parse_range, parse_schedule
from threedgen.core.settings import Bound, SettingError, check_bound

_NOUNS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
    Any: "any value",
    object: "any value",
}
_PLURALS = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts", Path: "paths"}
_MARKED = {
    "schedule": "a number or a schedule",
    "range schedule": "a range [low, high] or a schedule of ranges",
}


def hints(cls: type) -> dict[str, Any]:
    """The resolved type of each init field of a dataclass, with bounds and the markers of schedules."""
    resolved = typing.get_type_hints(cls, include_extras=True)
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls) if field.init}


def build(cls: type, values: Mapping[str, Any], path: str) -> Any:
    """An instance of the dataclass `cls` from `values`, which are the section at `path`.

    Raises UserError, with the path, for an unknown or missing key, a wrong type, and whatever `cls` refuses.
    """
    known = hints(cls)
    for key in values:
        if key not in known:
            raise UserError(unknown_key(path, str(key), list(known)))
    arguments = {key: convert(known[key], value, join(path, key)) for key, value in values.items()}
    for field in dataclasses.fields(cls):
        absent = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and absent and field.name not in arguments:
            raise UserError(f"'{join(path, field.name)}' is missing: it needs {noun(known[field.name])}")
    try:
        return cls(**arguments)
    except SettingError as error:
        raise SettingError(join(path, error.name), error.problem) from error
    except UserError as error:
        raise UserError(f"{path}: {error}" if path else str(error)) from error


def convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint` wants it. Raises UserError, with the path, if it does not fit or is out of
    bounds."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin is Annotated:
        return _marked(arguments, value, path)
    if origin in (Union, types.UnionType):
        return _union(hint, arguments, value, path)
    if origin is Literal:
        return _choice(list(arguments), value, path)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(_choice([member.value for member in hint], value, path))
    if origin in (list, tuple) or hint in (list, tuple) or (origin is not None and _is(origin, Sequence)):
        return _sequence(hint, origin, arguments, value, path)
    if hint in (dict, Mapping) or (origin is not None and _is(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, path)
        inner = arguments[1] if len(arguments) == 2 else Any
        return {key: convert(inner, item, join(path, str(key))) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"'{path}' must be a section with keys, got {value!r}")
        return build(hint, value, path)
    return _scalar(hint, value, path)


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise UserError(f"'{path}' is too large a number")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if hint is int and isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise UserError(f"'{path}' is too large: whole numbers are below 2^63, about 9e18")
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is None or hint is type(None):
        if value is None:
            return None
    elif (
        isinstance(hint, type)
        and isinstance(value, hint)
        and not (isinstance(value, bool) and hint is not bool)
    ):
        return value
    quote = ": put it in quotes" if hint is str and isinstance(value, int | float) else ""
    raise UserError(f"{_wrong(hint, value, path)}{quote}")


def _marked(arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    """A schedule, or the annotated type; within the bound if there is one."""
    inner, *marks = arguments
    try:
        if "schedule" in marks:
            found: Any = parse_schedule(value)
        elif "range schedule" in marks:
            found = parse_range(value)
        else:
            found = None
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    found = convert(inner, value, path) if found is None else found
    for mark in marks:
        if isinstance(mark, Bound):
            check_bound(found, mark, path)
    return found


def _union(hint: Any, members: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return convert(members[0], value, path)
    for member in members:
        # A section or a schedule that nearly fits gets a message of its own, not "none of these types".
        named = dataclasses.is_dataclass(member) or typing.get_origin(member) is Annotated
        if named and isinstance(value, Mapping):
            return convert(member, value, path)
    for member in members:
        if isinstance(member, type) and type(value) is member:
            return value
    for member in members:
        try:
            return convert(member, value, path)
        except UserError:
            continue
    raise _wrong(hint, value, path)


def _choice(allowed: list[Any], value: Any, path: str) -> Any:
    if value in allowed and not (isinstance(value, bool) and True not in allowed and False not in allowed):
        return value
    near = did_you_mean(str(value), [str(item) for item in allowed])
    raise UserError(f"'{path}' cannot be {value!r}{near or ':'} use one of {', '.join(map(str, allowed))}")


def _sequence(hint: Any, origin: Any, arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(hint, value, path)
    fixed = (origin or hint) is tuple and arguments and arguments[-1] is not Ellipsis
    if fixed and len(value) != len(arguments):
        raise UserError(f"'{path}' needs {len(arguments)} values, got {len(value)}: {list(value)!r}")
    inner = arguments if fixed else [arguments[0] if arguments else Any] * len(value)
    items = [
        convert(t, item, join(path, str(i))) for i, (t, item) in enumerate(zip(inner, value, strict=True))
    ]
    return items if (origin or hint) is list else tuple(items)


def _is(origin: Any, kind: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, kind)


def _wrong(hint: Any, value: Any, path: str) -> UserError:
    return UserError(f"'{path}' must be {noun(hint)}, got {value!r}")


def noun(hint: Any) -> str:
    """The values that a type hint allows, in words; without its bound."""
    if hint in _NOUNS:
        return _NOUNS[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        marked = [_MARKED[mark] for mark in arguments[1:] if isinstance(mark, str) and mark in _MARKED]
        return marked[0] if marked else noun(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(noun(argument) for argument in arguments))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return f"one of {', '.join(str(member.value) for member in hint)}"
    if origin in (list, tuple) or hint in (list, tuple) or _is(origin, Sequence):
        return f"a list{_items(origin, arguments)}"
    if hint in (dict, Mapping) or _is(origin, Mapping) or dataclasses.is_dataclass(hint):
        return "a section with keys"
    return getattr(hint, "__name__", str(hint))


def _items(origin: Any, arguments: tuple[Any, ...]) -> str:
    """What is in a list, as it follows "a list"; empty if the type does not say it or if its items differ."""
    fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
    inner = arguments[0] if arguments and (not fixed or len(set(arguments)) == 1) else None
    while typing.get_origin(inner) is Annotated:
        inner = typing.get_args(inner)[0]
    count = f"{len(arguments)} " if fixed else ""
    if inner in _PLURALS:
        return f" of {count}{_PLURALS[inner]}"
    if dataclasses.is_dataclass(inner):
        return f" of {count}sections"
    kind, items = typing.get_origin(inner), typing.get_args(inner)
    return f" of {count}lists{_items(kind, items)}" if kind in (list, tuple) or _is(kind, Sequence) else ""


def wants_text(hint: Any) -> bool:
    """Whether a value on the command line is taken for this type as it is written (so that '007' stays '007')."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        scalars = [argument for argument in arguments if argument is not type(None)]
        return bool(scalars) and all(wants_text(argument) for argument in scalars)
    if origin is Literal:
        return all(isinstance(argument, str) for argument in arguments)
    if origin is Annotated:
        return wants_text(arguments[0])
    return hint is str or hint is Path or (isinstance(hint, type) and issubclass(hint, enum.Enum))


def plain(value: Any) -> Any:
    """A Config (or any value in it) as dicts, lists and scalars that YAML can hold. `build` reads it back."""
    if isinstance(value, Ramp):
        return {
            "from": value.start,
            "to": value.stop,
            "kind": value.kind,
            "begin": value.begin,
            "end": value.end,
        }
    if isinstance(value, Milestones):
        return dict(value.points)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _plain_range(value) or [plain(item) for item in value]
    return value


def _plain_range(value: Sequence[Any]) -> dict[Any, Any] | None:
    """Two schedules of one kind as one schedule of pairs, as recipes write it; None for anything else."""
    if len(value) == 2 and all(isinstance(side, Ramp | Milestones) for side in value):
        low, high = (plain(side) for side in value)
        paired = {"from", "to"} if isinstance(value[0], Ramp) else set(low)
        if low.keys() == high.keys() and all(low[key] == high[key] for key in low if key not in paired):
            return {key: [low[key], high[key]] if key in paired else low[key] for key in low}
    return None


def join(path: str, key: str) -> str:
    """The path of a key in the section at `path`; "" is the recipe itself."""
    return f"{path}.{key}" if path else key


def unknown_key(path: str, key: str, known: list[str]) -> str:
    """The message about a key that is not in the schema, with its path and the nearest known key."""
    import difflib

    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"unknown key '{join(path, key)}', did you mean '{join(path, near[0])}'?"
    where = f" in '{path}'" if path else ""
    return f"unknown key '{join(path, key)}'; known{where}: {', '.join(known) or 'none'}"


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values at the ends of nested mappings and lists, with their paths."""
    if isinstance(values, Mapping | list):
        items = values.items() if isinstance(values, Mapping) else enumerate(values)
        for key, value in items:
            yield from leaves(value, join(path, str(key)))
    else:
        yield path, values
