"""What the Configs of the guidances ask of schedules: that they hold numbers, and what is true at every step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from threedgen.core.errors import UserError
from threedgen.core.schedule import Milestones, Ramp, parse_range, parse_schedule, value_at

RUN = 10**9
"""Steps of the run that `decisive_steps` speaks of, less one: fine enough for any fraction of a recipe."""
_EVERYWHERE = 100  # even parts of a run, for what two ramps of different kinds do between their ends


def numbers(schedule: object) -> list[float]:
    """All numbers that a schedule is made of; its values lie between the smallest and the largest."""
    parsed = parse_schedule(schedule)
    if isinstance(parsed, Ramp):
        return [parsed.start, parsed.stop]
    return [value for _, value in parsed.points] if isinstance(parsed, Milestones) else [parsed]


def require_numbers(**schedules: object) -> None:
    """UserError for a schedule with NaN or infinity in it, which bounds() may not show; None is left out."""
    for name, schedule in schedules.items():
        if schedule is None:
            continue
        wrong = [number for number in numbers(schedule) if not math.isfinite(number)]
        if wrong:
            raise UserError(f"{name} must be a finite number, got {wrong[0]}")


def decisive_steps(*schedules: object) -> Iterator[int]:
    """Steps of a run of RUN + 1 at which a wrong combination of some schedules shows, in rising order.

    Those just before and at each corner of a schedule, and 101 evenly spread ones.
    """
    corners: set[float] = set()
    for schedule in schedules:
        parsed = parse_schedule(schedule)
        if isinstance(parsed, Ramp):
            corners |= {parsed.begin, parsed.end}
        elif isinstance(parsed, Milestones):
            corners |= {fraction for fraction, _ in parsed.points}
    at = {round(corner * RUN) for corner in corners}
    # 10 is more than the rounding that Milestones forgives.
    before = {step - 10 for step in at if step > 0}
    yield from sorted(at | before | {part * (RUN // _EVERYWHERE) for part in range(_EVERYWHERE + 1)})


def require_times(schedule: Any, name: str = "t") -> None:
    """UserError, which calls it `name`, unless a range schedule stays a range inside [0, 1]."""
    bottom, top = parse_range(schedule)
    for step in decisive_steps(bottom, top):
        low, high = value_at(bottom, step, RUN + 1), value_at(top, step, RUN + 1)
        if not 0.0 <= low <= high <= 1.0:
            raise UserError(f"{name} must be a range [low, high] inside [0, 1], got [{low:g}, {high:g}]")
