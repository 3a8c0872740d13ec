"""What it costs to begin: `threedgen --help` and `import threedgen`, in new processes.

    python benchmarks/startup.py [--runs 9]

Prints medians: wall time and CPU time of each in seconds, beside an empty Python process. Wanted: --help within
0.5 s of wall time, the import within 0.15 s of CPU time.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

CASES = {
    "an empty Python process": ["-c", ""],
    "import threedgen": ["-c", "import threedgen"],
    "threedgen --help": ["-m", "threedgen", "--help"],
    "threedgen text-to-3d --help": ["-m", "threedgen", "text-to-3d", "--help"],
    "threedgen completion bash": ["-m", "threedgen", "completion", "bash"],
}


def measure(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="processes of each kind; default: 9")
    runs = parser.parse_args().runs
    print("| what | wall (s) | CPU (s) |\n|---|---|---|")
    for name, arguments in CASES.items():
        wall, cpu = zip(*(measure(arguments) for _ in range(runs)), strict=True)
        print(f"| {name} | {statistics.median(wall):.3f} | {statistics.median(cpu):.3f} |")


if __name__ == "__main__":
    main()
