"""`threedgen fit` on mesh files: held-out scores, seconds and memory of every representation.

    python benchmarks/fit.py MESH[@TEXTURE] ... [--representations gaussians triplane mesh silhouettes]
                             [--out runs/fit] [--markdown FILE]

Each row is the command a user types, in a process of its own. "mesh" knows the geometry and learns the texture
from grey; "silhouettes" deforms a sphere by alpha alone. PSNR and IoU are means over 8 held-out views.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tables import add_markdown, write_markdown

SETTINGS = {
    "gaussians": ["--representation", "gaussians"],
    "triplane": ["--representation", "triplane"],
    "mesh": ["--representation", "mesh"],
    "silhouettes": [
        "representation=mesh",
        "guidance.0.l2=0",
        "guidance.0.l1=0",
        "guidance.0.ssim=0",
        "guidance.0.alpha=1",
    ],
}


def run(mesh: str, representation: str, out: Path) -> list[str]:
    """One row of the table."""
    path, _, texture = mesh.partition("@")
    folder = out / f"{Path(path).stem}-{representation}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "threedgen",
        "fit",
        path,
        "--out",
        str(folder),
        *SETTINGS[representation],
    ]
    command += ["--texture", texture] if texture else []
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    report = json.loads((folder / "report.json").read_text())
    scores, memory = report["scores"], report["peak_memory_bytes"] / 1e9
    color = "-" if representation == "silhouettes" else f"{scores['psnr']:.1f}"
    cells = [Path(path).stem, representation, color, f"{scores['silhouette_iou']:.3f}"]
    return [*cells, f"{seconds:.0f}", f"{memory:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("meshes", nargs="+", metavar="MESH[@TEXTURE]")
    parser.add_argument("--representations", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=Path("runs/fit"))
    add_markdown(parser)
    arguments = parser.parse_args()
    lines = ["| mesh | representation | PSNR | IoU | s | GB |", "|---|---|---|---|---|---|"]
    print("\n".join(lines))
    for mesh in arguments.meshes:
        for representation in arguments.representations:
            lines.append("| " + " | ".join(run(mesh, representation, arguments.out)) + " |")
            print(lines[-1], flush=True)
    write_markdown(arguments.markdown, "\n".join(lines))


if __name__ == "__main__":
    main()
