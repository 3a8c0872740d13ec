"""metrics.jsonl: one JSON object a step, each line complete on disk before the next step begins."""

from __future__ import annotations

import json
import math
from pathlib import Path

from threedgen.core.errors import UserError
from threedgen.loop.events import Event, RunStarted, StepDone, StepRolledBack


class MetricsFile:
    """Appends {"step": ..., name: number, ...} each step; a resumed or rolled back run repeats none.

    Steps count from the run's beginning, through all stages.
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
    """The complete rows of a metrics file; a line that a kill cut short is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def seconds(path: Path, step: int) -> float:
    """What the steps before `step` took, whichever process did them."""
    return sum(row.get("seconds") or 0.0 for row in read(path) if row["step"] < step)


def truncate(path: Path, step: int) -> None:
    """Drops the rows of `step` and later (they will be written again) and a line cut short."""
    from threedgen.core.atomic import replacing

    kept = [row for row in read(path) if row["step"] < step]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def _number(value: float) -> float | None:
    """JSON has no NaN; null says that there was no number."""
    value = float(value)
    return value if math.isfinite(value) else None
