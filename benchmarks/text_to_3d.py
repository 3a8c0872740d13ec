"""Text to 3D against a known truth: 16 prompts of the shape world, and beside each the oracle.

    python benchmarks/text_to_3d.py [--only PROMPT ...] [--recipe NAME] [--no-oracle] [key=value ...]

Each prompt is the command a user types, in a process of its own (so seconds and peak memory include import
and export). The oracle is the same recipe, with the same Gaussians, cameras, backgrounds, steps and seed, but its
gradient comes from the true pictures: what this representation can reach in this many steps. A recipe with
several stages has none.

PSNR and IoU are means over 8 views at the best yaw (threedgen.metrics.shape_world). "held out" marks the
colour-class pairs that the embedded prior was never trained on. A Janus failure is a view that resembles a
true view of another side more than its own by over 60 degrees; only classes whose every side differs can
show one.
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
from tables import add_markdown, write_markdown
from torch import Tensor

from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.datasets import world
from threedgen.datasets.shapes import CLASSES, COLORS
from threedgen.jobs.asset import asset_of
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.distill import distill, new_state
from threedgen.metrics.shape_world import AssetScores, score_asset
from threedgen.recipes.load import load_recipe, read_resolved
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


def viewer(recipe: Recipe, scene: Any) -> Callable[[Cameras], tuple[Tensor, Tensor]]:
    """The asset as users get it (what asset.ply holds), as `score_asset` wants to see it."""
    renderer, asset = recipe.renderer.make(), asset_of(recipe, scene)

    def view(cameras: Cameras) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            output = renderer(asset, cameras, torch.ones(3))
        return output.rgb, output.alpha

    return view


def run_prompt(prompt: str, out: Path, arguments: Sequence[str]) -> tuple[AssetScores, dict[str, Any]]:
    """Runs the command and scores what it left."""
    folder = out / prompt.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "threedgen", "text-to-3d", prompt, "--out", str(folder), *arguments]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    run = RunDirectory.open(folder)
    recipe = read_resolved(run.recipe)
    report = json.loads(run.report.read_text())
    color, shape = scene_of(prompt)
    scores = score_asset(viewer(recipe, load_scene(run, recipe)), shape, color)
    return scores, {"seconds": seconds, "gigabytes": report["peak_memory_bytes"] / 1e9}


def run_oracle(prompt: str, recipe: Recipe) -> AssetScores:
    """The same recipe under true pictures instead of a prior, scored."""
    color, shape = scene_of(prompt)
    layered = world.build(world.canonical(shape, color))
    colors = torch.tensor([COLORS[color]])
    scene = fit_truth(prompt, recipe, lambda cameras: world.render_layers(layered, cameras, 1), colors)
    return score_asset(viewer(recipe, scene), shape, color)


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


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The markdown table, with the means the project promises below it."""
    lines = [
        "| prompt | R-precision | IoU | IoU, canonical | PSNR | SSIM | oracle IoU | oracle PSNR "
        "| yaw | Janus | s | GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row["ours"]
        oracle = "- | -"
        if row["oracle"] is not None:
            oracle = f"{row['oracle']['iou']:.3f} | {row['oracle']['psnr']:.1f}"
        turn = (
            "-"
            if ours["janus"] is None
            else f"{'FAILS' if ours['janus'] else 'no'} ({ours['worst_turn']:.0f}°)"
        )
        lines.append(
            f"| {row['prompt']}{' (held out)' if row['held_out'] else ''} | {ours['retrieved']:.2f} "
            f"| {ours['iou']:.3f} | {ours['canonical_iou']:.3f} | {ours['psnr']:.1f} | {ours['ssim']:.3f} "
            f"| {oracle} | {ours['yaw']:.0f}° | {turn} "
            f"| {row['seconds']:.0f} | {row['gigabytes']:.2f} |"
        )

    def mean(select: Callable[[dict[str, Any]], bool], side: str, key: str) -> float:
        values = [row[side][key] for row in rows if select(row) and row[side] is not None]
        return statistics.mean(values) if values else float("nan")

    def simple(row: dict[str, Any]) -> bool:
        return CLASSES[scene_of(row["prompt"])[1]].simple

    def anything(row: dict[str, Any]) -> bool:
        return True

    def parametric(row: dict[str, Any]) -> bool:
        return not simple(row)

    iou, oracle_iou = mean(anything, "ours", "iou"), mean(anything, "oracle", "iou")
    measured = oracle_iou == oracle_iou
    share = f"{100 * iou / oracle_iou:.1f} % of the oracle's IoU (95)" if measured else "oracle not measured"
    janus = sum(bool(row["ours"]["janus"]) for row in rows)
    lines += [
        "",
        f"R-precision {mean(anything, 'ours', 'retrieved'):.3f} (wanted 0.97) · mean IoU simple shapes "
        f"{mean(simple, 'ours', 'iou'):.3f} (0.95), parametric classes "
        f"{mean(parametric, 'ours', 'iou'):.3f} (0.88) · PSNR {mean(anything, 'ours', 'psnr'):.1f} dB (24) "
        f"· {share} · Janus failures {janus} (0) "
        f"· median {statistics.median(row['seconds'] for row in rows):.0f} s (120), "
        f"peak {max(row['gigabytes'] for row in rows):.2f} GB (2.5) · {torch.get_num_threads()} threads",
    ]
    return "\n".join(lines)


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
        ours, cost = run_prompt(prompt, arguments.out, command)
        recipe = load_recipe(arguments.recipe, arguments.overrides, prompt=prompt, steps=arguments.steps)
        skip = arguments.no_oracle or recipe.stages
        oracle = None if skip else asdict(run_oracle(prompt, recipe))
        held_out = scene_of(prompt) in world.HELD_OUT
        rows.append({"prompt": prompt, "held_out": held_out, "ours": asdict(ours), "oracle": oracle, **cost})
        print(json.dumps(rows[-1]), flush=True)
    text = table(rows)
    print("\n" + text)
    write_markdown(arguments.markdown, text)


if __name__ == "__main__":
    main()
