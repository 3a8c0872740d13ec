"""What a command takes while others compute: as it chooses its threads, with one thread, and with all cores.

    python benchmarks/busy_machine.py [--busy N] [--repeats N] [PROMPT]

Wall seconds of `threedgen text-to-3d`, by turns, medians. The other processes only count. With --busy 0 the machine
is quiet, and the last column over the second is what the other cores bring.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

_COUNTING = "while True: pass"


def seconds(prompt: str, threads: int | None) -> float:
    """Wall seconds of the command. threads: None: as it chooses."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [] if threads is None else ["--threads", str(threads)]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "threedgen", "text-to-3d", prompt, "--out", f"{folder}/run", *words],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompt", nargs="?", default="a red cube")
    parser.add_argument("--busy", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    others = [subprocess.Popen([sys.executable, "-c", _COUNTING]) for _ in range(arguments.busy)]
    try:
        found: dict[str, list[float]] = {"as it chooses": [], "1 thread": [], f"{cores} threads": []}
        for _ in range(arguments.repeats):
            for name, threads in zip(found, (None, 1, cores), strict=True):
                found[name].append(seconds(arguments.prompt, threads))
    finally:
        for other in others:
            other.kill()
    print(f"{arguments.busy} busy processes on {cores} cores, wall seconds, medians of {arguments.repeats}\n")
    print("| threads | s |\n|---|---|")
    for name, values in found.items():
        print(f"| {name} | {statistics.median(values):.1f} |")


if __name__ == "__main__":
    main()
