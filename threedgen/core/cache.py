"""Folders of files that can be made again. They may be deleted at any time, and any number of processes may share
them."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def user_folder(kind: str) -> Path | None:
    """The folder of the files of one kind of this user; None if there is no home directory.

    $THREEDGEN_CACHE/KIND if that is set, else threedgen/KIND in the platform's folder for such files:
    $XDG_CACHE_HOME or ~/.cache, on macOS ~/Library/Caches, on Windows %LOCALAPPDATA%.
    """
    chosen = os.environ.get("THREEDGEN_CACHE")
    try:
        return (Path(chosen).expanduser() if chosen else _platform_folder() / "threedgen") / kind
    except RuntimeError:  # no home directory
        return None


def _platform_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    chosen = os.environ.get(variable, "")
    # By the XDG specification relative paths are ignored.
    return Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"


def prune(folder: Path, pattern: str, limit: int) -> None:
    """Delete the files of a pattern whose last use is longest ago until they take no more than `limit` bytes."""
    files = []
    with contextlib.suppress(OSError):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):  # deleted by another process
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
    excess = sum(size for _, size, _ in files) - limit
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        excess -= size


def mark_used(path: Path) -> None:
    """Record a use of a file, for `prune`."""
    with contextlib.suppress(OSError):  # deleted in the meantime, or owned by another user
        os.utime(path)
