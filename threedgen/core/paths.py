"""Paths that users give."""

from __future__ import annotations

from pathlib import Path

from threedgen.core.errors import UserError


def existing(path: str | Path, missing: str) -> Path:
    """`path` with its ~ expanded; a file or folder exists there.

    missing: the message if nothing exists there, with `{path}` in it. Raises UserError with that message, and for a
    path that cannot be examined: too long, forbidden, with a NUL character, or with the ~ of an unknown user.
    """
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:  # there is no such user
        raise _unusable(path, str(error)) from error
    try:
        expanded.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(missing.format(path=expanded)) from error
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    except ValueError as error:  # there is a NUL character in it
        raise _unusable(path, str(error)) from error
    return expanded


def _unusable(path: str | Path, reason: str) -> UserError:
    shown = str(path) if len(str(path)) <= 80 else f"{str(path)[:80]}..."
    return UserError(f"cannot look at '{shown}': {reason}")
