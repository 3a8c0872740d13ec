"""Every objective on the embedded prior: same prompts, seeds, steps, Gaussians, cameras and backgrounds.

    python benchmarks/objectives.py [--only NAME ...] [--prompts PROMPT ...] [--seeds N] [--out runs/objectives]
    python benchmarks/objectives.py --time
    python benchmarks/objectives.py --collect [--markdown FILE] [--picture FILE.png]

The recipe is sds; SETTINGS says what each objective changes in its guidance, found by trying few values on
one prompt that is not among the measured ones. Rows that `--out` holds already are not computed again, so that
several processes may share the work; --time measures a step of each objective in turn, in one process; --collect
prints the table of what is there.

R-precision, IoU and PSNR are those of benchmarks/text_to_3d.py, means over prompts and seeds. Diversity: root mean
square difference, in per cent of the range, between the pictures of two seeds of one prompt. Saturation: mean HSV
saturation on the object over that of the true object's pictures; above 1 is too colourful. Seconds a step (the
whole loop, rendering too) are medians over ROUNDS turns of a few steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from looks import optimised
from PIL import Image, ImageDraw, ImageFont
from tables import add_markdown, write_markdown
from text_to_3d import scene_of
from torch import Tensor

from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.loop.distill import distill, new_state
from threedgen.metrics.shape_world import RESOLUTION, VIEWS, ring, score_asset, truth
from threedgen.recipes.load import load_recipe
from threedgen.recipes.recipe import Recipe

PROMPTS = ("a red cube", "an orange chair", "a yellow car")
GUIDANCE = "guidance.0."
# What differs from the recipe's guidance, by objective.
SETTINGS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "sds": [],
        "recon": [],
        "sjc": [],
        "flow": [],
        "hifa": [],
        "csd": ["scale=2"],
        "nfsd": ["negative=gray"],
        "ism": [],
        "sdi": ["options={inversion_scale: -1.0, inversion_steps: 4, eta: 0.3}"],
        "vsd": [],
    }
)
SIZE, LABEL = 128, 96
ROUNDS, TIMED_STEPS = 5, 6


def distilled(name: str, prompt: str, seed: int, prior: Any, steps: int | None) -> tuple[Recipe, Any, float]:
    """The recipe, the scene it made, and the seconds a step took."""
    changes = [f"{GUIDANCE}objective={name}", *(GUIDANCE + change for change in SETTINGS[name])]
    recipe = load_recipe("sds", changes, prompt=prompt, seed=seed, steps=steps)
    choice = recipe.guidance[0]
    scene = recipe.representation.make(recipe.seed)
    guide = choice.cls(choice.config, "cpu", prior=prior)
    state = new_state(
        scene, (guide,), steps=recipe.steps, seed=seed, optimizer_config=recipe.fixed["optimizer"].config
    )
    began = time.perf_counter()
    distill(
        scene,
        recipe.renderer.make(),
        recipe.cameras.make(),
        (guide,),
        prompt,
        steps=recipe.steps,
        seed=seed,
        background=recipe.fixed["background"].make(),
        regularizers=recipe.fixed["regularizers"].make(scene.penalty),
        state=state,
    )
    return recipe, scene, (time.perf_counter() - began) / recipe.steps


def time_steps(out: Path, prior: Any) -> None:
    """Writes the median seconds of a step of each objective, measured in turns."""
    measured: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _, name in itertools.product(range(ROUNDS), SETTINGS):
        measured[name].append(distilled(name, PROMPTS[0], 0, prior, TIMED_STEPS)[2])
    medians = {name: statistics.median(values) for name, values in measured.items()}
    (out / "seconds").write_text(json.dumps(medians))
    print(json.dumps(medians))


def run(name: str, prompt: str, seed: int, prior: Any, out: Path, steps: int | None) -> dict[str, Any]:
    """One asset: its scores, and its pictures beside them."""
    recipe, scene, _ = distilled(name, prompt, seed, prior, steps)
    view = optimised(recipe, scene)
    color, shape = scene_of(prompt)
    with torch.no_grad():
        rgb, alpha = view(ring(VIEWS, RESOLUTION))
    true_rgb, true_alpha = truth(shape, color, VIEWS, RESOLUTION)
    np.save(out / f"{stem(name, prompt, seed)}.npy", (rgb.clamp(0, 1) * 255).round().byte().numpy())
    return {
        "objective": name,
        "prompt": prompt,
        "seed": seed,
        "steps": recipe.steps,
        "settings": list(SETTINGS[name]),
        **asdict(score_asset(view, shape, color)),
        "saturation": saturation(rgb, alpha) / saturation(true_rgb, true_alpha),
    }


def stem(name: str, prompt: str, seed: int) -> str:
    return f"{name}-{prompt.replace(' ', '-')}-{seed}"


def saturation(rgb: Tensor, alpha: Tensor) -> float:
    """Mean HSV saturation, (max - min) / max, where the object covers more than half of a pixel."""
    colors = rgb.clamp(0, 1)[alpha[..., 0] > 0.5]
    most, least = colors.amax(1), colors.amin(1)
    return float(((most - least) / most.clamp_min(1e-3)).mean())


def diversity(out: Path, rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean over prompts of the difference between two seeds' pictures, per cent of the range."""
    by_prompt = defaultdict(list)
    for row in rows:
        pictures = np.load(
            out / f"{stem(row['objective'], row['prompt'], row['seed'])}.npy", allow_pickle=False
        )
        by_prompt[row["prompt"]].append(pictures.astype(np.float32) / 255)
    pairs = [
        100 * float(np.sqrt(np.square(a - b).mean()))
        for pictures in by_prompt.values()
        for a, b in itertools.combinations(pictures, 2)
    ]
    return statistics.mean(pairs) if pairs else float("nan")


def collect(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows that are there, by objective in the order of SETTINGS."""
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    return {name: [row for row in rows if row["objective"] == name] for name in SETTINGS}


def table(out: Path) -> str:
    lines = [
        "| objective | changes to the recipe's guidance | runs | R-precision | IoU | PSNR | diversity | saturation "
        "| s a step | times SDS |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = collect(out)

    def mean(name: str, key: str) -> float:
        return statistics.mean(float(row[key]) for row in rows[name])

    file = out / "seconds"
    seconds = json.loads(file.read_text()) if file.exists() else {}
    nothing = float("nan")
    for name in sorted((n for n in rows if rows[n]), key=lambda name: -mean(name, "psnr")):
        lines.append(
            f"| {name} | {', '.join(SETTINGS[name]) or '-'} | {len(rows[name])} | {mean(name, 'retrieved'):.2f} "
            f"| {mean(name, 'iou'):.3f} | {mean(name, 'psnr'):.1f} | {diversity(out, rows[name]):.1f} "
            f"| {mean(name, 'saturation'):.2f} | {seconds.get(name, nothing):.3f} "
            f"| {seconds.get(name, nothing) / seconds.get('sds', nothing):.1f} |"
        )
    return "\n".join(lines)


def picture(out: Path, file: Path) -> None:
    """Two views of the first seed, a row an objective and a column a prompt."""
    rows = {name: found for name, found in collect(out).items() if found}
    prompts = list(dict.fromkeys(row["prompt"] for found in rows.values() for row in found))
    sheet = Image.new("RGB", (LABEL + 2 * SIZE * len(prompts), SIZE * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for y, (name, found) in enumerate(rows.items()):
        draw.text((8, SIZE * y + SIZE // 2), name, fill="black", font=font, anchor="lm")
        for row in found:
            if row["seed"] == 0:
                pictures = np.load(out / f"{stem(name, row['prompt'], 0)}.npy", allow_pickle=False)
                x = LABEL + 2 * SIZE * prompts.index(row["prompt"])
                for offset, view in enumerate((pictures[1], pictures[5])):
                    sheet.paste(Image.fromarray(view), (x + offset * SIZE, SIZE * y))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--prompts", nargs="*", default=list(PROMPTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--time", action="store_true", help="only measure the time of a step")
    parser.add_argument("--collect", action="store_true", help="compute nothing, print what is there")
    add_markdown(parser)
    parser.add_argument("--picture", type=Path, help="write a picture of all objectives")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if not arguments.collect:
        prior = load_prior(PriorConfig())
        if arguments.time:
            time_steps(out, prior)
            return
        jobs = [
            (n, p, seed) for seed in range(arguments.seeds) for p in arguments.prompts for n in arguments.only
        ]
        for name, prompt, seed in jobs:
            file = out / f"{stem(name, prompt, seed)}.json"
            if file.exists():
                if json.loads(file.read_text())["settings"] != SETTINGS[name]:
                    raise SystemExit(f"{file} was made with other settings: choose another --out")
                continue
            row = run(name, prompt, seed, prior, out, arguments.steps)
            file.write_text(json.dumps(row))
            print(json.dumps(row), flush=True)
    text = table(out)
    print(text)
    write_markdown(arguments.markdown, text)
    if arguments.picture is not None:
        picture(out, arguments.picture)


if __name__ == "__main__":
    main()
