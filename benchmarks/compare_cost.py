"""The cost of `threedgen text-to-3d` here and in another environment, by turns in one run.

    python benchmarks/compare_cost.py OTHER_PYTHON [PROMPT ...]

OTHER_PYTHON is the interpreter of an environment with another version of threedgen, for example one that a
`git worktree` of an older commit was installed in. One thread each; CPU seconds of all processes, peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROMPTS = ("a red cube", "a blue car", "a green chair")


def cost(python: str, prompt: str) -> tuple[float, float]:
    """CPU seconds, and the peak memory in GB that the run itself reports."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [python, "-m", "threedgen", "text-to-3d", prompt, "--out", str(out)],
            check=True,
            cwd=folder,  # not a checkout, which the interpreter would import instead
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory = json.loads((out / "report.json").read_text())["peak_memory_bytes"] / 1e9
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other")
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    arguments = parser.parse_args()
    print("| prompt | CPU s there | CPU s here | ratio | GB there | GB here |\n" + "|---" * 6 + "|")
    ratios = []
    for prompt in arguments.prompts:
        there, here = cost(arguments.other, prompt), cost(sys.executable, prompt)
        ratios.append(here[0] / there[0])
        row = f"{there[0]:.1f} | {here[0]:.1f} | {ratios[-1]:.2f} | {there[1]:.2f} | {here[1]:.2f}"
        print(f"| {prompt} | {row} |", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
