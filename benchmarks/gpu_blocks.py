"""What the blocks of benchmarks/prove_gpu.py share: what must hold, what is only measured, and where they run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

_PATIENCE = 300.0  # seconds that a command may take


@dataclass(frozen=True)
class Place:
    """Where everything runs. small: the sizes of a test, on a machine without a GPU. work: a folder for files."""

    device: str
    small: bool
    work: Path

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def now(self) -> float:
        """Seconds, when all that was begun on the device is done."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


@dataclass
class Block:
    """What one block found. failed: each "must" that does not hold, as a sentence. measured: figures by their
    names, for the file of results."""

    musts: int = 0
    failed: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def must(self, holds: bool, sentence: str) -> None:
        """Counts something that must hold."""
        self.musts += 1
        if not holds:
            self.failed.append(sentence)

    def at_most(self, name: str, value: float, limit: float) -> None:
        """A figure that must not exceed a limit (NaN does); the largest of each name is kept."""
        if not self.measured.get(name, value) > value:
            self.measured[name] = value
        self.must(value <= limit, f"{name} is {value:.3g}, more than {limit:.3g}")


def run_block(block: Callable[[Place], Block], place: Place) -> Block:
    """A block with its seconds; one that raises an error has failed with that error."""
    began = place.now()
    try:
        found = block(place)
    except Exception as error:  # noqa: BLE001  the other blocks are to be seen all the same
        found = Block()
        found.must(False, f"it ended in {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    found.seconds = time.perf_counter() - began
    return found


def command(words: list[str], before: str = "") -> subprocess.Popen[str]:
    """A threedgen command in a process of its own. before: Python that is run first, to hide a library."""
    script = f"import sys\n{before}\nfrom threedgen.commands.main import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(words: list[str], before: str = "") -> tuple[int, str]:
    """The exit status of a command, and what it wrote to stderr."""
    process = command(words, before)
    try:
        _, errors = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    return process.returncode, errors
