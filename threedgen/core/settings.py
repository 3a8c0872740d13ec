"""Settings: frozen dataclasses whose fields carry the range that they must lie in.

    @settings
    class Config:
        count: Annotated[int, at_least(1)] = 4096
        share: Annotated[float, between(0.0, 1.0)] = 0.5
        weight: Annotated[Schedule, at_least(0.0)] = 1.0

Every number must be finite, too. A bound on a sequence, or on a schedule, is one on each of its numbers; None is
left alone. An object out of bounds cannot be made: the complaint names the field, and whoever reads it from a
recipe puts the path before the name (see `threedgen.recipes.typed`). What no single field says, such as a < b, is
checked in `__post_init__`, which raises SettingError.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, dataclass_transform

from threedgen.core.errors import UserError
from threedgen.core.schedule import Milestones, Ramp, parse_range, parse_schedule

_Class = TypeVar("_Class")


@dataclass(frozen=True)
class Bound:
    """An interval of numbers. open_low, open_high: whether the end itself is out."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        """The interval in words, after "must be"."""
        low, high = f"{self.low:g}", f"{self.high:g}"
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
    return Bound(low=low)


def above(low: float) -> Bound:
    return Bound(low=low, open_low=True)


def at_most(high: float) -> Bound:
    return Bound(high=high)


def between(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Bound:
    """Both ends are in unless they are open."""
    return Bound(low, high, open_low, open_high)


finite = Bound()


class SettingError(UserError):
    """A setting that cannot be so. name: of the field, below the object that complains. problem: what follows the
    name in the message, such as "is 0; it must be at least 1"."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")
        self.name, self.problem = name, problem


@dataclass_transform(frozen_default=True)
def settings(cls: type[_Class]) -> type[_Class]:
    """`dataclass(frozen=True)` whose objects keep the bounds of their fields; `__post_init__` runs after that.

    Raises SettingError when an object is made.
    """
    own: Callable[[Any], None] | None = cls.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        check_bounds(self, cls)
        if own is not None:
            own(self)
        else:
            inherited = getattr(super(cls, self), "__post_init__", None)
            if inherited is not None:
                inherited()

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclass(frozen=True)(cls)


def check_bounds(value: Any, cls: type | None = None) -> None:
    """SettingError for the first field of a dataclass object that is out of its bounds. cls: the class whose own
    fields are looked at; None: the object's."""
    for name, bound in bounds_of(type(value) if cls is None else cls).items():
        check_bound(getattr(value, name), bound, name)


def check_bound(value: Any, bound: Bound, name: str) -> None:
    """SettingError, which calls the setting `name`, unless every number of a value is within the bound."""
    for number in numbers(value):
        if number not in bound:
            shown = f"{number:g}" if isinstance(number, float) else f"{number}"
            alone = isinstance(value, int | float)
            raise SettingError(
                name,
                f"is {shown}; it must be {bound}"
                if alone
                else f"holds {shown}; every number of it must be {bound}",
            )


def numbers(value: Any) -> Iterator[float]:
    """The numbers of a setting: itself, those of a sequence or a schedule; none of anything else."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Ramp):
        yield from (value.start, value.stop)
    elif isinstance(value, Milestones):
        yield from (number for _, number in value.points)
    elif isinstance(value, Mapping):
        try:
            yield from numbers(parse_schedule(value))
        except UserError:
            yield from numbers(parse_range(value))
    elif isinstance(value, Sequence):
        for item in value:
            yield from numbers(item)


@cache
def bounds_of(cls: type) -> dict[str, Bound]:
    """The bound of each field of a dataclass that has one."""
    found = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        bound = bound_of(hint)
        if bound is not None:
            found[name] = bound
    fields = {item.name for item in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set(found)
    return {name: bound for name, bound in found.items() if name in fields}


def bound_of(hint: Any) -> Bound | None:
    """The bound that a type hint carries, also inside a union with None."""
    for item in getattr(hint, "__metadata__", ()):
        if isinstance(item, Bound):
            return item
    for inner in typing.get_args(hint):
        found = bound_of(inner) if getattr(inner, "__metadata__", ()) else None
        if found is not None:
            return found
    return None
