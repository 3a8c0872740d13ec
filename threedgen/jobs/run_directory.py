"""A run directory: everything that a run leaves behind. Its path is all that later commands need.

recipe.yaml  origin.json  notes.jsonl  metrics.jsonl  previews/  checkpoint/       while it runs
backs.png                                                                   of the recipe dfm, from its beginning
asset.glb  asset.ply  turntable.mp4  contact_sheet.png  report.html  report.json   when it is finished
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from threedgen.core import inside
from threedgen.core.atomic import is_temporary, replacing, store
from threedgen.core.documents import LARGEST, parse_yaml
from threedgen.core.errors import UserError
from threedgen.jobs import lock

RECIPE = "recipe.yaml"
REPORT = "report.json"
PAGE = "report.html"
DEFAULT_PARENT = Path("runs")
_PREVIEWS = "previews"
REFERENCE, PICTURES, FILM = "reference", "pictures", "film"  # folders of what a run was given
ASSETS = "assets"  # the folder of the runs of a composed scene
# What is in a run before its recipe, and in a composed scene before its scene file.
_FIRST = (_PREVIEWS, REFERENCE, PICTURES, FILM, ASSETS)
PICTURE = f"{REFERENCE}/picture.png"  # the cut-out that a run from a picture begins with


def slug(prompt: str) -> str:
    """A folder name from a prompt: lower-case ASCII letters, digits and hyphens, at most 60 characters."""
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
    return words[:60].strip("-") or "run"


class RunDirectory:
    """The paths of one run. made: the folders that this process made for it. given: those that it moved into it."""

    def __init__(self, path: Path) -> None:
        self.made: list[Path] = []
        self.given: list[Path] = []
        self.path = path
        self.recipe = path / RECIPE
        self.metrics = path / "metrics.jsonl"
        self.previews = path / _PREVIEWS
        self.checkpoint = path / "checkpoint"
        self.report = path / REPORT
        self.page = path / PAGE
        self.origin = path / "origin.json"
        self.notes = path / "notes.jsonl"

    @property
    def finished(self) -> bool:
        """Whether it has its report, which is written last, and as many steps as its recipe asks for."""
        return self.report.is_file() and not self._asks_for_more_steps()

    def _asks_for_more_steps(self) -> bool:
        """Whether the steps of its recipe were raised after its last checkpoint. What is damaged is reported by
        those who need it."""
        from threedgen.core import checkpoint

        try:
            state = checkpoint.load_state(self.checkpoint)
            stages = _stages(parse_yaml(inside.read_text(self.recipe, LARGEST)))
            return (state["stage"], state["step"]) < (len(stages) - 1, stages[-1]["steps"])
        except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError):
            return False

    def set_steps(self, steps: int) -> None:
        """Writes another number of steps of the last stage into its recipe. Raises UserError."""
        with _writing_to(self.path):
            values = parse_yaml(inside.read_text(self.recipe, LARGEST))
            _stages(values)[-1]["steps"] = steps
            self._write_recipe(values)

    def _write_recipe(self, resolved: Mapping[str, Any]) -> None:
        import yaml

        text = yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True)
        if "\x85" in text:  # PyYAML writes this line break unchanged, but reads it as another one
            text = yaml.safe_dump(dict(resolved), sort_keys=False)
        with replacing(self.recipe) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run. Raises UserError if the folder is missing or no run, and for links that lead out."""
        run = cls(Path(path))
        with _or_user_error(f"cannot read the run '{path}'", "check its permissions"):
            if not run.path.is_dir():
                raise UserError(f"there is no run '{path}': name a folder that a command of threedgen wrote")
            if not run.recipe.is_file():
                raise UserError(f"'{path}' is not a run: it has no {RECIPE}")
            inside.require_readable(run.path)
        return run

    @classmethod
    def create(
        cls,
        path: Path,
        resolved: Mapping[str, Any],
        files: Mapping[str, Path] = MappingProxyType({}),
        origin: Mapping[str, Any] = MappingProxyType({}),
    ) -> RunDirectory:
        """A new run at `path`, with its recipe written. If that fails, nothing of it is left.

        resolved: the recipe with every default written out. files: folders that are moved into the run (name in the
        run, one of REFERENCE, PICTURES and FILM -> present path). origin: of the recipe, see
        `Recipe`. Raises UserError as `check_free` does.
        """
        # Another name would be in the way of the same command after a kill before the recipe is written.
        assert files.keys() <= set(_FIRST)

        check_free(path)
        run = cls(path)
        try:
            with _writing_to(path):
                run.made = [folder for folder in (path, *path.parents) if not folder.exists()]
                run.previews.mkdir(parents=True, exist_ok=True)
                for name, folder in files.items():
                    run.given.append(run.path / name)
                    shutil.rmtree(run.path / name, ignore_errors=True)  # of a command that was killed
                    shutil.move(folder, run.path / name)
            run._write_recipe(resolved)
            if origin:
                store(run.origin, json.dumps(origin, indent=2, ensure_ascii=False, default=str).encode())
        except BaseException:
            run.discard()
            raise
        return run

    def discard(self) -> None:
        """Removes what `create` and the first step have written; a folder that existed before stays."""
        for folder in (self.previews, self.checkpoint, *self.given):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # what cannot be removed, or belongs to somebody else, stays
            for file in (self.recipe, self.origin, self.notes, self.metrics):
                file.unlink(missing_ok=True)
            for folder in self.made:
                folder.rmdir()


def _stages(recipe: Any) -> list[dict[str, Any]]:
    """The plain values of the stages of a resolved recipe; itself if it has none."""
    return recipe.get("stages") or [recipe]


def choose_path(out: str | Path | None, prompt: str) -> Path:
    """The folder of a new run: `out`, or the first free one of runs/<slug of the prompt>, -2, -3 and so on."""
    if out is not None:
        return Path(out)
    path, number = DEFAULT_PARENT / slug(prompt), 2
    with _writing_to(path):
        while path.exists():
            path, number = DEFAULT_PARENT / f"{slug(prompt)}-{number}", number + 1
    return path


def check_free(path: Path) -> None:
    """Raises UserError unless a new run can be written at `path`: it must be writable and hold no files.

    Nothing is created, so that a run that is refused for another reason leaves no trace.
    """
    with _writing_to(path):
        _check_free(path)


def _is_left_over(path: Path) -> bool:
    """Whether a folder holds only what a command that was killed had put there before its recipe or its scene file.

    A folder without the files of a lock was not made by this program, so that it must be empty.
    """
    ours = lock.is_left(path)
    return all(
        entry.name in lock.FILES or (ours and (is_temporary(entry.name) or entry.name in _FIRST))
        for entry in path.iterdir()
    )


def _check_free(path: Path) -> None:
    if (path / RECIPE).is_file():
        state = "finished" if RunDirectory(path).finished else "unfinished"
        raise UserError(
            f"'{path}' already holds a run ({state}): continue it with `threedgen resume {path}` "
            "or choose another --out"
        )
    if path.is_dir() and not _is_left_over(path):
        raise UserError(f"'{path}' is not empty and not a run: choose another --out")
    if path.exists() and not path.is_dir():
        raise UserError(f"'{path}' is a file, not a folder: choose another --out")
    parent = path.absolute()
    while not parent.exists():
        parent = parent.parent
    reason = None
    if not parent.is_dir():
        reason = os.strerror(errno.ENOTDIR)
    elif not os.access(parent, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EACCES)
    elif os.statvfs(parent).f_flag & os.ST_RDONLY if hasattr(os, "statvfs") else False:
        reason = os.strerror(errno.EROFS)
    if reason:
        raise UserError(f"cannot write to '{path}': {reason} ({parent}); choose another --out")


def _writing_to(path: Path) -> contextlib.AbstractContextManager[None]:
    return _or_user_error(f"cannot write to '{path}'", "choose another --out")


@contextlib.contextmanager
def _or_user_error(what: str, advice: str) -> Iterator[None]:
    """Turns OSError into UserError. Before Python 3.14, `Path.is_file` and its like raise PermissionError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {error.strerror or error}; {advice}") from error
