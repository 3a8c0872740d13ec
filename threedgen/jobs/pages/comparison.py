"""Several runs on one page: their pictures in rows, the settings in which they differ, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from threedgen.core.atomic import store
from threedgen.core.errors import UserError
from threedgen.jobs.pages.gathered import Gathered, gathered
from threedgen.jobs.pages.page import rendered
from threedgen.jobs.run_directory import RunDirectory

_ABOUT = ("description", "paper", "needs", "memory")  # what a recipe says about itself
_FEWEST = 2


def write_comparison(runs: Sequence[RunDirectory], path: Path) -> Path:
    """Writes a page about at least two runs, finished or not, and returns its path.

    Raises UserError for fewer runs or one that is named twice, if a file of a run cannot be read, and if the place
    cannot be written.
    """
    places = [run.path.resolve() for run in runs]
    if len(places) < _FEWEST:
        raise UserError("one run cannot be compared: name at least two folders of runs")
    twice = next((run.path for run, place in zip(runs, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise UserError(f"'{twice}' is named more than once: name each run once")
    shown = [gathered(run) for run in runs]
    text = rendered(
        "comparison.html",
        runs=shown,
        names=[str(run.path) for run in runs],
        settings=_differing([run.settings for run in shown]),
        scores=_rows([run.report.get("scores") or {} for run in shown]),
        costs=_rows([_costs(run) for run in shown]),
    )
    store(path, text.encode())
    return path


Row = tuple[str, list[Any]]


def _rows(tables: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Each name of any of the tables, with its value in each; "" where a table lacks it."""
    names = dict.fromkeys(name for table in tables for name in table)
    return [(name, [table.get(name, "") for table in tables]) for name in names]


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        (name, values)
        for name, values in _rows(settings)
        if name not in _ABOUT and any(value != values[0] for value in values)
    ]


def _costs(run: Gathered) -> dict[str, str]:
    """What the run took, or that it is not finished."""
    seconds = run.report["seconds"].get("total")
    stopped = run.report.get("stopped_after")
    peak = run.report.get("peak_memory_bytes")
    going = f"stopped after {stopped} steps" if stopped else f"not finished, {len(run.rows)} steps done"
    return {
        "state": "finished" if run.finished else going,
        **({} if seconds is None else {"time": f"{seconds:.1f} s"}),
        **({} if not peak else {"most memory": f"{peak / 1e9:.2f} GB"}),
    }
