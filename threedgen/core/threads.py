"""How many threads a command computes with, and how they wait for each other.

Threads of OpenMP meet at a barrier after every parallel loop. If another process has the core of one of them, all
others wait, and by default they do so without leaving their own cores: a step of a run then takes a hundred times
as long. So threads sleep while they wait, and a command takes only the cores that are free when it starts.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # with which users choose how threads wait
_COUNT = "OMP_NUM_THREADS"
_STATE = Path("/proc/stat")
_LOOKS, _BETWEEN = 4, 0.004  # seconds between two looks at what is running


@dataclass(frozen=True)
class Choice:
    """count: of threads; 0: as many as torch takes. why: for a report. asked: whether the user chose it."""

    count: int
    why: str
    asked: bool


_chosen = Choice(0, "torch's default", False)


def chosen() -> Choice:
    """What this process computes with. The Python interface leaves the number to torch."""
    return _chosen


def choose(asked: int | None) -> Choice:
    """Decides for this process, before torch is imported. asked: a number of threads; None: those that are free."""
    global _chosen
    if not any(name in os.environ for name in _SETTINGS):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    if asked is not None:
        _chosen = Choice(asked, "--threads", True)
    elif os.environ.get(_COUNT):
        _chosen = Choice(0, _COUNT, True)
    elif "torch" not in sys.modules:
        cores, busy = available_cores(), running()
        if busy and cores > 1:
            others = "another process" if busy == 1 else f"{busy} other processes"
            _chosen = Choice(max(1, cores - busy), f"{others} computed when the command began", False)
    if _chosen.count:
        os.environ[_COUNT] = str(_chosen.count)
    if asked is not None and "torch" in sys.modules:
        import torch

        torch.set_num_threads(asked)
    return _chosen


def may_be(count: int) -> bool:
    """Whether a run that was computed with so many threads may go on with as many here, without being asked."""
    return not _chosen.asked and 1 <= count <= available_cores()


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def running() -> int:
    """Other threads on this machine that compute, the fewest of some looks; 0 where the system does not say."""
    seen = []
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN)
        try:
            lines = _STATE.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            return 0
        counts = [line.split()[1] for line in lines if line.startswith("procs_running")]
        if not counts:
            return 0
        seen.append(max(0, int(counts[0]) - 1))
    return min(seen)
