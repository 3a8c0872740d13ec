"""Text to 3D against a known truth: 16 prompts of the shape world, and beside each the oracle.

    python benchmarks/text_to_3d.py [--only PROMPT ...] [--recipe NAME] [--no-oracle] [key=value ...]

Each prompt is the command a user types, in a process of its own (so seconds and peak memory include import
and export). The oracle is the same recipe, with the same Gaussians, cameras, backgrounds, steps and seed, but its
gradient comes from the true pictures: what this representation can reach in this many steps. A recipe with
several stages has none.

The scores are of the mesh: asset.glb, read back from the file. Those of what was optimised (3D Gaussians, with the
recipe sds) are beside them. PSNR and IoU are means over 8 views at the best yaw (threedgen.metrics.shape_world).
"held out" marks the colour-class pairs that the embedded prior was never trained on. A Janus failure is a view that
resembles a true view of another side more than its own by over 60 degrees; only classes whose every side differs
can show one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from looks import both, has_mesh, optimised
from tables import add_markdown, write_markdown
from torch import Tensor

from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.datasets import world
from threedgen.datasets.shapes import CLASSES, COLORS
from threedgen.jobs.run_directory import RunDirectory
from threedgen.jobs.scores.exported import MOST_DB, MOST_IOU
from threedgen.loop.distill import distill, new_state
from threedgen.metrics.shape_world import AssetScores, score_asset
from threedgen.recipes.load import load_recipe
from threedgen.recipes.recipe import Recipe

SIMPLE = ("red cube", "blue sphere", "yellow cylinder", "orange cone", "green torus")
PARAMETRIC = ("blue chair", "red chair", "green table", "purple table", "cyan mug", "red mug", "yellow car")
HELD_OUT = tuple(f"{color} {shape}" for color, shape in sorted(world.HELD_OUT))
PROMPTS = [f"{'an' if words[0] in 'aeiou' else 'a'} {words}" for words in (*SIMPLE, *PARAMETRIC, *HELD_OUT)]


class Oracle:
    """A guidance that knows the truth, and the background it must be seen on."""

    def __init__(
        self,
        layers: Callable[[Cameras], Tensor],
        colors: Tensor,
        background: Callable[[int, int], Tensor],
    ) -> None:
        """layers: of the true thing (see `world.render_layers`), for its paints, which have the colours [P, 3]."""
        self._layers, self._palette, self._background = layers, colors, background
        self._color = torch.ones(3)

    def background(self, seed: int, step: int) -> Tensor:
        self._color = self._background(seed, step)
        return self._color

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        count = len(cameras)
        layers = self._layers(cameras)
        palette = self._palette.expand(count, -1, -1)
        target = world.compose(layers, palette, self._color.expand(count, 3))
        # The scale of the SDS loss: pictures in [-1, 1], summed over pixels, averaged over views.
        return Signal(0.5 * (2.0 * (output.rgb - target)).square().sum() / count)


def scene_of(prompt: str) -> tuple[str, str]:
    """(colour, class) of a prompt such as "a red cube"."""
    color, shape = prompt.split()[-2:]
    return color, shape


def run_prompt(prompt: str, out: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs the command and scores what it left: the mesh, what was optimised, and what it cost."""
    folder = out / prompt.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "threedgen", "text-to-3d", prompt, "--out", str(folder), *arguments]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    report = json.loads(RunDirectory.open(folder).report.read_text())
    cost = {"seconds": seconds, "gigabytes": report["peak_memory_bytes"] / 1e9}
    return {**scores_of(folder, prompt), **cost}


def scores_of(folder: Path, prompt: str) -> dict[str, Any]:
    """The scores of a finished run: of its mesh (None if it found no surface) and of what was optimised."""
    color, shape = scene_of(prompt)
    mesh, own = both(folder)
    beside = asdict(score_asset(own, shape, color))
    scores = asdict(score_asset(mesh, shape, color)) if has_mesh(folder) else None
    return {"mesh": scores, "optimised": beside}


def run_oracle(prompt: str, recipe: Recipe) -> AssetScores:
    """The same recipe under true pictures instead of a prior, scored."""
    color, shape = scene_of(prompt)
    layered = world.build(world.canonical(shape, color))
    colors = torch.tensor([COLORS[color]])
    scene = fit_truth(prompt, recipe, lambda cameras: world.render_layers(layered, cameras, 1), colors)
    return score_asset(optimised(recipe, scene), shape, color)


def fit_truth(prompt: str, recipe: Recipe, layers: Callable[[Cameras], Tensor], colors: Tensor) -> Any:
    """The scene that a recipe makes under true pictures; see Oracle."""
    scene = recipe.representation.make(recipe.seed)
    oracle = Oracle(layers, colors, recipe.fixed["background"].make())
    state = new_state(
        scene,
        (oracle,),
        steps=recipe.steps,
        seed=recipe.seed,
        optimizer_config=recipe.fixed["optimizer"].config,
    )
    distill(
        scene,
        recipe.renderer.make(),
        recipe.cameras.make(),
        (oracle,),
        prompt,
        steps=recipe.steps,
        seed=recipe.seed,
        background=oracle.background,
        regularizers=recipe.fixed["regularizers"].make(scene.penalty),
        state=state,
    )
    return scene


HEADER = (
    "| prompt | R-precision | IoU | IoU, canonical | PSNR | SSIM | optimised: R-precision | IoU | PSNR "
    "| oracle IoU | oracle PSNR | yaw | Janus | s | GB |\n" + "|---" * 15 + "|"
)


def line(row: dict[str, Any]) -> str:
    """A row of the table. Without a mesh, the yaw and the Janus failure are those of what was optimised."""
    mesh, own, oracle = row["mesh"], row["optimised"], row["oracle"]
    cells = [f"{row['prompt']}{' (held out)' if row['held_out'] else ''}"]
    cells += _cells(mesh, retrieved=2, iou=3, canonical_iou=3, psnr=1, ssim=3)
    cells += _cells(own, retrieved=2, iou=3, psnr=1)
    cells += _cells(oracle, iou=3, psnr=1)
    seen = mesh or own
    turn = "-"
    if seen["janus"] is not None:
        turn = f"{'FAILS' if seen['janus'] else 'no'} ({seen['worst_turn']:.0f}°)"
    cells += [f"{seen['yaw']:.0f}°", turn, f"{row['seconds']:.0f}", f"{row['gigabytes']:.2f}"]
    return f"| {' | '.join(cells)} |"


def _cells(scores: dict[str, Any] | None, **digits: int) -> list[str]:
    """Scores with a number of digits each; dashes without scores."""
    return ["-" if scores is None else f"{scores[key]:.{count}f}" for key, count in digits.items()]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The markdown table, with the means the project promises below it."""
    lines = [HEADER, *map(line, rows), ""]
    for side, wanted in (("mesh", True), ("optimised", False)):
        scored = [row for row in rows if row[side] is not None]
        if scored:
            lines += [f"{side}: {summary(scored, side, wanted)}", ""]
    pairs = [(row["mesh"], row["optimised"]) for row in rows if row["mesh"] is not None]
    worse = sum(
        own["psnr"] - mesh["psnr"] > MOST_DB or own["iou"] - mesh["iou"] > MOST_IOU for mesh, own in pairs
    )
    lines.append(
        f"{len(pairs)} of {len(rows)} have a mesh, of which {worse} are worse than what was optimised by over "
        f"{MOST_DB:.0f} dB or {MOST_IOU} "
        f"· median {statistics.median(row['seconds'] for row in rows):.0f} s (120), "
        f"peak {max(row['gigabytes'] for row in rows):.2f} GB (2.5) · {torch.get_num_threads()} threads"
    )
    return "\n".join(lines)


def summary(rows: Sequence[dict[str, Any]], side: str, wanted: bool) -> str:
    """Means of one side of rows that all have it. wanted: say beside them what the project promises."""

    def mean(select: Callable[[dict[str, Any]], bool], key: str, digits: int, goal: str) -> str:
        values = [row[side][key] for row in rows if select(row)]
        text = f"{statistics.mean(values):.{digits}f}" if values else "-"
        return f"{text} ({goal})" if wanted else text

    def simple(row: dict[str, Any]) -> bool:
        return CLASSES[scene_of(row["prompt"])[1]].simple

    share = "oracle not measured"
    known = [row for row in rows if row["oracle"] is not None]
    if known:
        ratio = statistics.mean(row[side]["iou"] for row in known)
        ratio /= statistics.mean(row["oracle"]["iou"] for row in known)
        share = f"{100.0 * ratio:.1f} % of the oracle's IoU{' (95)' if wanted else ''}"
    janus = sum(bool(row[side]["janus"]) for row in rows)
    return (
        f"R-precision {mean(lambda row: True, 'retrieved', 3, 'wanted 0.97')} · mean IoU simple shapes "
        f"{mean(simple, 'iou', 3, '0.95')}, parametric classes "
        f"{mean(lambda row: not simple(row), 'iou', 3, '0.88')} · PSNR "
        f"{mean(lambda row: True, 'psnr', 1, '24')} dB · {share} · Janus failures {janus}{' (0)' if wanted else ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help='prompts instead of the 16, for example "a red cube"')
    parser.add_argument("--recipe", default="sds", help="name or YAML file")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    add_markdown(parser)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--no-oracle", action="store_true", help="our runs only")
    parser.add_argument("overrides", nargs="*", help="key=value settings for both sides")
    arguments = parser.parse_args()
    prompts = arguments.only or PROMPTS
    command = ["--recipe", arguments.recipe, *arguments.overrides]
    command += [] if arguments.steps is None else ["--steps", str(arguments.steps)]
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        scored = run_prompt(prompt, arguments.out, command)
        recipe = load_recipe(arguments.recipe, arguments.overrides, prompt=prompt, steps=arguments.steps)
        skip = arguments.no_oracle or recipe.stages
        oracle = None if skip else asdict(run_oracle(prompt, recipe))
        held_out = scene_of(prompt) in world.HELD_OUT
        rows.append({"prompt": prompt, "held_out": held_out, "oracle": oracle, **scored})
        print(json.dumps(rows[-1]), flush=True)
    text = table(rows)
    print("\n" + text)
    write_markdown(arguments.markdown, text)


if __name__ == "__main__":
    main()
