"""Settings: frozen dataclasses whose fields carry the range that they must lie in.

    @settings
    class Config:
        count: Annotated[int, at_least(1)] = 4096
        share: Annotated[float, between(0.0, 1.0)] = 0.5
        weight: Annotated[Schedule, at_least(0.0)] = 1.0

A number with a bound must be finite, too. A bound on a sequence or on a schedule holds for each of its numbers;
None is not checked. An object out of bounds cannot be made: SettingError names the field, and the reader of a
recipe puts the path before the name (see `threedgen.recipes.typed`). A field with a Literal type must be one of
its values. A relation of several fields, such as a < b, is checked in `__post_init__`, which raises
SettingError.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, dataclass_transform

from threedgen.core.errors import UserError
from threedgen.core.schedule import Milestones, Ramp, corner_values, parse_range

_Class = TypeVar("_Class")


@dataclass(frozen=True)
class Bound:
    """An interval of finite numbers. open_low, open_high: whether the end itself is excluded."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return (
            above and below and abs(value) <= sys.float_info.max
        )  # a whole number may be too large for a float

    def __str__(self) -> str:
        """The interval in words, as they follow "must be"."""
        low, high = shown(self.low), shown(self.high)
        if math.isinf(self.low) and math.isinf(self.high):
            return "a finite number"
        if math.isinf(self.high):
            return f"greater than {low}" if self.open_low else f"at least {low}"
        if math.isinf(self.low):
            return f"less than {high}" if self.open_high else f"at most {high}"
        if not self.open_low and not self.open_high:
            return f"between {low} and {high}"
        first = f"greater than {low}" if self.open_low else f"at least {low}"
        return f"{first} and {'less than' if self.open_high else 'at most'} {high}"


def at_least(low: float) -> Bound:
    """Numbers of `low` or more."""
    return Bound(low=low)


def above(low: float) -> Bound:
    """Numbers greater than `low`."""
    return Bound(low=low, open_low=True)


def at_most(high: float) -> Bound:
    """Numbers of `high` or less."""
    return Bound(high=high)


def between(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Bound:
    """Numbers from `low` to `high`, with both ends unless they are open."""
    return Bound(low, high, open_low, open_high)


finite = Bound()
_DIGITS = 12  # that a message shows of a number too large for a float


class SettingError(UserError):
    """A setting with a value that it cannot have.

    name: the field, relative to the object that raises it. problem: the rest of the message, such as "is 0; it must
    be at least 1".
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")
        self.name, self.problem = name, problem


@dataclass_transform(frozen_default=True)
def settings(cls: type[_Class]) -> type[_Class]:
    """`dataclass(frozen=True)` that checks the bounds of its fields when an object is made, before `__post_init__`.

    Making an object raises SettingError if a field is out of its bounds, or is none of the values of its Literal.
    """
    own: Callable[[Any], None] | None = cls.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        check_bounds(self)
        if own is not None:
            own(self)
        else:
            inherited = getattr(super(cls, self), "__post_init__", None)
            if inherited is not None:
                inherited()

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclass(frozen=True)(cls)


def check_bounds(value: Any) -> None:
    """Raises SettingError for the first field of a dataclass object that is out of its bounds, or none of the
    values of its Literal."""
    for name, bound in bounds_of(type(value)).items():
        check_bound(getattr(value, name), bound, name)
    for name, choices in choices_of(type(value)).items():
        if getattr(value, name) not in choices:
            known = ", ".join(map(str, choices))
            raise SettingError(name, f"is {getattr(value, name)!r}; it must be one of {known}")


def check_bound(value: Any, bound: Bound, name: str) -> None:
    """Raises SettingError, which calls the setting `name`, unless every number of a value is within the bound."""
    for number in numbers(value):
        if number not in bound:
            if isinstance(value, int | float):
                raise SettingError(name, f"is {shown(number)}; it must be {bound}")
            raise SettingError(name, f"holds {shown(number)}; every number of it must be {bound}")


def check_ordered(value: Sequence[float], name: str) -> None:
    """Raises SettingError, which calls the setting `name`, for a range [low, high] whose ends are in the wrong
    order."""
    if not value[0] <= value[1]:
        raise SettingError(
            name, f"is [{shown(value[0])}, {shown(value[1])}]; it must be [low, high] in this order"
        )


def shown(number: float) -> str:
    """A number as messages print it: without zeros behind the point, and in short if that loses no digits."""
    if isinstance(number, float) and number.is_integer() and abs(number) < 1e9:
        return f"{number:.0f}"
    if abs(number) > sys.float_info.max:
        return f"{str(number)[:_DIGITS]}..." if isinstance(number, int) else str(number)
    short = f"{number:g}"
    return short if isinstance(number, float) and float(short) == number else str(number)


def numbers(value: Any) -> Iterator[float]:
    """The numbers of a setting: the setting itself, or those of a sequence or a schedule; else none."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Ramp | Milestones):
        yield from corner_values(value)
    elif isinstance(value, Mapping):
        try:
            yield from corner_values(value)
        except UserError:  # then it is a schedule of pairs
            yield from numbers(parse_range(value))
    elif isinstance(value, Sequence):
        for item in value:
            yield from numbers(item)


@cache
def bounds_of(cls: type) -> dict[str, Bound]:
    """The bounds of the fields of a dataclass by name; fields without one are left out."""
    bounds = {name: bound_of(hint) for name, hint in _hints(cls).items()}
    return {name: bound for name, bound in bounds.items() if bound is not None}


@cache
def choices_of(cls: type) -> dict[str, tuple[Any, ...]]:
    """The values that the fields with a Literal type may have, by name; None, too, in a union with None."""
    choices = {}
    for name, hint in _hints(cls).items():
        members = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
        literal = [member for member in members if typing.get_origin(member) is Literal]
        others = [member for member in members if member not in literal and member is not type(None)]
        if literal and not others:
            none = () if len(members) == len(literal) else (None,)
            choices[name] = (*(value for member in literal for value in typing.get_args(member)), *none)
    return choices


def _hints(cls: type) -> dict[str, Any]:
    """The types of the fields of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def bound_of(hint: Any) -> Bound | None:
    """The bound in a type hint, also inside a union with None; None if there is none."""
    for item in getattr(hint, "__metadata__", ()):
        if isinstance(item, Bound):
            return item
    for inner in typing.get_args(hint):
        found = bound_of(inner) if getattr(inner, "__metadata__", ()) else None
        if found is not None:
            return found
    return None
