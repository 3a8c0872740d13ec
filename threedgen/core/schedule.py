"""Values that change during a run: schedules for weights, t ranges, resolutions and learning rates.

A schedule in a recipe is one of

    30                                                       a constant
    {from: 1.0, to: 0.2, kind: cosine, begin: 0.0, end: 1.0}  a ramp; begin and end are fractions of the run
    {0: 32, 0.5: 64}                                          milestones: from this fraction on, this value

A range schedule is the same with pairs: [0.02, 0.98] or {from: [0.3, 0.98], to: [0.02, 0.4]}. The progress of a run
is 0 at the first step and 1 at the last. A schedule that could never take effect within the run (it begins at or
after the end, or ends before it begins) raises UserError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from threedgen.core.errors import UserError

KINDS = ("linear", "cosine", "constant")


def progress(step: int, total: int) -> float:
    """The progress of a run: 0 at step 0, 1 at step total - 1."""
    return min(step / max(total - 1, 1), 1.0)


@dataclass(frozen=True)
class Ramp:
    """From `start` to `stop` between the fractions `begin` and `end` of the run, constant before and after.

    kind: linear, cosine (half a period, so that it is flat at both ends), or constant (it jumps to `stop` at
    `end`). Raises UserError for a ramp that could never take effect within the run.
    """

    start: float
    stop: float
    kind: str = "linear"
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"unknown schedule kind '{self.kind}': use one of {', '.join(KINDS)}")
        if not 0.0 <= self.begin < 1.0 or not 0.0 < self.end <= 1.0:
            raise UserError(
                f"the schedule cannot take effect within the run: begin {self.begin:g} and end {self.end:g} "
                "must be fractions of the run, between 0 and 1"
            )
        if self.begin >= self.end:
            raise UserError(
                f"the schedule cannot take effect: it begins at {self.begin:g} but ends at {self.end:g} of the run"
            )

    def at(self, step: int, total: int) -> float:
        """The value at `step` of a run of `total` steps."""
        x = (progress(step, total) - self.begin) / (self.end - self.begin)
        x = min(max(x, 0.0), 1.0)
        if self.kind == "constant":
            return self.start if x < 1.0 else self.stop
        if self.kind == "cosine":
            x = 0.5 - 0.5 * math.cos(math.pi * x)
        return self.start + (self.stop - self.start) * x


@dataclass(frozen=True)
class Milestones:
    """A piecewise constant schedule.

    points: (fraction of the run, value) in rising order, the first at 0. Raises UserError for other points.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        fractions = [fraction for fraction, _ in self.points]
        if not fractions or fractions[0] != 0.0:
            raise UserError("milestones need a value from the start: add a milestone 0")
        late = [fraction for fraction in fractions if not 0.0 <= fraction < 1.0]
        if late:
            raise UserError(
                f"the milestone at {late[0]:g} cannot take effect: milestones are fractions of the run, below 1"
            )

    def at(self, step: int, total: int) -> float:
        """The value at `step` of a run of `total` steps."""
        done = progress(step, total)
        return [value for fraction, value in self.points if fraction <= done + 1e-9][-1]


# The types that a Config declares for a scheduled number, and for a scheduled pair (low, high). recipes/typed.py
# recognises the marker and gives the component a parsed value; value_at and range_at take unparsed ones, too.
Schedule = Annotated[float | Ramp | Milestones | Mapping[Any, Any], "schedule"]
RangeSchedule = Annotated[Sequence[float] | tuple[Any, Any] | Mapping[Any, Any], "range schedule"]


def parse_schedule(spec: object) -> float | Ramp | Milestones:
    """A schedule from the value in a recipe. Raises UserError for anything that is not one."""
    if isinstance(spec, Ramp | Milestones):
        return spec
    if isinstance(spec, int | float) and not isinstance(spec, bool):
        return spec
    if not isinstance(spec, Mapping) or not spec:
        raise UserError(f"expected a number or a schedule such as {{from: 1, to: 0.2}}, got {spec!r}")
    if all(_is_number(key) for key in spec):
        points = sorted((float(key), _number(value, "milestone value")) for key, value in spec.items())
        return Milestones(tuple(points))
    unknown = [str(key) for key in spec if key not in ("from", "to", "kind", "begin", "end")]
    if unknown:
        raise UserError(f"unknown key '{unknown[0]}' in a schedule: use from, to, kind, begin, end")
    if "from" not in spec:
        raise UserError(f"a schedule needs 'from', got {dict(spec)!r}")
    start = _number(spec["from"], "from")
    return Ramp(
        start,
        _number(spec.get("to", start), "to"),
        str(spec.get("kind", "linear")),
        _number(spec.get("begin", 0.0), "begin"),
        _number(spec.get("end", 1.0), "end"),
    )


def parse_range(spec: object) -> tuple[float | Ramp | Milestones, float | Ramp | Milestones]:
    """A (low, high) pair of schedules from [low, high], {from: [..], to: [..]} or {0: [..], 0.5: [..]}.

    Raises UserError for anything else.
    """
    if isinstance(spec, Mapping):
        sides = [{key: _side(value, i) for key, value in spec.items()} for i in (0, 1)]
        return parse_schedule(sides[0]), parse_schedule(sides[1])
    if isinstance(spec, Sequence) and not isinstance(spec, str) and len(spec) == 2:
        return parse_schedule(spec[0]), parse_schedule(spec[1])
    raise UserError(f"expected [low, high] or {{from: [low, high], to: [low, high]}}, got {spec!r}")


def value_at(schedule: object, step: int, total: int) -> float:
    """The value of a schedule (parsed, or as a recipe writes it) at `step` of `total` steps."""
    if isinstance(schedule, int | float):
        return schedule
    parsed = parse_schedule(schedule)
    return parsed if isinstance(parsed, int | float) else parsed.at(step, total)


def corner_values(schedule: object) -> list[float]:
    """All numbers that a schedule is made of; its values lie between the smallest and the largest."""
    parsed = parse_schedule(schedule)
    if isinstance(parsed, Ramp):
        return [parsed.start, parsed.stop]
    return [value for _, value in parsed.points] if isinstance(parsed, Milestones) else [parsed]


def bounds(schedule: object) -> tuple[float, float]:
    """The smallest and the largest value that a schedule ever has."""
    values = corner_values(schedule)
    return min(values), max(values)


def range_at(schedule: object, step: int, total: int) -> tuple[float, float]:
    """The (low, high) of a range schedule at `step` of `total` steps."""
    low, high = parse_range(schedule)
    return value_at(low, step, total), value_at(high, step, total)


def _side(value: object, index: int) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise UserError(f"expected a pair [low, high], got {list(value)!r}")
        return value[index]
    return value


def _is_number(key: object) -> bool:
    try:
        float(key)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return not isinstance(key, bool)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"'{name}' of a schedule must be a number, got {value!r}")
    return value


def every_steps(value: float, total: int, path: str) -> int:
    """An interval in steps: values below 1 are fractions of a run of `total` steps, others are numbers of steps.

    Raises UserError, which calls the setting `path`, unless the value is positive.
    """
    if not value > 0.0:
        raise UserError(f"'{path}' must be positive, got {value:g}")
    return max(1, round(value * total)) if value < 1.0 else int(value)
