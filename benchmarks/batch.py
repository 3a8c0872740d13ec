"""What a batch costs: a warm process against separate commands, Ray against one process, and a million rows.

    python benchmarks/batch.py [--parts warm ray rows] [--prompts 50] [--rows 1000000] [--markdown FILE]

warm: CPU and wall seconds a prompt of `text-to-3d` with 40 steps, in separate commands and in one batch.
ray: what a row costs beside its run, with one worker of Ray and in one process; it needs threedgen[ray].
rows: an index with made-up entries: to open it, to add an entry, to write the summary and the gallery; and to read
the table before anything is made.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tables import add_markdown, write_markdown

from threedgen.batch.pieces import Piece
from threedgen.core.errors import UserError
from threedgen.pipelines.prepared import Prepared

COMMAND = [sys.executable, "-m", "threedgen"]
OPTIONS = ["--threads", "1", "--steps", "40"]
SMALL = ["export.mesh.resolution=24", "export.turntable.frames=2", "representation.count=200"]
THINGS = ("cube", "cone", "penguin", "chair", "cat", "rocket", "teapot", "lorry", "apple", "house")
COLOURS = ("red", "blue", "green", "white", "black")
_PIECES = 1000  # of the part ray
_ADDED = 200  # entries whose addition is timed


def prompts(count: int) -> list[str]:
    return [f"a {COLOURS[n // len(THINGS) % len(COLOURS)]} {THINGS[n % len(THINGS)]}" for n in range(count)]


def spent(words: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command and of what it started."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*COMMAND, *words], cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def batch_of(count: int, folder: Path, name: str, *words: str) -> tuple[float, float]:
    (folder / f"{name}.txt").write_text("\n".join(prompts(count)) + "\n")
    return spent(["batch", f"{name}.txt", "--out", name, *OPTIONS, *words], folder)


def warm_against_cold(count: int, folder: Path) -> list[str]:
    """Rows of a table: seconds a prompt, with the files of the recipe and with small ones."""
    lines = [
        "| files | separate commands: wall, CPU (s a prompt) | one batch: wall, CPU (s a prompt) | ratio of CPU |",
        "|---|---|---|---|",
    ]
    for name, settings in (("as the recipe says", []), ("small", SMALL)):
        cold = [
            spent(["text-to-3d", prompt, "--out", f"{name[:2]}-{n}", *OPTIONS, *settings], folder)
            for n, prompt in enumerate(prompts(count))
        ]
        wall, cpu = (sum(column) / count for column in zip(*cold, strict=True))
        warm = [value / count for value in batch_of(count, folder, f"warm-{name[:2]}", *settings)]
        lines.append(
            f"| {name} | {wall:.2f}, {cpu:.2f} | {warm[0]:.2f}, {warm[1]:.2f} | {warm[1] / cpu:.2f} |"
        )
    return lines


def nothing(piece: Piece) -> Prepared:
    """Makes no run, so that what is left is the way there and back."""
    raise UserError("nothing is to be made")


def ray_against_one_process(folder: Path) -> list[str]:
    """Rows of a table: milliseconds that a piece costs beside its run, when the workers have begun."""
    from threedgen.batch.making import InThisProcess
    from threedgen.batch.ray_workers import RayWorkers

    pieces = [Piece("text-to-3d", {"prompt": "x", "seed": str(n)}, folder / str(n)) for n in range(_PIECES)]
    lines = ["| where | a piece (ms wall) |", "|---|---|"]
    for name, workers in (
        ("one process", InThisProcess(nothing)),
        ("one worker of Ray", RayWorkers(nothing, workers=1)),
    ):
        with workers as work:
            outcomes = work(iter(pieces))
            next(outcomes)
            begun = time.perf_counter()
            count = sum(1 for _ in outcomes)
            lines.append(f"| {name} | {(time.perf_counter() - begun) / count * 1e3:.2f} |")
    return lines


def million(rows: int, folder: Path) -> list[str]:
    """Rows of a table: seconds and the memory that came on top, each in a process of its own."""
    from threedgen.batch.index import Index
    from threedgen.batch.pages import write_gallery, write_summary
    from threedgen.batch.rows import Table, survey
    from threedgen.commands.batch import checks

    table = folder / "rows.txt"
    table.write_text("".join(f"a thing of number {number}\n" for number in range(rows)))
    path = folder / "index.jsonl"
    with path.open("w") as file:
        for row in Table(table):
            file.write(
                f'{{"key": "{row.key():016x}", "job": "text-to-3d", "subject": "{row.subject}", "state": '
                f'"finished", "reason": "", "run": "{row.name}", "seconds": 1.0, "scores": {{"loss": 0.5}}}}\n'
            )
    check = checks()
    entry = {"state": "finished", "run": "x", "reason": "", "scores": {}}

    def add() -> float:
        index, seconds = Index(path), []
        for number in range(_ADDED):
            begun = time.perf_counter()
            index.add(number, entry)
            seconds.append(time.perf_counter() - begun)
        return max(seconds)

    def pages() -> None:
        index, source = Index(path), Table(table)
        lines = ((row.job, row.subject, index.get(row.key())) for row in source)
        write_summary(folder / "summary.csv", lines, ["loss"])
        lines = ((row.job, row.subject, index.get(row.key())) for row in source)
        write_gallery(folder / "gallery.html", lines, "rows", "", rows)

    out = [f"| {rows} rows | seconds | memory on top (MB) |", "|---|---|---|"]
    steps: list[tuple[str, Callable[[], object]]] = [
        ("read and check the table", lambda: survey(Table(table), check)),
        ("open the index", lambda: Index(path)),
        (f"open the index and add an entry, the slowest of {_ADDED}", add),
        ("open the index, write the summary and the gallery", pages),
    ]
    for name, step in steps:
        seconds, megabytes = in_a_fork(step)
        out.append(f"| {name} | {seconds:.4f} | {megabytes:.0f} |")
    out.append(f"| (the file of the index has {path.stat().st_size / 1e6:.0f} MB) | | |")
    return out


def in_a_fork(step: Callable[[], object]) -> tuple[float, float]:
    """What a step took in seconds, or what it says, and how much its memory grew at most."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        before, begun = resident(), time.perf_counter()
        answer = step()
        seconds = answer if isinstance(answer, float) else time.perf_counter() - begun
        os.write(writer, f"{seconds} {resident('VmHWM') - before}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        seconds, grown = (float(word) for word in file.read().split())
    os.waitpid(child, 0)
    return seconds, grown


def resident(name: str = "VmRSS") -> float:
    """Megabytes of memory of this process, now or (VmHWM) at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return statistics.fmean(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=("warm", "ray", "rows"), default=["warm", "ray", "rows"]
    )
    parser.add_argument("--prompts", type=int, default=50, help="of the part warm; default: 50")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the part rows; default: 1000000")
    add_markdown(parser)
    arguments = parser.parse_args()
    parts = {
        "warm": lambda folder: warm_against_cold(arguments.prompts, folder),
        "ray": ray_against_one_process,
        "rows": lambda folder: million(arguments.rows, folder),
    }
    tables = []
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            tables.append("\n".join(parts[part](Path(folder))))
        print(tables[-1], flush=True)
    write_markdown(arguments.markdown, "\n\n".join(tables))


if __name__ == "__main__":
    main()
