"""Checks of schedules at every step of a run, such as that a range is always a range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from threedgen.core.schedule import Milestones, Ramp, parse_range, parse_schedule, value_at
from threedgen.core.settings import SettingError, shown

RUN = 10**9
"""The number of steps of the run that `decisive_steps` describes, minus one: enough for any fraction in a
recipe."""
_INTERVALS = 100  # of equal length in a run, because ramps of different kinds may cross between their ends


def decisive_steps(*schedules: object) -> Iterator[int]:
    """The steps of a run of RUN + 1 steps at which a wrong combination of schedules shows, in rising order.

    They are the steps at each corner of a schedule and just before it, and 101 evenly spaced ones.
    """
    corners: set[float] = set()
    for schedule in schedules:
        parsed = parse_schedule(schedule)
        if isinstance(parsed, Ramp):
            corners |= {parsed.begin, parsed.end}
        elif isinstance(parsed, Milestones):
            corners |= {fraction for fraction, _ in parsed.points}
    at = {round(corner * RUN) for corner in corners}
    # 10 is more than the rounding error that Milestones tolerates.
    before = {step - 10 for step in at if step > 0}
    yield from sorted(at | before | {index * (RUN // _INTERVALS) for index in range(_INTERVALS + 1)})


def require_times(schedule: Any, name: str = "t") -> None:
    """Raises SettingError, which calls it `name`, unless a range schedule is a range inside [0, 1] at every
    step."""
    bottom, top = parse_range(schedule)
    for step in decisive_steps(bottom, top):
        low, high = value_at(bottom, step, RUN + 1), value_at(top, step, RUN + 1)
        if not 0.0 <= low <= high <= 1.0:
            raise SettingError(
                name, f"must be a range [low, high] inside [0, 1], got [{shown(low)}, {shown(high)}]"
            )
