"""metrics.jsonl: one JSON object for each step; each line is complete on disk before the next step begins."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

from threedgen.core import inside
from threedgen.core.atomic import replacing
from threedgen.core.documents import parse_json
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


def read(path: Path) -> list[dict[str, Any]]:
    """The good rows of a metrics file, none if there is no file. Raises UserError if it cannot be read."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The good rows, and the number of the others, without a last one that was cut short when the process was
    killed."""
    try:
        data = inside.read_bytes(path, inside.LOG)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; remove it to resume the run"
        ) from error
    lines = [line for line in data.split(b"\n") if line.strip()]
    rows = [_row(line) for line in lines]
    if rows and rows[-1] is None and not data.endswith(b"\n"):
        rows.pop()
    good = [row for row in rows if row is not None]
    return good, len(rows) - len(good)


def _row(line: bytes) -> dict[str, Any] | None:
    """A row, None if the line is none: it needs a step, and everything in it is a number or null."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    step, values = row.get("step"), row.values()
    whole = isinstance(step, int) and not isinstance(step, bool) and step >= 0
    return row if whole and all(value is None or isinstance(value, int | float) for value in values) else None


def seconds(path: Path, step: int) -> float:
    """Duration in seconds of all steps before `step`, in whatever processes they were made."""
    return sum(row.get("seconds") or 0.0 for row in read(path) if row["step"] < step)


def truncate(path: Path, step: int) -> list[dict[str, Any]]:
    """Removes the rows of `step` and later, which will be written again, and lines that are no rows: it warns of
    them, except of a last one that was cut short. Returns the rows that stay."""
    rows, lost = _read(path)
    if lost:
        count = "1 line that is no row was" if lost == 1 else f"{lost} lines that are no rows were"
        warnings.warn(f"{path} was damaged: {count} left out, and the rest is kept", stacklevel=1)
    kept = [row for row in rows if row["step"] < step]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return kept


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity: null stands for them."""
    value = float(value)
    return value if math.isfinite(value) else None
