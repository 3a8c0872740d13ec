"""Kills commands at random moments, goes on, and compares every file with those of a run that was not stopped.

    python tests/faults/kills.py [--kills 100] [--seed 0] [--jobs NAME ...] [--work FOLDER]

The commands are small: seconds each. A try begins a command in a process forked from this one, which has imported
everything, kills it after a random part of the time that it takes, and goes on until it ends; three times in ten it
is killed again on the way. Prints a row for each command; exits with 1 if anything differs or is left behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RUN = "run"
_AGAIN = 0.3  # the share of tries that are killed once more while they go on
_PATIENCE = 300.0  # seconds
_INPUTS = "../../inputs"


@dataclass(frozen=True)
class Job:
    """A command, without its folder. resumes: `threedgen resume` continues it, and else the command itself. kept: a
    file that it ends with, which has the same bits each time."""

    words: tuple[str, ...]
    resumes: bool = True
    kept: str = "asset.glb"


_SHORT = ("--steps", "24", "checkpoint.every=5")
_TRAINING = ("--steps", "6", "--save-every", "2", "--batch", "2", "--precision", "fp32")
_LATENT = ("--recipe", "ssdnerf-tiny", "--save-every", "2", "steps=6", "batch=2", "inner=2", "rays=64")
_FEW = ("--object-scenes", "0", "--class-scenes", "0", "--assemblies", "4", "--shapes", "2")
JOBS = {
    "text-to-3d": Job(("text-to-3d", "a red cube", *_SHORT)),
    "text-to-3d of solids": Job(("text-to-3d", "a red cube", "--recipe", "sds", *_SHORT)),
    "image-to-3d": Job(("image-to-3d", f"{_INPUTS}/ball.png", *_SHORT)),
    "text-to-4d": Job(("text-to-4d", "a red cube bouncing", *_SHORT), kept="anim.glb"),
    "fit": Job(("fit", f"{_INPUTS}/box.obj", *_SHORT)),
    "compose": Job(("compose", f"{_INPUTS}/scene.yaml", "--steps", "8"), resumes=False, kept="anim.glb"),
    "train prior": Job(
        ("train", "prior", "--kind", "view", *_TRAINING, *_FEW),
        resumes=False,
        kept="pipeline/unet/config.json",
    ),
    "train nerfdiff": Job(
        ("train", "nerfdiff", "shape-world:cube", "--objects", "2", "--size", "16", *_TRAINING),
        resumes=False,
        kept="model.safetensors",
    ),
    "train ssdnerf": Job(
        ("train", "ssdnerf", "shape-world:car", "--objects", "4", "--size", "16", *_LATENT),
        resumes=False,
        kept="model.safetensors",
    ),
}


@dataclass
class Row:
    """What came of the tries of one command."""

    kills: int = 0
    from_start: int = 0
    wrong: list[str] = field(default_factory=list)


def run(words: list[str], folder: Path, limit: float) -> int | None:
    """The exit status of a command in `folder`; None if it was killed after `limit` seconds."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        with Path("output.txt").open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = 1
        try:
            from threedgen.commands.main import main

            status = main(words)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            sys.stdout.flush()
            os._exit(status)
    end = time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.001)


def digests(folder: Path) -> dict[str, str]:
    """The content of everything in a folder, by its name. The order of tensors and of keys does not count, nor do
    the seconds in rows of numbers and the hours in documents."""
    return {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*"))}


def _digest(path: Path) -> str:
    if path.is_dir():
        return ""
    content = path.read_bytes()
    if path.suffix == ".json":
        document = json.loads(content)
        if isinstance(document, dict):
            document.pop("hours", None)
        content = json.dumps(document, sort_keys=True).encode()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        content = json.dumps([{**row, "seconds": None} for row in rows], sort_keys=True).encode()
    if path.suffix == ".safetensors":
        import torch
        from safetensors.torch import load

        parts = []
        for name, tensor in sorted(load(content).items()):
            flat = tensor.contiguous().flatten().view(torch.uint8)
            parts += [f"{name} {tensor.dtype} {list(tensor.shape)} ".encode(), flat.numpy().tobytes()]
        content = b"".join(parts)
    return hashlib.sha256(content).hexdigest()


def write_inputs(folder: Path) -> None:
    """A picture, a mesh and a scene file."""
    import imageio.v3 as iio
    import numpy as np
    import trimesh

    folder.mkdir(parents=True)
    y, x = np.mgrid[-1.4:1.4:64j, -1.4:1.4:64j]
    inside = x**2 + y**2 < 1.0
    iio.imwrite(
        folder / "ball.png", (255 * np.stack([inside, 0 * x, 0 * x, inside], axis=2)).astype(np.uint8)
    )
    trimesh.creation.box(extents=(1.0, 0.6, 0.8)).export(folder / "box.obj")
    cube = {"name": "cube", "prompt": "a red cube", "motion": [{"prompt": "bouncing"}]}
    (folder / "scene.yaml").write_text(json.dumps({"assets": [cube]}))


def tries(job: Job, work: Path, count: int, draw: random.Random) -> Row:
    """Kills a command `count` times."""
    row = Row()
    found = []
    for name in ("first", "second"):
        whole = work / name
        whole.mkdir()
        begun = time.monotonic()
        if run([*job.words, "--out", RUN], whole, _PATIENCE) != 0:
            raise RuntimeError((whole / "output.txt").read_text()[-2000:])
        seconds = time.monotonic() - begun
        found.append(digests(whole / RUN))
    # Some files hold times, which differ between any two runs.
    expected = {name: digest for name, digest in found[0].items() if found[1].get(name) == digest}
    if job.kept not in expected:
        raise RuntimeError(f"{job.kept} differs between two runs, or is missing, among {sorted(found[0])}")
    while row.kills < count:
        folder = work / f"try-{row.kills}"
        folder.mkdir()
        for status in _until_done(job, folder, seconds, draw, row):
            if status:
                row.wrong.append(f"{folder}: exit status {status}")
                break
        else:
            now = digests(folder / RUN)
            different = [name for name in expected if now.get(name) != expected[name]]
            left = sorted(set(now) - set(found[0]))
            if different or left:
                row.wrong.append(f"{folder}: different {different[:5]}, left behind {left[:5]}")
            else:
                shutil.rmtree(folder)
    return row


def _until_done(job: Job, folder: Path, seconds: float, draw: random.Random, row: Row) -> Iterator[int]:
    """The exit statuses of one try, killed at least once unless it ends before."""
    words, killed = [*job.words, "--out", RUN], 0
    while True:
        again = killed == 0 or draw.random() < _AGAIN
        status = run(words, folder, draw.uniform(0.0, seconds) if again else _PATIENCE)
        if status is not None:
            row.kills += killed == 0  # it ended before it was killed: a try all the same
            yield status
            return
        killed += 1
        row.kills += 1
        begun = (folder / RUN / "recipe.yaml").is_file()
        row.from_start += not (folder / RUN / "checkpoint" / "state.json").is_file()
        words = ["resume", RUN] if job.resumes and begun else [*job.words, "--out", RUN]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="NAME")
    parser.add_argument("--work", type=Path, help="folder that keeps what went wrong")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="threedgen-kills-"))
    write_inputs(work / "inputs")
    import torch

    torch.set_num_threads(1)  # a forked process cannot use the threads of the one before
    draw, wrong = random.Random(arguments.seed), 0
    print("| command | kills | before the first checkpoint | wrong |\n|---|---|---|---|")
    for number, name in enumerate(arguments.jobs):
        share = arguments.kills * (number + 1) // len(arguments.jobs)
        share -= arguments.kills * number // len(arguments.jobs)
        folder = work / name.replace(" ", "-")
        folder.mkdir(parents=True)
        row = tries(JOBS[name], folder, share, draw)
        wrong += len(row.wrong)
        print(f"| {name} | {row.kills} | {row.from_start} | {len(row.wrong)} |", flush=True)
        for text in row.wrong:
            print(text, file=sys.stderr)
    if not wrong:
        shutil.rmtree(work)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
