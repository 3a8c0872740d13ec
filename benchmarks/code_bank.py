"""A code bank of thousands of scenes: memory, disk, and milliseconds a batch, with and without read-ahead.

    python benchmarks/code_bank.py [--scenes 10000] [--reads 100] [--pause 0.1] [--folder /tmp] [--markdown FILE]

Every scene is written once, with a commit every 1,000; then batches drawn at random are read that are in no cache.
--pause: seconds between batches, as the work of a training step; it is in none of the times. What it wrote is
removed at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tables import add_markdown, write_markdown

from threedgen.ssdnerf.code_bank import CodeBank, Records

SHAPE, CELLS, BATCH = (3, 6, 64, 64), 32, 8


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000.0 * (time.perf_counter() - started)


def peak_memory() -> float:
    """Gigabytes, of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def forget(folder: Path) -> None:
    """Has the operating system drop what it cached of these files."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_all(bank: CodeBank) -> tuple[float, float]:
    """Milliseconds a batch to write every scene once, and to flush, spread over the batches."""
    code = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(0))
    density = torch.zeros(BATCH, CELLS, CELLS, CELLS, dtype=torch.float16)
    writes, flushes = [], 0.0
    for first in range(0, bank.count, BATCH):
        scenes = range(first, min(first + BATCH, bank.count))
        part = slice(len(scenes))
        records = Records(
            code[part], code[part], code[part], torch.full((len(scenes),), first), density[part]
        )
        writes.append(milliseconds(lambda scenes=scenes, records=records: bank.write(scenes, records)))
        if (first // BATCH) % (1000 // BATCH) == 0 or scenes.stop == bank.count:
            flushes += milliseconds(bank.flush)
            bank.committed()
    return sum(writes) / len(writes), flushes / len(writes)


def read_some(bank: CodeBank, reads: int, pause: float, ahead: bool) -> float:
    """Milliseconds a batch to read random scenes that are in no cache, told of one batch ahead or not."""
    order = torch.randperm(bank.count, generator=torch.Generator().manual_seed(1)).tolist()
    batches = [order[first : first + BATCH] for first in range(0, bank.count, BATCH)][:reads]
    forget(bank.folder)
    times = []
    for now, coming in zip(batches, [*batches[1:], []], strict=True):
        times.append(milliseconds(lambda now=now: bank.read(now)))
        if ahead:
            bank.expect(coming)
        time.sleep(pause)
    return sum(times[1:]) / len(times[1:])  # the first one was announced to nobody


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--reads", type=int, default=100, help="batches to read in each way")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between batches")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    add_markdown(parser)
    arguments = parser.parse_args()
    before = peak_memory()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        bank: list[CodeBank] = []
        create = milliseconds(lambda: bank.append(CodeBank.create(folder, arguments.scenes, SHAPE, CELLS)))
        bank[0].initialise(0)
        write, flush = write_all(bank[0])
        disk = sum(path.stat().st_blocks * 512 for path in folder.iterdir()) / 1e9
        again = milliseconds(lambda: CodeBank.open(folder, bank[0].slots))
        cold, ahead = (
            read_some(bank[0], arguments.reads, arguments.pause, announced) for announced in (False, True)
        )
        mean = milliseconds(bank[0].reset_to_mean)
    rows = (
        ("scenes", f"{arguments.scenes:,} of {list(SHAPE)}, {CELLS}^3 cells"),
        ("on disk (one slot of two)", f"{disk:.2f} GB"),
        ("peak memory (before the bank)", f"{peak_memory():.2f} GB ({before:.2f} GB)"),
        ("create; open", f"{create:.0f} ms; {again:.0f} ms"),
        (f"write a batch of {BATCH}", f"{write:.1f} ms, and {flush:.1f} ms of flush"),
        (f"read a batch of {BATCH}, no cache", f"{cold:.1f} ms"),
        (f"the same, announced {1000 * arguments.pause:.0f} ms ahead", f"{ahead:.1f} ms"),
        ("all codes to their mean", f"{mean / 1000:.1f} s"),
    )
    lines = ["| code bank | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]
    print("\n".join(lines))
    write_markdown(arguments.markdown, "\n".join(lines))


if __name__ == "__main__":
    main()
