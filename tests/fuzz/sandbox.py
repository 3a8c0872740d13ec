"""One try: a call in a forked process with little memory and time, whose traces on the disk are looked at.

A fork costs milliseconds, because everything is imported already; a process must have one thread when it forks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fuzz.mutations import FOREIGN

Use = Callable[[], int | None]
"""It returns 0 or None if it accepts its inputs, and returns 2 or raises UserError if it refuses them."""

ACCEPTED, ONE_LINE, TRACEBACK, HANG = "accepted", "one line", "traceback", "hang"
MEMORY, LEFT, CODE = "memory", "left behind", "foreign code"
VERDICTS = (ACCEPTED, ONE_LINE, TRACEBACK, HANG, MEMORY, LEFT, CODE)
GOOD = (ACCEPTED, ONE_LINE)

HOME, TEMPORARY, OUT = "home", "tmp", "out"
_MEMORY = 4 * 1024**3  # bytes that a try may take beside what is there before it
SECONDS = 20  # of the processor
WALL = 60.0  # seconds: a try that waits for something takes no time of the processor
_TOO_LITTLE = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "std::bad_alloc")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Outcome:
    """What a try came to: one of VERDICTS, and more about it on one line. seconds: of the clock."""

    verdict: str
    about: str
    seconds: float


def rehearse(calls: Callable[[], object], place: Path) -> None:
    """Calls something in a process of its own, and imports what it imported into this one, where it saves the tries
    the time. What a call starts beside that, threads for example, stays out of this process.

    Raises AssertionError if the call fails.
    """

    def call() -> None:
        calls()

    said, status = _forked(call, place)
    verdict, about = _judge(said, status)
    assert verdict == ACCEPTED, f"good inputs are not made or not accepted: {verdict} {about}"
    for name in json.loads(said)["modules"]:
        with contextlib.suppress(ImportError, AttributeError, RuntimeError):
            importlib.import_module(name)


def attempt(use: Use, place: Path) -> Outcome:
    """Calls `use` in a process of its own, whose current folder is `place`.

    The files in `place` must stay as they are, but for the folder OUT, which is for results: if `use` refuses its
    inputs, nothing of it may be there.
    """
    for name in (HOME, TEMPORARY):
        (place / name).mkdir()
    before, begun = _snapshot(place), time.perf_counter()
    said, status = _forked(use, place)
    seconds = time.perf_counter() - begun
    verdict, about = _judge(said, status)
    if verdict in GOOD:
        traces = _traces(before, _snapshot(place), verdict == ACCEPTED)
        traces += [f"{path} (outside)" for path in json.loads(said)["outside"]]
        if traces:
            return Outcome(LEFT, f"{', '.join(traces[:4])}, after: {about}", seconds)
    return Outcome(verdict, about, seconds)


def _forked(use: Use, place: Path) -> tuple[str, int]:
    """What a process that calls `use` wrote, and how it ended."""
    assert threading.active_count() == 1, "a process with several threads cannot be forked safely"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(use, place, writing)
    os.close(writing)
    return _wait(child, reading)


def _in_child(use: Use, place: Path, pipe: int) -> None:
    """Never returns."""
    known = set(sys.modules)
    code, outside = _watch(place)
    try:
        os.setpgid(0, 0)  # what it starts ends with it
        _settle(place)
        _limit()
        log = os.open(os.devnull, os.O_WRONLY)
        os.dup2(log, 1)
        errors = os.memfd_create("stderr")
        os.dup2(errors, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        verdict, about = _called(use, errors)
        said: dict[str, Any] = {"verdict": verdict, "about": about}
    except BaseException as error:  # noqa: BLE001  a defect of this module, to be reported as what it is
        said = {"verdict": TRACEBACK, "about": f"{type(error).__name__} of the sandbox: {error}"}
    with contextlib.suppress(BaseException):
        if code:
            said = {"verdict": CODE, "about": code[0]}
        with open(pipe, "w") as stream:
            modules = [name for name in sys.modules if name not in known and name != FOREIGN]
            json.dump({**said, "outside": outside, "modules": modules}, stream)
    os._exit(0)


def _called(use: Use, errors: int) -> tuple[str, str]:
    from threedgen.core.errors import UserError

    try:
        status = use()
        if status != 2:
            return ACCEPTED, ""
        sys.stderr.flush()
        text = os.pread(errors, 100_000, 0).decode(errors="replace")
        said = [line for line in text.splitlines() if line.startswith("threedgen")]
        return (ONE_LINE, said[0]) if len(said) == 1 else (TRACEBACK, f"{len(said)} lines: {text[-300:]}")
    except UserError as error:
        lines = str(error).strip().splitlines()
        return (ONE_LINE, lines[0]) if len(lines) == 1 else (TRACEBACK, f"{len(lines)} lines: {error}")
    except MemoryError:
        return MEMORY, _last_line()
    except BaseException as error:  # noqa: BLE001  which one it is is the result
        text = f"{type(error).__name__}: {error}"
        kind = MEMORY if any(word in text for word in _TOO_LITTLE) else TRACEBACK
        return kind, f"{text[:200]} ({_last_line()})"


def _last_line() -> str:
    """Where the exception came from: the last line of the product, and the very last one."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if "/threedgen/" in frame.filename] or frames
    chosen = [ours[-1], frames[-1]] if ours else []
    return " > ".join(dict.fromkeys(f"{Path(frame.filename).name}:{frame.lineno}" for frame in chosen))


def _settle(place: Path) -> None:
    """The current folder, the home and the place for temporary files."""
    os.environ |= {
        "HOME": str(place / HOME),
        "XDG_CACHE_HOME": str(place / HOME),
        "HF_HOME": str(place / HOME),
        "TMPDIR": str(place / TEMPORARY),
    }
    tempfile.tempdir = None
    os.chdir(place)


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch(place: Path) -> tuple[list[str], list[str]]:
    """Two lists that fill while the process runs: foreign code that it touches, paths outside that it writes."""
    code: list[str] = []
    outside: list[str] = []

    class Trap(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if not name.startswith("__"):
                code.append(f"{FOREIGN}.{name} was looked for")
            raise AttributeError(name)

    sys.modules[FOREIGN] = Trap(FOREIGN)
    home = str(place.resolve())

    def notice(path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            full = os.path.realpath(os.fsdecode(path))
            if not full.startswith((home + os.sep, "/dev/", "/proc/")) and full != home:
                outside.append(full)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING) or event in (
            "os.mkdir",
            "os.remove",
            "os.rmdir",
        ):
            notice(arguments[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            notice(arguments[1])
        elif event == "os.system":
            code.append(f"os.system {arguments}")

    sys.addaudithook(hook)
    return code, outside


def _wait(child: int, reading: int) -> tuple[str, int]:
    """What the process wrote and how it ended; it is killed after WALL seconds."""
    said, until = b"", time.monotonic() + WALL
    with open(reading, "rb", buffering=0) as stream:
        while True:
            ready, _, _ = select.select([stream], [], [], max(0.0, until - time.monotonic()))
            part = stream.read(65536) if ready else b""
            if not part:
                break
            said += part
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # it, if it is too slow, and whatever it started
    _, status = os.waitpid(child, 0)
    return said.decode(), status


def _judge(said: str, status: int) -> tuple[str, str]:
    if said:
        words = json.loads(said)
        return words["verdict"], " ".join(words["about"].split())[:400]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        slow = name in ("SIGXCPU", "SIGKILL")
        return (HANG if slow else TRACEBACK), f"ended by {name}"
    return TRACEBACK, f"ended with status {status} and said nothing"


def _snapshot(place: Path) -> dict[str, str]:
    """The digest of every file below a folder, and the names of folders and links, by path."""
    found = {}
    for folder, folders, files in os.walk(place):
        for name in folders + files:
            path = Path(folder, name)
            key = str(path.relative_to(place))
            if path.is_symlink():
                found[key] = f"link to {path.readlink()}"
            elif path.is_dir():
                found[key] = "folder"
            else:
                status = path.stat()
                found[key] = f"{status.st_size} {status.st_mtime_ns}"
    return found


def _traces(before: Mapping[str, str], after: Mapping[str, str], accepted: bool) -> list[str]:
    """What is not as it should be on the disk."""
    traces = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key):
            continue
        top, name = key.split(os.sep)[0], Path(key).name
        if top == HOME:
            continue  # caches
        if top == OUT and accepted and not name.startswith("."):
            continue
        verb = "gone" if key not in after else "changed" if key in before else "new"
        traces.append(f"{key} ({verb})")
    return traces
