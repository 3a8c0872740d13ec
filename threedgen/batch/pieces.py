"""Pieces of work: the runs that rows ask for. A row is one run, or several that differ in their seeds."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threedgen.batch.rows import Value
from threedgen.core.errors import UserError
from threedgen.core.inside import require_no_link
from threedgen.jobs.run_directory import RECIPE
from threedgen.pipelines.prepared import Prepared
from threedgen.pipelines.result import load_run

FINISHED, FAILED = "finished", "failed"


@dataclass(frozen=True)
class Piece:
    """One run to make: the job and its arguments, by the names of options, and its folder."""

    job: str
    arguments: dict[str, Value]
    path: Path


Make = Callable[[Piece], Prepared]
"""Makes the run of a piece ready to start. Raises UserError. It must be a function of a module, so that other
processes can call it."""


@dataclass(frozen=True)
class Outcome:
    """What became of a piece.

    state: FINISHED or FAILED. reason: why it failed, on one line. seconds: that the run took, in all its parts, as
    its report says. scores: of its report.
    """

    state: str
    reason: str = ""
    seconds: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)


def finish(piece: Piece, make: Make) -> Outcome:
    """Brings the run of a piece to its end: a finished one stays as it is, and one that was cut goes on.

    Nothing that goes wrong in a run is raised, because the others shall be made; Ctrl-C is.
    """
    begun = time.perf_counter()
    try:
        require_no_link(piece.path, piece.path.parent)  # nobody has named it
        if (piece.path / RECIPE).is_file():
            run = load_run(piece.path).resume(progress=False)
        else:
            run = make(piece).run(progress=False)
        return _of_report(run.report)
    except UserError as error:
        reason = " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001  one run may fail in any way, and the others go on
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Outcome(FAILED, reason, round(time.perf_counter() - begun, 3))


def _of_report(report: dict[str, Any]) -> Outcome:
    seconds, scores = report.get("seconds"), report.get("scores")
    total = seconds.get("total", 0.0) if isinstance(seconds, dict) else 0.0
    numbers: dict[str, float] = {
        str(name): value
        for name, value in (scores if isinstance(scores, dict) else {}).items()
        if isinstance(value, int | float)
    }
    return Outcome(FINISHED, "", float(total), numbers)
