"""Plain YAML values to the frozen Config dataclasses of components, and back.

One place decides what fits a type hint, and one place puts the full path of the setting before a complaint.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from threedgen.core.errors import UserError
from threedgen.core.plugins import did_you_mean
from threedgen.core.schedule import Milestones, Ramp, parse_range, parse_schedule
from threedgen.core.settings import SettingError

_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def hints(cls: type) -> dict[str, Any]:
    """The resolved type of each init field of a dataclass, schedule markers kept."""
    resolved = typing.get_type_hints(cls, include_extras=True)
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls) if field.init}


def build(cls: type, values: Mapping[str, Any], path: str) -> Any:
    """An instance of dataclass `cls` from `values`. UserError: unknown key, wrong type, missing key."""
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
        raise UserError(f"{path}: {error}" if path and path not in str(error) else str(error)) from error


def convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint` wants it; UserError with the path when it does not fit."""
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
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
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
    try:
        if "schedule" in arguments[1:]:
            return parse_schedule(value)
        if "range schedule" in arguments[1:]:
            return parse_range(value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return convert(arguments[0], value, path)


def _union(hint: Any, members: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return convert(members[0], value, path)
    for member in members:
        # A section or a schedule that nearly fits deserves its own complaint, not "none of these".
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
    """What a type hint wants, in words."""
    if hint in _NOUNS:
        return _NOUNS[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        marks = [mark for mark in arguments[1:] if isinstance(mark, str)]
        return f"a {marks[0]}" if marks else noun(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(noun(argument) for argument in arguments))
    if origin in (list, tuple) or hint in (list, tuple) or _is(origin, Sequence):
        return "a list"
    if hint in (dict, Mapping) or _is(origin, Mapping) or dataclasses.is_dataclass(hint):
        return "a section with keys"
    return getattr(hint, "__name__", str(hint))


def wants_text(hint: Any) -> bool:
    """Whether a command-line value for this type is taken as it stands (so that '007' stays '007')."""
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
    """A Config (or any value in it) as dicts, lists and scalars that YAML can hold; `build` reads it back."""
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
    """A pair of like schedules as one schedule of pairs, the way people write it; None for anything else."""
    if len(value) == 2 and all(isinstance(side, Ramp | Milestones) for side in value):
        low, high = (plain(side) for side in value)
        paired = {"from", "to"} if isinstance(value[0], Ramp) else set(low)
        if low.keys() == high.keys() and all(low[key] == high[key] for key in low if key not in paired):
            return {key: [low[key], high[key]] if key in paired else low[key] for key in low}
    return None


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def unknown_key(path: str, key: str, known: list[str]) -> str:
    """The complaint about a key that is not in the schema: its path and the nearest known one's."""
    import difflib

    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"unknown key '{join(path, key)}', did you mean '{join(path, near[0])}'?"
    where = f" in '{path}'" if path else ""
    return f"unknown key '{join(path, key)}'; known{where}: {', '.join(known) or 'none'}"


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values at the ends of nested mappings and lists, and their paths."""
    if isinstance(values, Mapping | list):
        items = values.items() if isinstance(values, Mapping) else enumerate(values)
        for key, value in items:
            yield from leaves(value, join(path, str(key)))
    else:
        yield path, values
