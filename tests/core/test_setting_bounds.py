"""Settings: bounds that are open or closed, what they apply to, and the one complaint about a number outside."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threedgen.core.errors import UserError
from threedgen.core.schedule import RangeSchedule, Schedule, parse_range, parse_schedule
from threedgen.core.settings import (
    Bound,
    SettingError,
    above,
    at_least,
    at_most,
    between,
    bound_of,
    bounds_of,
    check_ordered,
    finite,
    settings,
)

NAN, INFINITE = math.nan, math.inf
OPEN = between(0.0, 1.0, open_low=True, open_high=True)


@settings
class Example:
    count: Annotated[int, at_least(1)] = 4
    share: Annotated[float, between(0.0, 1.0, open_high=True)] = 0.5
    weight: Annotated[Schedule, at_least(0.0)] = 1.0
    t: Annotated[RangeSchedule, between(0.0, 1.0)] = (0.02, 0.98)
    pair: Annotated[tuple[float, float], finite] = (0.0, 1.0)
    scale: Annotated[Schedule | None, above(0.0)] = None
    size: Annotated[int, at_most(8)] | None = None
    free: float = 0.0
    kind: Literal["plain", "noisy"] = "plain"
    maybe: Literal[1, 2] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("bound", "inside", "outside", "words"),
    [
        (at_least(1), [1, 1.5, 10**9], [0, -3, 0.999], "at least 1"),
        (above(0.0), [1e-300, 5], [0, 0.0, -1.0], "greater than 0"),
        (at_most(2.5), [2.5, -7], [2.6, 3], "at most 2.5"),
        (between(-90.0, 90.0), [-90, 0, 90.0], [-90.1, 91], "between -90 and 90"),
        (OPEN, [0.5, 1e-12], [0, 1, -1], "greater than 0 and less than 1"),
        (between(0.0, 1.0, open_high=True), [0.0, 0.999], [1.0, -0.1], "at least 0 and less than 1"),
        (between(0.0, 1.0, open_low=True), [1.0], [0.0], "greater than 0 and at most 1"),
        (between(0, 2**63 - 1), [0, 2**63 - 1], [-1, 2**63], "between 0 and 9223372036854775807"),
        (Bound(high=1.0, open_high=True), [0.9, -5], [1.0], "less than 1"),
        (between(0.0, 1e6), [1e6], [1000001], "between 0 and 1000000"),
        (at_most(1e-15), [0.0], [1e-14], "at most 1e-15"),
        (finite, [-1e300, 0, 7], [], "a finite number"),
    ],
)
def test_bounds(bound: Bound, inside: list[float], outside: list[float], words: str):
    assert all(number in bound for number in inside)
    assert not any(number in bound for number in [*outside, NAN, INFINITE, -INFINITE])
    assert str(bound) == words


@given(st.floats())
def test_open_and_closed_bounds_differ_at_their_ends_only(number: float):
    closed = between(0.0, 1.0)
    assert (number in OPEN) == (number in closed and number not in (0.0, 1.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"share": 1.0}, "share is 1; it must be at least 0 and less than 1"),
        ({"share": -0.00001234567}, "share is -1.234567e-05; it must be at least 0 and less than 1"),
        ({"share": 1.0000000001}, "share is 1.0000000001; it must be at least 0 and less than 1"),
        ({"share": NAN}, "share is nan; it must be at least 0 and less than 1"),
        ({"count": INFINITE}, "count is inf; it must be at least 1"),
        ({"weight": -1}, "weight is -1; it must be at least 0"),
        ({"weight": {"from": 1.0, "to": -2}}, "weight holds -2; every number of it must be at least 0"),
        ({"weight": {0: 1.0, 0.5: NAN}}, "weight holds nan; every number of it must be at least 0"),
        ({"weight": parse_schedule({0: 1.0, 0.5: -3})}, "weight holds -3; every number"),
        ({"t": (0.5, 1.5)}, "t holds 1.5; every number of it must be between 0 and 1"),
        ({"t": {"from": [0.0, 0.5], "to": [-1, 1]}}, "t holds -1; every number"),
        ({"t": parse_range({0: [0.1, 0.2], 0.5: [0.3, 4]})}, "t holds 4; every number"),
        ({"pair": (0.0, NAN)}, "pair holds nan; every number of it must be a finite number"),
        ({"scale": 0.0}, "scale is 0; it must be greater than 0"),
        ({"size": 9}, "size is 9; it must be at most 8"),
        ({"kind": "loud"}, "kind is 'loud'; it must be one of plain, noisy"),
        ({"kind": None}, "kind is None; it must be one of plain, noisy"),
        ({"maybe": 3}, "maybe is 3; it must be one of 1, 2, None"),
    ],
)
def test_what_a_setting_cannot_be_is_named_with_what_it_can_be(values: dict[str, Any], message: str):
    with pytest.raises(SettingError) as caught:
        Example(**values)
    assert str(caught.value).startswith(message)
    assert caught.value.name == next(iter(values))
    assert f"{caught.value.name} {caught.value.problem}" == str(caught.value)
    assert isinstance(caught.value, UserError)


def test_what_is_within_bounds_is_kept_as_it_is():
    ramp = parse_schedule({"from": 0.0, "to": 3.0})
    example = Example(count=1, share=0.0, weight=ramp, t=(0.0, 1.0), scale={0: 1.0, 0.5: 2.0}, size=8)
    assert example.weight is ramp
    assert (example.count, example.share, example.t, example.size) == (1, 0.0, (0.0, 1.0), 8)
    assert Example().scale is None
    assert (Example(kind="noisy").kind, Example(maybe=2).maybe) == ("noisy", 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(example, "count", 4)  # noqa: B010  a plain assignment is what pyright refuses


def test_fields_without_a_bound_are_not_checked():
    assert math.isnan(Example(free=NAN).free)
    assert Example(options={"count": -1}).options == {"count": -1}


def test_replacing_a_field_checks_it_again():
    with pytest.raises(SettingError, match="count is -1"):
        dataclasses.replace(Example(), count=-1)


def test_a_range_must_be_in_order():
    check_ordered((1.0, 1.0), "t")
    for pair, words in (((2.0, 1.5), "[2, 1.5]"), ((NAN, 1.0), "[nan, 1]")):
        with pytest.raises(SettingError) as caught:
            check_ordered(pair, "t")
        assert str(caught.value) == f"t is {words}; it must be [low, high] in this order"


@settings
class Base:
    low: Annotated[float, at_least(0.0)] = 0.0
    high: Annotated[float, at_least(0.0)] = 1.0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise SettingError("low", f"is {self.low}; it must be at most high")


@settings
class Inherited(Base):
    extra: Annotated[int, above(0)] = 1


@settings
class Narrower(Base):
    high: Annotated[float, between(0.0, 2.0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high == self.low:
            raise SettingError("high", "is low; it must be greater")


@dataclass(frozen=True)
class Undecorated(Base):
    extra: Annotated[int, above(0)] = 1


@pytest.mark.parametrize("cls", [Inherited, Undecorated])
def test_a_subclass_keeps_the_bounds_and_the_check_of_its_base(cls: Any):
    assert cls(low=0.5, extra=3).extra == 3
    for values, message in (
        ({"low": -1.0}, "low is -1; it must be at least 0"),
        ({"low": 2.0}, "low is 2.0; it must be at most high"),
        ({"extra": 0}, "extra is 0; it must be greater than 0"),
    ):
        with pytest.raises(SettingError, match=message):
            cls(**values)


def test_a_subclass_may_narrow_a_bound_and_add_a_check():
    for values, message in (
        ({"high": 3.0}, "high is 3; it must be between 0 and 2"),
        ({"low": 2.0}, "low is 2.0; it must be at most high"),
        ({"low": 1.0}, "high is low; it must be greater"),
    ):
        with pytest.raises(SettingError, match=message):
            Narrower(**values)
    assert Base(high=3.0).high == 3.0


def test_bounds_come_before_the_check_of_several_fields():
    with pytest.raises(SettingError, match="high is nan"):
        Base(low=1.0, high=NAN)


@pytest.mark.parametrize(
    ("hint", "bound"),
    [
        (Annotated[int, at_least(1)], at_least(1)),
        (Annotated[int, at_least(1)] | None, at_least(1)),  # pyright: ignore[reportOperatorIssue]
        (Annotated[int | None, at_least(1)], at_least(1)),
        (Annotated[Schedule, above(0.0)], above(0.0)),
        (Annotated[str, "a mark"], None),
        (Schedule, None),
        (int | None, None),
        (float, None),
    ],
)
def test_the_bound_of_a_type(hint: Any, bound: Bound | None):
    assert bound_of(hint) == bound


def test_the_bounds_of_a_class_are_those_of_its_fields_and_of_its_base():
    assert bounds_of(Inherited) == {"low": at_least(0.0), "high": at_least(0.0), "extra": above(0)}
    assert bounds_of(Narrower)["high"] == between(0.0, 2.0)
    assert set(bounds_of(Example)) == {"count", "share", "weight", "t", "pair", "scale", "size"}
