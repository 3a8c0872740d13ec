"""A batch on Ray whose worker, node and command are killed: is every row made, and to the same bits as alone?

    python tests/faults/batch_on_ray.py [--rows 200] [--work FOLDER]

It needs threedgen[ray]. Two nodes of Ray run on this machine. While the rows are made, a worker is killed, then
a node with all of its workers, which is replaced, then the command itself, which is given again. Prints what was
found; exits with 1 if a row is missing, if a run differs from the same run alone, or if files are left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
_PATIENCE = 600.0  # seconds
_COMPARED = 5  # runs that are made once more, alone


def table(path: Path, rows: int) -> None:
    """Prompts whose runs have 40 steps of a third of a millisecond."""
    path.write_text("".join(f"thing {number}\n" for number in range(rows)))


def ended(out: Path) -> int:
    """Rows that the index has."""
    index = out / "index.jsonl"
    return index.read_bytes().count(b"\n") if index.exists() else 0


def wait_for(out: Path, rows: int, command: subprocess.Popen[bytes]) -> None:
    """Returns when the index has so many rows, or the command has ended."""
    until = time.monotonic() + _PATIENCE
    while ended(out) < rows and command.poll() is None and time.monotonic() < until:
        time.sleep(0.05)


def workers() -> list[int]:
    """The processes of the workers, which are below this one."""
    import psutil

    below = psutil.Process().children(recursive=True)
    return [
        process.pid for process in below if process.cmdline()[:1] and "ray::Worker" in process.cmdline()[0]
    ]


def bits(run: Path) -> list[bytes]:
    """What a run has in common with the same one alone: its settings, its losses and its last state."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [{name: value for name, value in row.items() if "second" not in name} for row in metrics]
    tensors = sorted((run / "checkpoint").glob("*.safetensors"))
    return [
        (run / "recipe.yaml").read_bytes(),
        json.dumps(steps).encode(),
        *(t.read_bytes() for t in tensors),
    ]


def left_behind(out: Path) -> list[str]:
    """Temporaries, locks, and runs of no row."""
    known = {json.loads(line)["run"] for line in (out / "index.jsonl").read_text().splitlines()}
    strange = [path.name for path in (out / "runs").iterdir() if path.name not in known]
    return strange + [str(path) for path in out.rglob("*") if ".threedgen" in path.name]


def tried(rows: int, folder: Path) -> dict[str, Any]:
    """Makes the rows under all of these kills; returns what was found."""
    import fake_parts
    from ray.cluster_utils import Cluster

    (folder / "tiny.yaml").write_text(fake_parts.RECIPE)
    table(folder / "prompts.txt", rows)
    out = folder / "out"
    words = [sys.executable, "-m", "threedgen"]
    batch = [
        *words,
        "batch",
        "prompts.txt",
        "--recipe",
        "tiny.yaml",
        "--out",
        "out",
        "--on",
        "ray",
        "--workers",
        "2",
    ]
    os.environ |= {  # which the processes of Ray inherit
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "THREEDGEN_TRUST_RUNS": "1",
        "OMP_NUM_THREADS": "1",
    }
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    os.environ["RAY_ADDRESS"] = cluster.address
    killed: list[str] = []
    seconds = -time.monotonic()
    try:
        command = subprocess.Popen(batch, cwd=folder, stderr=subprocess.DEVNULL)
        wait_for(out, rows // 5, command)
        if alive := workers():
            os.kill(alive[0], signal.SIGKILL)
            killed.append(f"a worker after {ended(out)} rows")
        wait_for(out, 2 * rows // 5, command)
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        killed.append(f"a node after {ended(out)} rows")
        nodes.append(cluster.add_node(num_cpus=1))
        wait_for(out, 3 * rows // 5, command)
        command.kill()
        command.wait()
        killed.append(f"the command after {ended(out)} rows")
        status = subprocess.run(batch, cwd=folder, stderr=subprocess.DEVNULL).returncode
    finally:
        cluster.shutdown()
    seconds += time.monotonic()
    entries = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    made = Counter(entry["subject"] for entry in entries if entry["state"] == "finished")
    different = 0
    for number in range(0, rows, max(1, rows // _COMPARED)):
        alone = folder / f"alone-{number}"
        prompt = f"thing {number}"
        job = [*words, "text-to-3d", prompt, "--recipe", "tiny.yaml", "--threads", "1", "--out", str(alone)]
        subprocess.run(job, cwd=folder, check=True, capture_output=True)
        run = next(entry["run"] for entry in entries if entry["subject"] == prompt)
        different += bits(out / "runs" / run) != bits(alone)
    return {
        "rows": rows,
        "killed": killed,
        "status of the second command": status,
        "finished once": sum(count == 1 for count in made.values()),
        "finished twice": sum(count > 1 for count in made.values()),
        "failed": sum(entry["state"] == "failed" for entry in entries),
        "different from alone": different,
        "left behind": left_behind(out),
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--work", type=Path, help="an empty folder; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = tried(arguments.rows, arguments.work or Path(temporary))
    print(json.dumps(found, indent=2))
    return int(
        found["finished once"] != arguments.rows
        or found["different from alone"]
        or bool(found["left behind"])
    )


if __name__ == "__main__":
    sys.exit(main())
