"""Text to 4D against a known truth: 12 prompts of the shape world in motion.

    python benchmarks/text_to_4d.py [--only PROMPT ...] [--ablations] [--jobs N] [--out DIR] [--markdown FILE]
        [key=value ...]

Each prompt is the command a user types, in a process of its own (so seconds and peak memory include import and
export). "held out" marks the pairs of class and motion that the embedded video prior never saw.

shape: share of 8 views whose nearest truth, over every colour, class and yaw, is the prompt's; IoU: of their
silhouettes with the nearest member's. Both are of the asset at its farthest moment, brought back by the best
similarity, so that what the motion bends or tears apart counts. motion: whether the true motion nearest to the
paths of all points is the prompt's, of all that the class has (threedgen.metrics.motion). error: mean distance from
the true paths, as a share of the true motion's mean distance from rest, best-aligned in phase; 1 is as wrong as
standing still. amount, local: see there. --jobs: runs at a time, which share the cores; seconds are then those of
a run beside others.

--ablations: the motion again, on the assets that the first part left, without one part at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tables import add_markdown, write_markdown

from threedgen.datasets import motions
from threedgen.jobs.asset import renderer_here
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.metrics.motion import fitted, motion_scores, truth_scores
from threedgen.metrics.shape_world import score_asset
from threedgen.recipes.load import read_resolved

PROMPTS = (
    "a blue cube bouncing",
    "a red sphere bouncing",
    "a cyan cone bouncing",
    "a yellow cone growing",
    "an orange mug growing",
    "a purple chair swaying",
    "a green torus swaying",
    "a red car sliding",
    "a yellow cylinder sliding",
    "a red chair sliding",
    "a red car spinning",
    "a green table spinning",
)
ABLATED = (0, 5, 7)  # of the prompts: something that bounces, that sways, that slides
ABLATIONS = {
    "all of it": (),
    "no JSD": ("representation.regularizers.jsd=0",),
    "no amplifier": ("guidance.0.amplify=0",),
    "no image prior": ("guidance.1.weight=0",),
    "no trajectory": ("representation.trajectory.degree=0", "representation.trajectory.terms=0"),
}
_MOMENTS = 25
_FILES = ("anim.glb", "anim.mp4", "player.html", "asset.glb")


def words_of(prompt: str) -> tuple[str, str, str]:
    """(colour, class, motion) of a prompt such as "a red cube spinning"."""
    color, shape, motion = prompt.split()[-3:]
    return color, shape, motion


def run_command(prompt: str, folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs the command; what it took, and its scores."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "threedgen", "text-to-4d", prompt, "--out", str(folder), *arguments]
    started = time.perf_counter()
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    quiet = subprocess.DEVNULL
    subprocess.run(command, check=True, env=os.environ | threads, stdout=quiet, stderr=quiet)
    seconds = time.perf_counter() - started
    report = json.loads((folder / "report.json").read_text())
    sizes = {name: (folder / name).stat().st_size / 1e6 for name in _FILES if (folder / name).is_file()}
    cost = {"seconds": seconds, "gigabytes": report["peak_memory_bytes"] / 1e9, "megabytes": sizes}
    return {"prompt": prompt, **scores(RunDirectory.open(folder), prompt), **cost}


@torch.no_grad()
def scores(run: RunDirectory, prompt: str) -> dict[str, Any]:
    """Of a run's asset and its motion."""
    color, shape, motion = words_of(prompt)
    recipe = read_resolved(run.recipe)
    scene = load_scene(run, recipe)
    paths = scene.moved(torch.linspace(0.0, 1.0, _MOMENTS))
    far = int((paths - paths[0]).norm(dim=2).mean(1).argmax())
    back = replace(scene.at(None), means=fitted(paths[far], paths[:1])[0])
    renderer = renderer_here(recipe.all_stages[-1], "auto")

    def view(cameras: Any) -> tuple[torch.Tensor, torch.Tensor]:
        output = renderer(back, cameras, torch.ones(3))
        return output.rgb, output.alpha

    asset, moves = score_asset(view, shape, color), motion_scores(paths)
    truth = truth_scores(paths, shape, motion)
    return {
        "held_out": (shape, motion) in motions.HELD_OUT,
        "shape": asset.retrieved,
        "iou": asset.iou,
        "right": truth.nearest == motion,
        **asdict(truth),
        **asdict(moves),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The markdown table, with the means the project promises below it."""
    lines = [
        "| prompt | shape | IoU | motion | error | phase | amount | local | s | GB | anim.glb MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        held_out = " (held out)" if row["held_out"] else ""
        nearest = "right" if row["right"] else f"WRONG ({row['nearest']})"
        lines.append(
            f"| {row['prompt']}{held_out} | {row['shape']:.2f} | {row['iou']:.3f} | {nearest} | {row['error']:.2f} "
            f"| {row['phase']:.2f} | {row['amount']:.2f} | {row['local']:.3f} | {row['seconds']:.0f} "
            f"| {row['gigabytes']:.2f} | {row['megabytes'].get('anim.glb', 0.0):.1f} |"
        )
    seconds = [row["seconds"] for row in rows]
    largest = max(row["megabytes"].get("anim.glb", 0.0) for row in rows)
    lines += [
        "",
        f"shape R-precision {_mean(rows, 'shape'):.3f} (wanted 0.9) · motion R-precision "
        f"{_mean(rows, 'right'):.3f} (0.75) · trajectory error {_mean(rows, 'error'):.2f} · median "
        f"{statistics.median(seconds):.0f} s, longest {max(seconds):.0f} s (480) · peak "
        f"{max(row['gigabytes'] for row in rows):.2f} GB · largest anim.glb {largest:.1f} MB (10) · "
        f"{torch.get_num_threads()} threads",
    ]
    return "\n".join(lines)


def ablation_table(rows: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    """A row an ablation: means over its prompts."""
    lines = [
        "| | motion R-precision | error | amount | local | shape | IoU |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in rows:
        numbers = [_mean(found, key) for key in ("right", "error", "amount", "local", "shape", "iou")]
        lines.append(f"| {name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")
    return "\n".join(lines)


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.mean(float(row[key]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="*", help='prompts instead of the 12, for example "a red cube growing"'
    )
    parser.add_argument("--ablations", action="store_true", help="after the prompts")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-4d"))
    add_markdown(parser)
    parser.add_argument("settings", nargs="*", help="key=value, --video-prior=FOLDER and so on for every run")
    arguments, more = parser.parse_known_args()
    settings = [*arguments.settings, *more]
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // arguments.jobs))

    def run(prompt: str) -> dict[str, Any]:
        row = run_command(prompt, arguments.out / prompt.replace(" ", "-"), settings)
        print(json.dumps(row), flush=True)
        return row

    with ThreadPoolExecutor(arguments.jobs) as pool:
        text = table(list(pool.map(run, arguments.only or PROMPTS)))
        if arguments.ablations:
            text += "\n\n" + ablation_table(_ablations(pool, arguments.out, settings))
    print("\n" + text)
    write_markdown(arguments.markdown, text)


def _ablations(
    pool: ThreadPoolExecutor, out: Path, settings: Sequence[str]
) -> list[tuple[str, list[dict[str, Any]]]]:
    def run(name: str, prompt: str) -> dict[str, Any]:
        still = out / prompt.replace(" ", "-")
        folder = out / "ablations" / name.replace(" ", "-") / still.name
        row = run_command(prompt, folder, ["--asset", str(still), *settings, *ABLATIONS[name]])
        print(json.dumps({"ablation": name, **row}), flush=True)
        return row

    jobs = [(name, PROMPTS[index]) for name in ABLATIONS for index in ABLATED]
    rows = list(pool.map(lambda job: run(*job), jobs))
    count = len(ABLATED)
    return [(name, rows[i * count : (i + 1) * count]) for i, name in enumerate(ABLATIONS)]


if __name__ == "__main__":
    main()
