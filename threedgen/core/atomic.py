"""Files that are written completely or not at all: beside their place first, then moved over it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from threedgen.core.errors import UserError

_BLOCK = 1 << 20  # bytes that are compared at a time


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, with the same suffix, which becomes `path` at the end of the block.

    Missing parent folders are made. If the block raises, `path` stays as it was and the temporary file is removed.
    Raises UserError if the file cannot be written (no permission, a full disk, a folder of that name).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # with mkstemp's 0600 nobody else could read the file
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_all(folder: str | Path, last: str = "") -> Iterator[Path]:
    """An empty temporary folder inside `folder`, whose files are moved into `folder` at the end of the block.

    last: name of the file that is moved after all others. `folder` and its parents are made if they are missing.
    If the block raises, the files in `folder` stay, the temporary folder is removed, and `folder` as well
    if it was made here. Raises UserError as `replacing` does.
    """
    folder = Path(folder)
    made, temporary = False, folder
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
        yield temporary
        names = sorted((path.name for path in temporary.iterdir()), key=lambda name: (name == last, name))
        for name in names:
            if (folder / name).is_dir():  # known before the first file is replaced
                raise OSError(f"{name} is a folder there")
        for name in names:
            os.replace(temporary / name, folder / name)
    except OSError as error:
        raise _unwritable(folder / last, error) from error
    finally:
        if temporary != folder:
            shutil.rmtree(temporary, ignore_errors=True)
        if made:
            with suppress(OSError):  # it holds what was written
                folder.rmdir()


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
