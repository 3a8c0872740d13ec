"""One writer a folder: what a command does that writes into a run folder or into the folder of a training.

    FOLDER/.threedgen-lock    locked by the operating system until the process ends, however it ends
    FOLDER/.threedgen-owner   JSON: the process that holds it and its machine, for messages

Both are removed at the end, and stay after a kill. Then the next command on the same machine takes the folder over.
On a network drive the lock of another machine may be invisible, so what that machine left is not taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threedgen.core import atomic, inside
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError

LOCK, OWNER = ".threedgen-lock", ".threedgen-owner"
FILES = (LOCK, OWNER)
_LARGEST = 4096  # bytes of the file OWNER


@contextmanager
def holding(folder: Path, onward: Callable[[], str], apart: str = "") -> Iterator[None]:
    """Inside the block this process alone writes into `folder`, which is made if it is missing.

    Temporaries that killed processes left there are removed first. After the block, folders that were made and hold
    nothing are removed. onward: is asked after an unexpected error where the work stands and how it goes on; the
    answer is added to the error as a note. apart: the name of a folder in `folder` whose content is not held with
    it, because it consists of folders that are held by themselves.

    Raises UserError if another process holds the folder, if it cannot be written, and if it holds links or what is
    neither a file nor a folder.
    """
    from filelock import FileLock, Timeout

    made = atomic.missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not of a thread: the function that ends the block may run in another one than its begin.
        lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        lock.acquire()
    except Timeout as error:
        raise UserError(_taken(folder)) from error
    except OSError as error:
        atomic.remove_empty(made)
        reason = error.strerror or error
        raise UserError(f"cannot write to '{folder}': {reason}; choose another folder") from error
    ours, identity = False, _identity(folder)
    try:
        _require_no_other_machine(folder)
        ours = True
        _prepare(folder, apart)
        yield
    except UserError:
        raise
    except Exception as error:
        if not getattr(error, "__notes__", ()):
            error.add_note(f"threedgen: {onward()}")
        raise
    finally:
        # The lock is removed while it is held: who waits for this file sees that it is gone, and makes a new one.
        # Another lock means that the folder was removed meanwhile, and that the new one is another process's.
        if _identity(folder) == identity:
            for name in FILES if ours else (LOCK,):
                with contextlib.suppress(OSError):
                    (folder / name).unlink(missing_ok=True)
        lock.release()
        if os.name == "nt":  # where a file that is open cannot be removed
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink(missing_ok=True)
        atomic.remove_empty(made)


def is_left(folder: Path) -> bool:
    """Whether a process of this machine held a folder and did not let go of it, as after a kill."""
    owner = _owner(folder)
    return owner is not None and owner["machine"] == platform.node()


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells the file LOCK from others of its name; None if there is none."""
    try:
        status = (folder / LOCK).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def require_held(folder: Path) -> None:
    """For use inside the block of `holding`: raises UserError if somebody has removed or moved the folder since."""
    if not is_held(folder):
        raise UserError(
            f"'{folder}' was removed or moved while this command wrote into it: run it again, or continue what was "
            "moved where it is now"
        )


def is_held(folder: Path) -> bool:
    """Whether this process holds a folder, which is still the same."""
    owner = _owner(folder)
    return owner is not None and (owner["process"], owner["machine"]) == (os.getpid(), platform.node())


def _prepare(folder: Path, apart: str) -> None:
    """Makes the folder safe to write, and says who does. Raises UserError."""
    try:
        inside.require_writable(folder, apart)
        atomic.sweep(folder, LOCK, apart)
        owner = {"process": os.getpid(), "machine": platform.node()}
        (folder / OWNER).write_text(json.dumps(owner) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write to '{folder}': {error.strerror or error}; free some space or choose another folder"
        ) from error


def _taken(folder: Path) -> str:
    owner = _owner(folder)
    who = f"process {owner['process']} on {owner['machine']}" if owner else "another process"
    return f"'{folder}' is in use: {who} writes into it; wait until it is done, or stop it"


def _require_no_other_machine(folder: Path) -> None:
    """UserError if a process of another machine did not let go of the folder: whether it still runs is not known
    here."""
    owner, here = _owner(folder), platform.node()
    if owner and owner["machine"] != here:
        raise UserError(
            f"'{folder}' is in use by process {owner['process']} on {owner['machine']}, as far as can be seen on "
            f"{here}; if that process has ended, remove {folder / OWNER}"
        )


def _owner(folder: Path) -> dict[str, Any] | None:
    """What the file OWNER says, None if there is none or it is damaged."""
    try:
        owner = parse_json(inside.read_text(folder / OWNER, _LARGEST))
    except (OSError, UserError, ValueError):
        return None
    known = isinstance(owner, dict) and isinstance(owner.get("process"), int)
    return owner if known and isinstance(owner.get("machine"), str) else None
