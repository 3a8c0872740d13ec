"""Paths as users give them."""

from __future__ import annotations

from pathlib import Path

from threedgen.core.errors import UserError


def existing(path: str | Path, missing: str) -> Path:
    """`path` with its ~ expanded, something being there.

    missing: the message where nothing is, `{path}` in it. Raises UserError there, and for a path that cannot be
    looked at: too long, forbidden, a NUL in it, ~ of nobody.
    """
    try:
        expanded = Path(path).expanduser()
        expanded.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(missing.format(path=expanded)) from error
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: expanduser found no such user
        reason = error.strerror if isinstance(error, OSError) else str(error)
        shown = str(path) if len(str(path)) <= 80 else f"{str(path)[:80]}..."
        raise UserError(f"cannot look at '{shown}': {reason}") from error
    return expanded
