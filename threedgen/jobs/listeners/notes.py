"""notes.jsonl: the warnings of a run, in whatever processes they were given, for its report."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threedgen.core import inside
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.jobs.listeners.verdicts import Verdict
from threedgen.jobs.run_directory import RunDirectory


class Notes:
    """The warnings of this process about a run, which go into its folder as soon as it holds a recipe.

    run: that it belongs to. verdicts: those that this process gave.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._waiting: list[dict[str, Any]] = []
        self.verdicts: list[Verdict] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keeps every warning that is shown inside the block, and shows it as before."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", Verdict)
            shown = warnings.showwarning

            def keep(message: Warning | str, *rest: Any, **more: Any) -> None:
                shown(message, *rest, **more)  # pyright: ignore[reportArgumentType]
                self._add(message)

            warnings.showwarning = keep
            yield

    def _add(self, message: Warning | str) -> None:
        note: dict[str, Any] = {"text": " ".join(str(message).split())}
        if isinstance(message, Verdict):
            self.verdicts.append(message)
            note |= {"step": message.step, "reason": message.reason}
        self._waiting.append(note)
        self.write()

    def write(self) -> None:
        """Appends what is not in the folder yet, if there is a run in it. Raises UserError if it cannot."""
        if not self._waiting or not self.run.recipe.is_file():
            return
        there = read(self.run.notes)  # a step that is made again after a resume gives the same warning again
        try:
            with self.run.notes.open("a", encoding="utf-8") as file:
                for note in self._waiting:
                    if note not in there:
                        file.write(json.dumps(note, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.run.notes}: {error.strerror or error}; free some space, then resume the run"
            ) from error
        self._waiting.clear()


def read(path: Path) -> list[dict[str, Any]]:
    """The notes of a run, each once; lines that are none are left out. Raises UserError if it cannot be read."""
    try:
        lines = inside.read_bytes(path, inside.DOCUMENT).splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; remove it") from error
    notes = []
    for line in lines:
        try:
            note = parse_json(line)
        except ValueError:  # cut short when the process was killed
            continue
        if isinstance(note, dict) and isinstance(note.get("text"), str) and note not in notes:
            notes.append(note)
    return notes
