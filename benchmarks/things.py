"""Text to 3D of real things against their true shapes: the prompts of things_prompts.yaml.

    python benchmarks/things.py [--out DIR] [--kinds known unseen scenes] [--only PROMPT ...] [--catalogue DIR]
                                [--answers FILE] [--camera] [--ceiling N] [--classifier FILE] [--wall PNG]
                                [--markdown FILE] [key=value ...]

Each prompt is the command that a user types, in a process of its own. Finished prompts in --out are not made again,
so a stopped benchmark goes on. Scores and pictures are of the mesh, asset.glb as it is read back from the file, and
the scores of the Gaussians of asset.ply are beside them, by threedgen/metrics/named_things.py: an asset is right if
of all known things that of its prompt is nearest by shape and colour, and, where the prompt names a colour, in that
colour. --camera asks the embedded prior about true pictures. --ceiling fits the same Gaussians
to true pictures of the first N things. --classifier adds text-image scores, see things_classifier.py.

sheet-*.png show all assets in a drawn order, with numbers and four views. --answers takes a YAML file that someone
wrote who saw these sheets and words.txt alone: number: word, for scenes number: [word, word].
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from looks import Looks, both, has_mesh, optimised
from PIL import Image, ImageDraw
from tables import add_markdown, write_markdown
from text_to_3d import fit_truth
from things_classifier import add_scores, make_scorer, text_image_figures
from torch import Tensor

from threedgen.core.random import generator
from threedgen.datasets.things.thing_set import INSTALLED, ThingSet, thing_set
from threedgen.datasets.things.thing_views import class_layers, natural_colors, true_views
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import THINGS, PriorConfig, load_prior
from threedgen.jobs.run_directory import RunDirectory
from threedgen.metrics.named_things import SIZE, VIEWS, Gallery, Judge, make_gallery
from threedgen.metrics.shape_world import ring
from threedgen.recipes.load import load_recipe

PROMPTS = Path(__file__).with_name("things_prompts.yaml")
KINDS = ("known", "unseen", "scenes")
A_SHEET = 20  # assets
WALL = 10  # assets beside one another
AZIMUTHS, LEVEL = (20.0, 110.0, 200.0, 290.0), 0.9  # degrees and t, of the errors of x0


def seen(looks: Looks, size: int = SIZE) -> Tensor:
    """[VIEWS, 4, size, size] premultiplied pictures of an asset."""
    rgb, alpha = looks(ring(VIEWS, size))
    return torch.cat([rgb - (1.0 - alpha), alpha], dim=-1).permute(0, 3, 1, 2)


def folder_of(out: Path, prompt: str) -> Path:
    """The run directory of a prompt."""
    return out / prompt.replace(" ", "-")


def make(prompt: str, out: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Runs the command, unless it is done, and returns the CPU seconds and the peak memory in GB."""
    folder = folder_of(out, prompt)
    cost = folder.with_suffix(".json")
    if not cost.is_file():
        command = [sys.executable, "-m", "threedgen", "text-to-3d", prompt, "--out", str(folder)]
        shutil.rmtree(folder, ignore_errors=True)
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        with folder.with_suffix(".log").open("w") as log:
            subprocess.run([*command, *settings], check=True, stdout=log, stderr=log)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads(RunDirectory.open(folder).report.read_text())
        values = {
            "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "seconds": time.perf_counter() - started,
            "gigabytes": report["peak_memory_bytes"] / 1e9,
        }
        cost.write_text(json.dumps(values))
    return json.loads(cost.read_text())


def asset_views(prompt: str, out: Path, size: int = SIZE) -> Tensor:
    """See `seen`, of the mesh of a finished prompt."""
    return seen(both(folder_of(out, prompt))[0], size)


def write_wall(rows: Sequence[dict[str, Any]], out: Path, path: Path) -> None:
    """All assets, half from the front and half from the side, with their prompts; a red one is not right."""
    cell, text = 2 * SIZE, 14
    height = -(-len(rows) // WALL) * (cell + text)
    wall = Image.new("RGB", (WALL * cell, height), "white")
    draw = ImageDraw.Draw(wall)
    for index, row in enumerate(rows):
        x, y = index % WALL * cell, index // WALL * (cell + text)
        rgba = asset_views(row["prompt"], out, cell)[1]
        white = (rgba[:3] + 1.0 - rgba[3:]).clamp(0.0, 1.0).permute(1, 2, 0)
        wall.paste(Image.fromarray((white * 255.0).round().to(torch.uint8).numpy()), (x, y))
        good = "scores" not in row or right(row)
        draw.text((x + 2, y + cell), row["prompt"], fill="black" if good else "red")
    wall.save(path)


def write_sheets(numbered: Sequence[tuple[int, Tensor]], out: Path) -> None:
    """Contact sheets of assets from the front, the right, the back and half above the left."""
    for page in range(0, len(numbered), A_SHEET):
        part = numbered[page : page + A_SHEET]
        sheet = Image.new("RGB", (2 * (4 * 2 * SIZE + 40), -(-len(part) // 2) * (2 * SIZE + 4)), "white")
        draw = ImageDraw.Draw(sheet)
        for place, (number, rgba) in enumerate(part):
            x, y = place % 2 * (8 * SIZE + 40), place // 2 * (2 * SIZE + 4)
            white = (rgba[:, :3] + 1.0 - rgba[:, 3:]).clamp(0.0, 1.0)
            row = torch.cat(list(white[[0, 1, 3, 6]]), dim=2).permute(1, 2, 0)
            picture = Image.fromarray((row * 255.0).round().to(torch.uint8).numpy())
            sheet.paste(picture.resize((8 * SIZE, 2 * SIZE), Image.Resampling.BICUBIC), (x + 36, y))
            draw.text((x + 4, y + SIZE), str(number), fill="black")
        sheet.save(out / f"sheet-{page // A_SHEET + 1}.png")


def camera_errors(things: ThingSet, words: Sequence[str]) -> tuple[dict[str, float], int]:
    """Mean squared errors of x0 at t = LEVEL of the embedded prior on the true things with a front: told the truth,
    a camera 45 degrees off, and the next thing; and how many things they are."""
    prior = load_prior(PriorConfig(name=THINGS))
    chosen = [word for word in words if things.canonical(word).front]
    totals = {"true": 0.0, "camera 45 degrees off": 0.0, "other text": 0.0}
    for index, word in enumerate(chosen):
        true = true_views(things.canonical(word), AZIMUTHS, 20.0, prior.image_size)
        turned = true_views(things.canonical(word), [a + 45.0 for a in AZIMUTHS], 20.0, 8).cameras
        clean, t = prior.encode(true.images), torch.full((len(AZIMUTHS),), LEVEL)
        noise = torch.randn(clean.shape, generator=generator(0, f"camera-errors/{word}", 0))
        z = prior.add_noise(clean, noise, t)
        own, other = f"a {word}", f"a {chosen[(index + 1) % len(chosen)]}"
        told = ((own, true.cameras), (own, turned), (other, true.cameras))
        white = torch.ones(len(AZIMUTHS), 3)
        for name, (text, cameras) in zip(totals, told, strict=True):
            condition = Condition((text,) * len(AZIMUTHS), cameras=cameras, background=white)
            error = (prior.predict(z, t, condition).x0 - clean).square().mean()
            totals[name] += float(error) / len(chosen)
    return totals, len(chosen)


def ceiling(things: ThingSet, judge: Judge, words: Sequence[str], settings: Sequence[str]) -> list[float]:
    """IoU of the same Gaussians fitted to true pictures of the canonical things of classes."""
    ious = []
    for word in words:
        recipe = load_recipe("text-to-3d", settings, prompt=f"a {word}")
        source = things.canonical(word)
        assert source.thing is not None
        colors = natural_colors(source.thing)
        scene = fit_truth(word, recipe, lambda cameras, s=source: class_layers(s, cameras), colors)
        ious.append(judge.score(seen(optimised(recipe, scene)), word).iou)
        print(f"ceiling of {word}: IoU {ious[-1]:.3f}", flush=True)
    return ious


def named(answer: Any, row: dict[str, Any]) -> bool:
    """Whether what someone called a numbered asset is what the prompt asked for."""
    if row["kind"] == "scenes":
        return isinstance(answer, list) and sorted(answer) == sorted(row["things"])
    return answer == row["thing"]


def right(row: dict[str, Any], key: str = "scores") -> bool:
    """Whether the nearest thing is that of the prompt, in the colour that it names. key: of the mesh's scores, or
    "optimised"."""
    scores, asked = row[key], row.get("color")
    return scores["rank"] == 0 and (asked is None or scores["color"] in (asked, None))


def table(rows: Sequence[dict[str, Any]], answers: dict[int, Any] | None) -> str:
    """The markdown table of all prompts, and the figures below it."""
    lines = [
        "| prompt | nearest | rank | colour | IoU | IoU, trained | turn | Gaussians: nearest | IoU | named "
        "| CPU s |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        scores, called = row.get("scores"), "" if answers is None else answers.get(row["number"], "-")
        if scores is None:
            cells = ["-"] * 8
        else:
            turn = "-" if scores["worst_turn"] is None else f"{scores['worst_turn']:.0f}°"
            cells = [scores["nearest"], scores["rank"], scores["color"] or "-"]
            cells += [f"{scores['iou']:.3f}", f"{scores['trained_iou']:.3f}", turn]
            cells += [row["optimised"]["nearest"], f"{row['optimised']['iou']:.3f}"]
        name = ", ".join(called) if isinstance(called, list) else called
        text = " | ".join(str(cell) for cell in cells)
        held = " (held out)" if row.get("held_out") else ""
        held += "" if row["has_mesh"] else " (no mesh)"
        lines.append(f"| {row['prompt']}{held} | {text} | {name} | {row['cpu_seconds']:.0f} |")
    lines.append("")
    for kind in KINDS:
        part = [row for row in rows if row["kind"] == kind]
        if not part:
            continue
        figures = [f"{kind}: {len(part)} prompts"]
        if kind != "scenes":
            figures.append(f"R-precision {statistics.mean(right(row) for row in part):.3f}")
            nearest = statistics.mean(row["scores"]["rank"] == 0 for row in part)
            figures.append(f"by word alone {nearest:.3f}")
            for key in ("iou", "trained_iou"):
                figures.append(f"{key} {statistics.mean(row['scores'][key] for row in part):.3f}")
            fronts = [row["scores"]["janus"] for row in part if row["scores"]["janus"] is not None]
            figures.append(f"Janus {sum(fronts)} of {len(fronts)}")
            own = statistics.mean(right(row, "optimised") for row in part)
            iou = statistics.mean(row["optimised"]["iou"] for row in part)
            figures.append(f"Gaussians: R-precision {own:.3f}, iou {iou:.3f}")
        figures += text_image_figures(part)
        if answers is not None:
            good = statistics.mean(named(answers.get(row["number"]), row) for row in part)
            figures.append(f"named from the sheet {good:.3f}")
        figures.append(f"median {statistics.median(row['cpu_seconds'] for row in part):.0f} CPU s")
        figures.append(f"peak {max(row['gigabytes'] for row in part):.2f} GB")
        lines.append(" · ".join(figures))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/things"))
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--only", nargs="*", default=(), help="some of the prompts")
    parser.add_argument("--catalogue", default=INSTALLED, metavar="DIR")
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--ceiling", type=int, default=0, metavar="N")
    parser.add_argument(
        "--camera", action="store_true", help="also measure whether the prior knows the camera"
    )
    parser.add_argument(
        "--classifier",
        type=Path,
        metavar="FILE",
        help="weights of EfficientNet-Lite0: also measure how well pictures fit their words",
    )
    parser.add_argument("--share", default="1/1", help="which part of the prompts to make, such as 1/2")
    parser.add_argument("--wall", type=Path, metavar="PNG", help="a picture of all assets")
    add_markdown(parser)
    parser.add_argument("overrides", nargs="*", help="key=value settings of all runs")
    arguments = parser.parse_intermixed_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    document = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    rows = [{"kind": kind, **row} for kind in KINDS for row in document[kind]]
    scorer = make_scorer(arguments.classifier, rows) if arguments.classifier else None
    order = list(range(1, len(rows) + 1))
    random.Random(0).shuffle(order)
    for row, number in zip(rows, order, strict=True):
        row["number"] = number
    only = [row for row in rows if not arguments.only or row["prompt"] in arguments.only]
    rows = [row for row in only if row["kind"] in arguments.kinds]
    part, parts = (int(text) for text in arguments.share.split("/"))
    for row in rows[part - 1 :: parts]:
        cost = make(row["prompt"], out, arguments.overrides)
        print(f"{row['prompt']}: {cost['cpu_seconds']:.0f} CPU s", flush=True)
    if parts > 1:
        return
    things = thing_set(arguments.catalogue)
    file = out / "gallery.safetensors"
    if not file.is_file():
        make_gallery(things, lambda done, total: print(f"gallery {done}/{total}", end="\r")).save(file)
    judge = Judge(Gallery.load(file))
    numbered = []
    for row in rows:
        folder = folder_of(out, row["prompt"])
        mesh, own = (seen(looks) for looks in both(folder))
        row |= {**make(row["prompt"], out, ()), "has_mesh": has_mesh(folder)}
        numbered.append((row["number"], mesh))
        if row["kind"] != "scenes":
            for key, rgba in (("scores", mesh), ("optimised", own)):
                row[key] = asdict(judge.score(rgba, row["thing"]))
    if scorer is not None:
        add_scores(scorer, rows, things, lambda prompt, size: asset_views(prompt, out, size))
    write_sheets(sorted(numbered, key=lambda item: item[0]), out)
    if arguments.wall:
        write_wall(rows, out, arguments.wall)
    (out / "words.txt").write_text("\n".join(things.words) + "\n")
    answers = None if arguments.answers is None else yaml.safe_load(arguments.answers.read_text())
    text = table(rows, answers)
    words = list(dict.fromkeys(row["thing"] for row in rows if "thing" in row))
    if arguments.camera:
        errors, count = camera_errors(things, words)
        listed = ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
        ratio = errors["camera 45 degrees off"] / errors["true"]
        text += f"\nx0 error at t = {LEVEL}, {count} things: {listed}; camera off over true {ratio:.2f}"
    if arguments.ceiling:
        chosen = [word for word in words if things.classes(word)][: arguments.ceiling]
        ious = ceiling(things, judge, chosen, arguments.overrides)
        text += f"\nceiling: IoU {statistics.mean(ious):.3f}, {len(ious)} things fitted to true pictures"
    print(text)
    (out / "rows.json").write_text(json.dumps(rows, indent=1))
    write_markdown(arguments.markdown, text)


if __name__ == "__main__":
    main()
