"""Paths that users give."""

from __future__ import annotations

import stat
from pathlib import Path

from threedgen.core.errors import UserError


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
