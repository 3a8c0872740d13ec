"""What lies inside a run folder: which of its entries may be written and read, and how large they may be.

A folder may come from somebody else. A link in it could turn a write or a removal into one of another place, or
show the reader a file that is not part of the run; a named pipe would stop the reader for ever, and a file that is
far larger than what it holds would fill the memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from threedgen.core.errors import UserError

DOCUMENT = 64 << 20
"""Bytes at most of a document of a run, such as its recipe, its report or the state of a checkpoint."""
LOG = 1 << 30
"""Bytes at most of a file with a line for each step."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_writable(folder: str | os.PathLike[str], apart: str = "") -> None:
    """Raises UserError for any link below `folder`, and for what is neither a file nor a folder.

    apart: the name of a folder in it into which nobody looks, because what is in it is checked when it is used.

    After this check everything that is written or removed below `folder` is part of it. The folder itself may be a
    link, because that is how its user named it. Raises OSError if it cannot be listed.
    """
    for entry in _entries(folder, apart):
        _require_ordinary(entry)
        if entry.is_symlink():
            raise UserError(
                f"'{entry.path}' is a link, and links in a run folder are not followed: put what it leads to in "
                "its place, or remove it"
            )


def require_readable(folder: str | os.PathLike[str]) -> None:
    """Raises UserError for any link below `folder` that leads out of it, and for what is neither a file nor a
    folder. Raises OSError if it cannot be listed."""
    root = Path(folder).resolve()
    for entry in _entries(folder):
        _require_ordinary(entry)
        if entry.is_symlink() and not _leads_into(entry.path, root):
            raise UserError(
                f"'{entry.path}' is a link that leads out of the run folder: put what it leads to in its place, or "
                "remove it"
            )


def require_no_link(folder: Path, within: str | os.PathLike[str]) -> None:
    """Raises UserError if `folder`, or a folder between it and `within` above it, is a link."""
    root = Path(within)
    for part in (folder, *folder.parents):
        if part == root:
            return
        if part.is_symlink():
            raise UserError(
                f"'{part}' is a link, and links in a run folder are not followed: name the folder that it leads to "
                "with --out, or remove it"
            )


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file, open for reading. Raises UserError for what is not a file, which is not waited for, and OSError if it
    cannot be opened."""
    # Without O_NONBLOCK, to open a named pipe would wait for somebody who writes into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise UserError(f"'{path}' is {_kind(mode)} and not a file: remove it, or restore the file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes; a larger one is not read. Raises UserError and OSError."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(
                f"'{path}' has {size} bytes, and at most {most} can belong to it: restore the file"
            )
        return file.read(most)


def read_text(path: Path, most: int) -> str:
    """The text of a file in UTF-8. Raises UserError and OSError as `read_bytes`, and UnicodeDecodeError."""
    return read_bytes(path, most).decode("utf-8")


def _entries(folder: str | os.PathLike[str], apart: str = "") -> Iterator[os.DirEntry[str]]:
    """Everything below a folder; links are not followed, nor is the folder `apart` in it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False) and entry.name != apart:
                yield from _entries(entry.path)


def _require_ordinary(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink() or entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
        return
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return  # a temporary of another process, which is gone by now
    raise UserError(f"'{entry.path}' is {_kind(mode)}, which no run has: remove it")


def _leads_into(link: str, root: Path) -> bool:
    try:
        return Path(link).resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # links in a circle; RuntimeError before Python 3.13
        return False


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "something else")
