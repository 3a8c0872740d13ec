"""Files and folders that are written completely or not at all: beside their place first, then moved over it.

They are flushed to the disk before they are moved: after a power cut the earlier file is there, or the new one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from threedgen.core.errors import UserError

_BLOCK = 1 << 20  # bytes that are compared at a time
# The name of a temporary: the process that writes it comes first, so that others know when it is left over.
_TEMPORARY = re.compile(r"\.threedgen-(\d+)-.+")
_OLD = "-old-"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, with the same suffix, which becomes `path` at the end of the block.

    Missing parent folders are made. If the block raises, `path` stays as it was, and the temporary file and the
    parent folders that were made are removed. Raises UserError if the file cannot be written (no permission, a full
    disk, a folder of that name).
    """
    path = Path(path)
    made = missing(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_prefix(), suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        remove_empty(made)
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # with mkstemp's 0600 nobody else could read the file
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
        made = []
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        remove_empty(made)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place at the end of the block.

    Missing parent folders are made. If the block raises, `folder` stays as it was and the temporary folder is
    removed. Raises UserError if the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(), dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    # Its name says whose place it had: a kill between the two moves below leaves nothing in that place.
    old = temporary.with_name(f"{temporary.name}{_OLD}{folder.name}")
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _flush_all(temporary)
        if folder.exists():
            os.replace(folder, old)  # a folder can only be renamed over an empty one
        os.replace(temporary, folder)
        flush(folder.parent)
    except OSError as error:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise _unwritable(folder, error) from error
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def sweep(folder: Path, stop: str, apart: str = "") -> None:
    """Removes the temporaries that processes which are gone have left in `folder` and below, and puts a folder back
    that was to be replaced.

    stop: the name of a file; folders below that have one belong to another process and are left alone. apart: the
    name of a folder in `folder` that is left alone as well. Links are not followed. What cannot be removed stays.
    """
    for place, folders, files in os.walk(folder):
        if Path(place) == folder and apart in folders:
            folders.remove(apart)
        if Path(place) != folder and stop in files:
            folders.clear()
            continue
        for name in filter(_is_left_over, files):
            with contextlib.suppress(OSError):
                Path(place, name).unlink()
        for name in [name for name in folders if _TEMPORARY.fullmatch(name)]:
            folders.remove(name)
            if not _is_left_over(name):
                continue
            replaced = Path(place, name.partition(_OLD)[2])
            if _OLD in name and not replaced.exists():
                with contextlib.suppress(OSError):
                    os.replace(Path(place, name), replaced)
            else:
                shutil.rmtree(Path(place, name), ignore_errors=True)


def flush(path: Path) -> None:
    """Makes the content of a file, or the names in a folder, last through a power cut. Raises OSError.

    Windows has no such call for folders, and does not need one.
    """
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_all(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        flush(path)


def missing(folder: Path) -> list[Path]:
    """The folders that would have to be made for `folder` to exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Removes folders, the innermost first, up to the first that is missing or holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _prefix() -> str:
    return f".threedgen-{os.getpid()}-"


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is a temporary of this module."""
    return _TEMPORARY.fullmatch(name) is not None


def _is_left_over(name: str) -> bool:
    """Whether a temporary of this name belongs to no other process that runs on this machine."""
    found = _TEMPORARY.fullmatch(name)
    # In a container every process has the number of one before it, so that our own number says nothing.
    return found is not None and (int(found[1]) == os.getpid() or not _runs(int(found[1])))


def _runs(process: int) -> bool:
    if os.name != "posix":
        return False  # there a signal would end the process, and a file that is open cannot be removed
    try:
        os.kill(process, 0)
    except PermissionError:
        return True  # it runs as another user
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextmanager
def replacing_all(folder: str | Path, last: str = "") -> Iterator[Path]:
    """An empty temporary folder inside `folder`, whose files are moved into `folder` at the end of the block.

    last: name of the file that is moved after all others. `folder` and its parents are made if they are missing.
    If the block raises, the files in `folder` stay, the temporary folder is removed, and `folder` as well
    if it was made here. Raises UserError as `replacing` does.
    """
    folder = Path(folder)
    made, temporary = missing(folder), folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(), dir=folder))
        yield temporary
        names = sorted((path.name for path in temporary.iterdir()), key=lambda name: (name == last, name))
        for name in names:
            if (folder / name).is_dir():  # known before the first file is replaced
                raise OSError(f"{name} is a folder there")
        _flush_all(temporary)
        for name in names:
            os.replace(temporary / name, folder / name)
        flush(folder)
    except OSError as error:
        raise _unwritable(folder / last, error) from error
    finally:
        if temporary != folder:
            shutil.rmtree(temporary, ignore_errors=True)
        remove_empty(made)  # up to one that holds what was written


def store(path: str | Path, data: bytes) -> None:
    """Writes a file with `replacing` after it was read back. Raises UserError if the file cannot be written."""
    with replacing(path) as temporary:
        write_checked(temporary, data)


def write_checked(path: Path, data: bytes) -> None:
    """Writes a file in place and reads it back. Raises OSError unless it then holds exactly `data`."""
    path.write_bytes(data)
    view = memoryview(data)
    with path.open("rb") as file:
        same = all(file.read(_BLOCK) == view[at : at + _BLOCK] for at in range(0, len(data), _BLOCK))
        if not same or file.read(1):
            raise OSError("what was written does not read back")


def _unwritable(path: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"cannot write {path}: {reason}; choose another place or free some space")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
