"""Memory that ran out, and sizes that no memory could hold: one line in place of a traceback."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from threedgen.core.errors import UserError

PRIOR, VIEWS, REPRESENTATION, FILES = "the prior", "the views", "the representation", "the files"
_ROOMS = {
    "guidance": PRIOR,
    "cameras": VIEWS,
    "kernels": VIEWS,
    "loop": VIEWS,
    "renderers": VIEWS,
    "representations": REPRESENTATION,
    "export": FILES,
    "metrics": FILES,
}
# What the allocators of torch and numpy say; they raise RuntimeError and ValueError, as mistakes in code do.
_SAID = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|Storage size calculation overflowed|numel: integer multiplication overflow|array is too big"
    r"|Maximum allowed dimension exceeded",
    re.IGNORECASE,
)
_ASKED = re.compile(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGT]i?B)")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on any device, or never could be."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | ValueError) and _SAID.search(str(error)) is not None


def asker(error: BaseException) -> str:
    """Which part of the work an error comes from: one of the names above, or "a step" for any other part."""
    root = Path(__file__).parents[1]
    paths = [Path(frame.filename) for frame in reversed(traceback.extract_tb(error.__traceback__))]
    rooms = [path.relative_to(root).parts[0] for path in paths if path.is_relative_to(root)]
    parts = [_ROOMS[room] for room in rooms if room in _ROOMS]
    if FILES in parts:  # views that are drawn for a file have the sizes of the file
        return FILES
    return parts[0] if parts else "a step"


def described(error: BaseException) -> str:
    """The beginning of a line about an error of `ran_out`: what asked for how much memory, and the peak so far."""
    found = _ASKED.search(str(error))
    more = "more"
    if found is not None:
        more = f"{_gigabytes(int(found[1]))} more" if found[1] else f"{found[2]} more"
    highest = [f"{_gigabytes(peak)}{where}" for where, peak in _peaks()]
    at = f" at a peak of {' and '.join(highest)}" if highest else ""
    return f"out of memory: {asker(error)} asked for {more}{at}"


@contextmanager
def in_one_line(advice: Callable[[BaseException], str]) -> Iterator[None]:
    """Turns memory that runs out inside the block into a UserError. advice: what to do about an error, which ends
    that line."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:
        if not ran_out(error):
            raise
        raise UserError(f"{described(error)}; {advice(error)}") from error


def peak_memory() -> int | None:
    """The largest resident size of this process so far, in bytes; None if the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass  # not on Linux: the C library is asked instead
    try:
        import resource
    except ImportError:
        return None  # Windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def free_memory(device: str) -> int | None:
    """The bytes that a process could still take, of the GPU for "cuda"; None if the system does not tell."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass  # not Linux
    return None


def gpu_in_use() -> dict[str, str | int] | None:
    """The name of the GPU that this process computed on, and the most memory that its tensors took there so far, in
    bytes (`name`, `peak_memory_bytes`); None if it used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    name, peak = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated()
    return {"name": name, "peak_memory_bytes": peak}


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.{0 if count > 1e10 else 2}f} GB"


def _peaks() -> Iterator[tuple[str, int]]:
    """Where memory was used, for a sentence, and the most of it in bytes."""
    here = peak_memory()
    if here is not None:
        yield "", here
    gpu = gpu_in_use()
    if gpu is not None:
        yield " on the GPU", int(gpu["peak_memory_bytes"])
