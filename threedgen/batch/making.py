"""The rows of a table become runs: each once, however often the command is stopped and given again.

OUT/runs/NAME/     the run of a row, like any other; NAME ends with the key of the row
OUT/index.jsonl    a line for each row that has ended
OUT/summary.csv, OUT/gallery.html
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threedgen.batch.index import Index
from threedgen.batch.pages import GALLERY, RUNS, SUMMARY, WAITING, Line, write_gallery, write_summary
from threedgen.batch.pieces import FAILED, FINISHED, Make, Outcome, Piece, finish
from threedgen.batch.races import Race, best_of
from threedgen.batch.rows import Row, Table, survey
from threedgen.core.errors import UserError
from threedgen.guidance.priors.kept import keep_priors
from threedgen.jobs.listeners.progress import Progress
from threedgen.jobs.lock import holding, require_held
from threedgen.jobs.run_directory import REPORT

INDEX = "index.jsonl"
_BETWEEN = 60.0  # seconds at least between two times that the summary and the gallery are written
_SHARE = 50  # the pages take at most one part in so many of the time

Work = Callable[[Iterator[Piece]], Iterator[tuple[Piece, Outcome]]]
"""Makes pieces, taking a new one when there is somebody to make it; they may end in another order."""
Workers = AbstractContextManager[Work]


class InThisProcess(AbstractContextManager[Work]):
    """Workers that make one piece after the other here, and load a prior once for those that use the same."""

    def __init__(self, make: Make) -> None:
        self._make, self._kept = make, contextlib.ExitStack()

    def __enter__(self) -> Work:
        self._kept.enter_context(keep_priors())
        return lambda pieces: ((piece, finish(piece, self._make)) for piece in pieces)

    def __exit__(self, *_: object) -> None:
        self._kept.close()


def make_all(
    table: Table,
    out: Path,
    workers: Workers,
    check: Callable[[Row], None],
    race: Race | None = None,
    progress: bool = True,
) -> Counter[str]:
    """Makes the rows that are not finished; returns how many rows are in which state.

    check: as of `survey`. progress: whether a bar is shown. Raises UserError before anything is made for a table
    that is wrong and for a folder that another batch writes into; what goes wrong in a row is in the index.
    """
    race = race or Race()
    total = survey(table, check, race.facts)
    onward = f"the rows that are finished are kept in '{out}': run the same command again"
    with holding(out, lambda: onward, RUNS), Progress(progress) as display:
        making = _Making(table, out, race, total, display)
        with workers as work:
            return making.run(work)


@dataclass
class _Open:
    """A row whose pieces are being made, and what became of them."""

    row: Row
    outcomes: dict[int, Outcome] = field(default_factory=dict)


class _Making:
    """One batch under way."""

    def __init__(self, table: Table, out: Path, race: Race, total: int, display: Progress) -> None:
        self._table, self._out, self._race, self._total = table, out, race, total
        self._index = Index(out / INDEX)
        self._task = display.task("rows", total)
        self._ended = 0
        self._open: dict[Path, tuple[_Open, int]] = {}
        self._written, self._cost = time.monotonic(), 0.0

    def run(self, work: Work) -> Counter[str]:
        try:
            for piece, outcome in work(self._pieces()):
                require_held(self._out)
                opened, place = self._open.pop(piece.path)
                opened.outcomes[place] = outcome
                if len(opened.outcomes) == self._race.seeds:
                    self._close(opened)
        except BaseException:
            with contextlib.suppress(
                UserError
            ):  # the disk may be full, and the first reason is the one to tell
                self._write_pages()
            raise
        return self._write_pages()

    def _pieces(self) -> Iterator[Piece]:
        """The runs of the rows that are not finished."""
        for row in self._table:
            entry = self._index.get(row.key(*self._race.facts))
            if entry is not None and self._is_there(entry):
                self._remove_losers(row, entry)
                self._advance()
                continue
            opened = _Open(row)
            for place, path in enumerate(self._paths(row)):
                arguments = row.arguments
                if self._race.seeds > 1:
                    arguments["seed"] = str(self._seed(row, place))
                self._open[path] = opened, place
                yield Piece(row.job, arguments, path)

    def _is_there(self, entry: dict[str, Any]) -> bool:
        report = self._out / RUNS / entry["run"] / REPORT
        return entry["state"] == FINISHED and report.is_file()

    def _paths(self, row: Row) -> list[Path]:
        folder = self._out / RUNS
        if self._race.seeds == 1:
            return [folder / row.name]
        return [folder / f"{row.name}-seed-{self._seed(row, place)}" for place in range(self._race.seeds)]

    def _seed(self, row: Row, place: int) -> int:
        return int(str(row.values.get("seed", 0))) + place

    def _close(self, opened: _Open) -> None:
        """Says in the index what became of a row."""
        row, race = opened.row, self._race
        outcomes = [opened.outcomes[place] for place in range(race.seeds)]
        best, facts = 0, {}
        try:
            if race.seeds > 1:
                best, name = best_of(outcomes, race.score, race.keep == "all")
                facts = {"seed": self._seed(row, best), "score": name}
            outcome = outcomes[best]
        except UserError as error:
            outcome = Outcome(FAILED, str(error))
        entry = {
            "job": row.job,
            "subject": row.subject,
            "state": outcome.state,
            "reason": outcome.reason,
            "run": self._paths(row)[best].name,
            "seconds": outcome.seconds,
            "scores": outcome.scores,
            **facts,
        }
        self._index.add(row.key(*race.facts), entry)
        self._remove_losers(row, entry)
        self._advance(row.subject if outcome.state == FINISHED else f"failed: {outcome.reason}")
        if time.monotonic() - self._written > max(_BETWEEN, _SHARE * self._cost):
            self._write_pages()

    def _remove_losers(self, row: Row, entry: dict[str, Any]) -> None:
        """Removes the runs of a finished row that are not the best one; a kill may have left them."""
        if self._race.seeds > 1 and self._race.keep == "best" and entry["state"] == FINISHED:
            for path in self._paths(row):
                if path.name != entry["run"] and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)

    def _advance(self, note: str = "") -> None:
        self._ended += 1
        self._task.update(self._ended, note)

    def _lines(self) -> Iterator[Line]:
        for row in self._table:
            yield row.job, row.subject, self._index.get(row.key(*self._race.facts))

    def _write_pages(self) -> Counter[str]:
        begun, states = time.monotonic(), Counter[str]()

        def counted() -> Iterator[Line]:
            for line in self._lines():
                states[WAITING if line[2] is None else line[2]["state"]] += 1
                yield line

        self._index.refresh()
        write_summary(self._out / SUMMARY, counted(), list(self._index.scores))
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        write_gallery(self._out / GALLERY, self._lines(), self._table.path.name, counts, self._total)
        self._written, self._cost = time.monotonic(), time.monotonic() - begun
        return states
