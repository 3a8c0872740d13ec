"""What `threedgen plan` says of six commands, against what happens when they are run.

    python benchmarks/plan.py [--only NUMBER ...]

Each command is planned with an empty memory of calibrations and then run, one after the other. The table has time
as the report has it (without the start of Python) and the peak of memory. Run it where nothing else computes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from threedgen.core.png import write_png
from threedgen.core.types import TriMesh
from threedgen.export.obj import write_obj

COMMANDS = (
    ("text-to-3d", "a penguin"),
    ("text-to-3d", "a red cube", "--recipe", "sds", "--steps", "200"),
    ("text-to-3d", "a blue mug", "--recipe", "csd", "cameras.batch=2", "--steps", "90"),
    ("image-to-3d", "PICTURE"),
    ("text-to-4d", "a blue cube bouncing", "--steps", "160"),
    ("fit", "MESH", "--steps", "150"),
)


def threedgen(*words: str, cache: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "threedgen", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "THREEDGEN_CACHE": str(cache)},
    )
    if ended.returncode != 0:
        sys.exit(ended.stderr)
    return ended.stdout


def given(folder: Path) -> dict[str, str]:
    """A picture of a disc before white, and a mesh of a tetrahedron."""
    across = np.linspace(-1.0, 1.0, 128)
    disc = np.hypot(across[:, None], across[None]) < 0.6
    picture = np.full((128, 128, 3), 255, np.uint8)
    picture[disc] = (200, 60, 40)
    write_png(folder / "picture.png", picture)
    corners = torch.tensor([[0.0, 0.6, 0.0], [-0.5, -0.4, 0.4], [0.5, -0.4, 0.4], [0.0, -0.4, -0.6]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    write_obj(folder / "mesh.obj", TriMesh(corners, faces))
    return {"PICTURE": str(folder / "picture.png"), "MESH": str(folder / "mesh.obj")}


def number(pattern: str, text: str) -> float:
    """The number that a plan says, in seconds or GB."""
    found = re.search(rf"^{pattern} +about ([\d.]+) (\w+)", text, re.MULTILINE)
    if found is None:
        sys.exit(f"the plan does not say it:\n{text}")
    return float(found[1]) * {"s": 1.0, "min": 60.0, "h": 3600.0, "GB": 1.0, "MB": 1e-3}[found[2]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=int, nargs="+", default=list(range(1, len(COMMANDS) + 1)))
    chosen = parser.parse_args().only
    print("| command | planned | took | ratio | planned | peak | ratio |\n|---|---|---|---|---|---|---|")
    for index in chosen:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = given(folder)
            words: list[str] = [files.get(word) or word for word in COMMANDS[index - 1]]
            text = threedgen("plan", *words, cache=folder / "cache")
            threedgen(*words, "--out", str(folder / "run"), cache=folder / "cache")
            report = json.loads((folder / "run" / "report.json").read_text())
        seconds, planned = report["seconds"]["total"], number("time", text)
        peak, memory = report["peak_memory_bytes"] / 1e9, number("memory", text)
        print(
            f"| {' '.join(COMMANDS[index - 1])} | {planned:.1f} s | {seconds:.1f} s | {planned / seconds:.2f} "
            f"| {memory:.2f} GB | {peak:.2f} GB | {memory / peak:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
