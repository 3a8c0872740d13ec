"""metrics.jsonl: one JSON object for each step; each line is complete on disk before the next step begins."""

from __future__ import annotations

import json
import math
from pathlib import Path

from threedgen.core import inside
from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError
from threedgen.loop.events import Event, RunStarted, StepDone, StepRolledBack


class MetricsFile:
    """A listener that appends {"step": ..., name: number, ...} after each step.

    Steps are counted from the beginning of the run through all stages. A run that was resumed or rolled back has
    each step once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted | StepRolledBack):
            truncate(self.path, event.state.steps_in_run)
        elif isinstance(event, StepDone):
            step = event.state.steps_in_run - 1
            row = {"step": step, **{name: _number(value) for name, value in event.metrics.items()}}
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise UserError(
                    f"cannot write {self.path}: {error.strerror or error}; free some space, then resume the run"
                ) from error


def read(path: Path) -> list[dict[str, float]]:
    """The complete rows of a metrics file; a line that was cut short when the process was killed is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in inside.read_text(path, inside.LOG).splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def seconds(path: Path, step: int) -> float:
    """Duration in seconds of all steps before `step`, in whatever processes they were made."""
    return sum(row.get("seconds") or 0.0 for row in read(path) if row["step"] < step)


def truncate(path: Path, step: int) -> None:
    """Removes the rows of `step` and later, which will be written again, and a line that was cut short."""
    kept = [row for row in read(path) if row["step"] < step]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity: null stands for them."""
    value = float(value)
    return value if math.isfinite(value) else None
