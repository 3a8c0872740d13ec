"""Paths that users give, and the files in their folders."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path

from threedgen.core.errors import UserError

_COMPANIONS = ("__MACOSX", "Thumbs.db", "desktop.ini")


def existing(path: str | Path, missing: str) -> Path:
    """`path` with its ~ expanded; a file or folder exists there.

    missing: the message if nothing exists there, with `{path}` in it. Raises UserError with that message, for a
    path that cannot be examined (too long, forbidden, with a NUL character, or with the ~ of an unknown user), and
    for what is neither a file nor a folder, such as a named pipe.
    """
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:  # there is no such user
        raise _unusable(path, str(error)) from error
    try:
        mode = expanded.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(missing.format(path=expanded)) from error
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    except ValueError as error:  # there is a NUL character in it
        raise _unusable(path, str(error)) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to read a named pipe may wait for ever
        raise _unusable(path, "it is neither a file nor a folder")
    return expanded


def _unusable(path: str | Path, reason: str) -> UserError:
    shown = str(path) if len(str(path)) <= 80 else f"{str(path)[:80]}..."
    return UserError(f"cannot look at '{shown}': {reason}")


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Paths by their names, in which numbers count as numbers: frame2.png comes before frame10.png."""
    return sorted(paths, key=lambda path: (_by_numbers(path.name), path.name))


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, `in_order`, without the companions that systems put beside files.

    These are the files that begin with a dot (a Mac's "._picture.png" has the suffix of a picture and is none) and
    those of _COMPANIONS. Raises OSError.
    """
    return in_order(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _COMPANIONS
    )


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Texts and numbers of a name in turn; a number compares before a text."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)]
