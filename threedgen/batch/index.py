"""The index of a batch: a file with a JSON object on each line, to which a line is added when a row has ended.

The last line of a row counts. In memory an index has a few bytes for each line, so that a million
rows are no burden.
"""

from __future__ import annotations

import json
import os
from array import array
from pathlib import Path
from typing import Any

from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError


class Index:
    """The entries of a batch by the keys of its rows (64 bits).

    path: of the file, which is made by the first entry. A line that a kill has cut is removed, and damaged ones are
    left out. Raises UserError if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys, self._offsets = array("Q"), array("Q")
        self._end = 0
        self.scores: dict[str, None] = {}
        """The names of all scores, in the order in which they came."""
        try:
            if path.exists():
                self._scan()
        except OSError as error:
            raise self._unusable("read", error) from error
        self.refresh()

    def add(self, key: int, entry: dict[str, Any]) -> None:
        """Writes the entry of a row, on the disk when this returns."""
        line = (
            json.dumps({"key": f"{key:016x}", **entry}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        )
        try:
            with self._path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unusable("write", error) from error
        self._note(key, self._end, entry)
        self._end += len(line)

    def refresh(self) -> None:
        """Lets `get` know what was added since."""
        import numpy as np

        keys = np.frombuffer(self._keys, dtype=np.uint64) if self._keys else np.empty(0, dtype=np.uint64)
        # Not into the arrays themselves: those could not grow while they are looked at.
        order = np.argsort(keys, kind="stable").astype(np.uint32)
        self._sorted = keys[order]
        self._starts = np.array(self._offsets, dtype=np.uint64)[order]

    def get(self, key: int) -> dict[str, Any] | None:
        """The last entry of a row, as of the last `refresh`; None if there is none."""
        import numpy as np

        place = int(np.searchsorted(self._sorted, np.uint64(key), side="right")) - 1
        if place < 0 or int(self._sorted[place]) != key:
            return None
        try:
            with self._path.open("rb") as file:
                file.seek(int(self._starts[place]))
                return _entry(file.readline())
        except OSError as error:
            raise self._unusable("read", error) from error

    def _scan(self) -> None:
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                entry = _entry(line)
                if entry is not None:
                    self._note(int(entry["key"], 16), self._end, entry)
                self._end += len(line)
        if self._end < self._path.stat().st_size:
            os.truncate(self._path, self._end)

    def _note(self, key: int, offset: int, entry: dict[str, Any]) -> None:
        self._keys.append(key)
        self._offsets.append(offset)
        self.scores.update(dict.fromkeys(entry["scores"]))

    def _unusable(self, what: str, error: OSError) -> UserError:
        return UserError(
            f"cannot {what} {self._path}: {error.strerror or error}; free some space or choose another --out"
        )


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None if it is damaged."""
    try:
        entry = parse_json(line)
        if 0 <= int(entry["key"], 16) < 1 << 64 and all(
            isinstance(entry[name], kind)
            for name, kind in (("state", str), ("run", str), ("reason", str), ("scores", dict))
        ):
            return entry
    except (ValueError, TypeError, KeyError):
        pass
    return None
