"""The rows of a table of things to make: a .txt, .jsonl or .csv file, read one row at a time.

A row has a job, which is a command such as text-to-3d, and values by the names of the options of that command. A
name with a dot in it is a setting of the recipe. What a value must look like is not known here.
"""

from __future__ import annotations

import csv
import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.jobs.run_directory import slug
from threedgen.recipes.layers import is_builtin

Value = str | bool | list[str]
JOBS = {"text-to-3d": "prompt", "image-to-3d": "picture", "text-to-4d": "prompt", "fit": "source"}
"""Each job, and the column that says what it is made of."""
SETTINGS = "settings"
# Where something is computed does not decide what is made.
_ELSEWHERE = ("device", "backend")
_FILES = (
    "picture",
    "source",
    "mask",
    "depth",
    "texture",
    "asset",
    "video",
    "recipe",
    "prior",
    "text-prior",
    "video-prior",
    "tokenizer",
    "vae",
)
_VIEWS = "views"
_LINE = 1 << 20  # characters of a row at most


@dataclass(frozen=True)
class Row:
    """One thing to make.

    where: what messages call it. values: by the names of columns, as they are written. files: the same for files,
    which are looked for beside the table and then in the current folder.
    """

    where: str
    job: str
    values: Mapping[str, Value]
    files: Mapping[str, Value] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What it is made of: the prompt, the picture or the source."""
        return str(self.values[JOBS[self.job]])

    @property
    def arguments(self) -> dict[str, Value]:
        """The values with the files where they are."""
        return {**self.values, **self.files}

    def key(self, *more: object) -> int:
        """64 bits that differ for rows that ask for something else. more: what else decides the result."""
        own = {name: value for name, value in self.values.items() if name not in _ELSEWHERE}
        text = json.dumps([self.job, sorted(own.items()), *more], ensure_ascii=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    @property
    def name(self) -> str:
        """The name of its run directory."""
        text = self.subject if JOBS[self.job] == "prompt" else Path(self.subject).stem
        return f"{slug(text)}-{self.key():016x}"


class Table:
    """The rows of a file, which is read anew by every iteration, so that any number of rows takes no memory.

    job: of rows that name none. defaults: values of rows that do not set them.
    Raises UserError for a file that cannot be read; an iteration raises it for the first row that is wrong.
    """

    def __init__(
        self, path: str | Path, job: str = "text-to-3d", defaults: Mapping[str, Value] | None = None
    ) -> None:
        self.path = existing(path, "there is no table '{path}': name a .txt, .jsonl or .csv file")
        self._job, self._defaults = job, dict(defaults or {})
        kinds: dict[str, Callable[[TextIO], Iterator[tuple[int, dict[str, Value]]]]] = {
            ".txt": self._lines,
            ".jsonl": self._objects,
            ".csv": self._records,
        }
        if self.path.is_dir() or self.path.suffix.lower() not in kinds:
            raise UserError(
                f"'{self.path}' is no table: name a .txt file with a prompt on each line, or a .jsonl or .csv file"
            )
        self._read = kinds[self.path.suffix.lower()]

    def __iter__(self) -> Iterator[Row]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                for number, (line, values) in enumerate(self._read(file), 1):
                    yield self._row(f"{self.path.name}, row {number} (line {line})", values)
        except UnicodeDecodeError as error:
            raise UserError(f"'{self.path}' is not text in UTF-8: save it as UTF-8") from error
        except OSError as error:
            raise UserError(f"cannot read '{self.path}': {error.strerror or error}") from error

    def _row(self, where: str, values: dict[str, Value]) -> Row:
        job = values.pop("job", None) or self._job
        if not isinstance(job, str) or job not in JOBS:
            raise UserError(f"{where}, column 'job': '{job}' is no job: use one of {', '.join(JOBS)}")
        merged = {**self._defaults, **values}
        if SETTINGS in self._defaults:  # both, and the later ones win
            merged[SETTINGS] = [*as_list(self._defaults[SETTINGS]), *as_list(values.get(SETTINGS, []))]
        subject = merged.get(JOBS[job], "")
        if not isinstance(subject, str) or not subject.strip():
            raise UserError(f"{where} has no {JOBS[job]}, which {job} needs: add it, or remove the row")
        named = [
            name
            for name in _FILES
            if isinstance(value := merged.get(name), str) and not _is_name(name, value)
        ]
        files: dict[str, Value] = {name: self._place(str(merged[name])) for name in named}
        if job == "image-to-3d" and _VIEWS in merged:  # FILE@AZIMUTH
            views = [view.rpartition("@") for view in as_list(merged[_VIEWS])]
            files[_VIEWS] = [f"{self._place(file)}{at}{pose}" if at else pose for file, at, pose in views]
        return Row(where, job, merged, files)

    def _place(self, value: str) -> str:
        """Where a file is; what is no file stays as it is."""
        for base in (self.path.parent, Path.cwd()):
            try:
                if (base / value).exists():
                    return str((base / value).absolute())
            except (OSError, ValueError):  # too long, or with a NUL: reported by the command that reads it
                break
        return value

    def _lines(self, file: TextIO) -> Iterator[tuple[int, dict[str, Value]]]:
        for number, line in _bounded(file, self.path):
            text = line.strip()
            if text and not text.startswith("#"):
                yield number, {JOBS[self._job]: text}

    def _objects(self, file: TextIO) -> Iterator[tuple[int, dict[str, Value]]]:
        for number, line in _bounded(file, self.path):
            if not line.strip():
                continue
            where = f"{self.path.name}, line {number}"
            try:
                values = parse_json(line)
            except ValueError as error:
                raise UserError(f"{where} is not JSON ({error}): each line is an object") from error
            if not isinstance(values, dict):
                raise UserError(f'{where} is no object: write {{"prompt": "a penguin"}}, for example')
            named = {name: _value(where, name, value) for name, value in values.items() if value is not None}
            yield number, _by_columns(where, named)

    def _records(self, file: TextIO) -> Iterator[tuple[int, dict[str, Value]]]:
        lines = (line for _, line in _bounded(file, self.path))
        reader = csv.reader(lines, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if len(set(header)) < len(header) or not all(header):
                raise UserError(
                    f"{self.path.name}: the first line must name every column once, got {', '.join(header)}"
                )
            for cells in reader:
                if not cells:
                    continue
                where = f"{self.path.name}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise UserError(
                        f"{where} has {len(cells)} cells and the first line {len(header)}: put texts with commas "
                        "in quotes"
                    )
                filled = {
                    name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()
                }
                if filled:
                    yield reader.line_num, _by_columns(where, filled)
        except csv.Error as error:
            raise UserError(f"{self.path.name}, line {reader.line_num} is not CSV: {error}") from error


def as_list(value: Value) -> list[str]:
    """Several values; those in one text are separated by semicolons."""
    if isinstance(value, list):
        return value
    return [part.strip() for part in str(value).split(";") if part.strip()]


def survey(table: Table, check: Callable[[Row], None], more: Iterable[object] = ()) -> int:
    """Reads all rows once, before anything is made; returns how many there are.

    check: raises UserError for a row that cannot be made. more: as of `Row.key`. Raises UserError for the first row
    that is wrong or repeats another one, and for a table without rows.
    """
    import numpy as np

    keys = array("Q")
    for row in table:
        check(row)
        keys.append(row.key(*more))
    if not keys:
        raise UserError(f"'{table.path}' has no rows: write one prompt on each line, for example")
    found, counts = np.unique(np.frombuffer(keys, dtype=np.uint64), return_counts=True)
    twice = set(found[counts > 1].tolist())
    if twice:
        first: dict[int, Row] = {}
        for row in table:
            key = row.key(*more)
            if key in first:
                raise UserError(
                    f"{row.where} asks for the same as {first[key].where}: remove it, or give it another seed"
                )
            if key in twice:
                first[key] = row
    return len(keys)


def _bounded(file: TextIO, path: Path) -> Iterator[tuple[int, str]]:
    """The lines and their numbers, from 1."""
    number = 0
    while line := file.readline(_LINE + 1):
        number += 1
        if len(line) > _LINE:
            raise UserError(f"{path.name}, line {number} has more than {_LINE} characters: it is no table")
        yield number, line


def _is_name(column: str, value: str) -> bool:
    """Whether a value of a column for files is the name of something that ships, whatever lies beside the table."""
    return is_builtin(value) if column == "recipe" else value == "embedded" and column.endswith("prior")


def _value(where: str, name: str, value: Any) -> Value:
    """A value of JSON. Settings keep their JSON form."""
    if isinstance(value, bool) and "." not in name:
        return value
    if isinstance(value, list) and "." not in name:
        if not all(isinstance(item, str | int | float) for item in value):
            raise UserError(f"{where}, column '{name}': a list must hold texts or numbers")
        return [_text(item) for item in value]
    if isinstance(value, dict) and name == SETTINGS:
        return [f"{key}={_text(item)}" for key, item in value.items()]
    if isinstance(value, dict) and "." not in name:
        raise UserError(f"{where}, column '{name}': must be a text, a number or a list, not an object")
    return _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _by_columns(where: str, named: Mapping[str, Value]) -> dict[str, Value]:
    """The values of one row, with its columns that are settings of the recipe gathered."""
    values: dict[str, Value] = {}
    for name, value in named.items():
        column = name if "." in name else name.removeprefix("--").replace("_", "-")
        if column in values:
            raise UserError(f"{where} names the column '{column}' twice: leave one out")
        values[column] = value
    own = [f"{name}={value}" for name, value in values.items() if "." in name]
    plain = {name: value for name, value in values.items() if "." not in name}
    if own:
        plain[SETTINGS] = [*as_list(plain.get(SETTINGS, [])), *own]
    return plain
