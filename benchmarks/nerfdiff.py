"""NerfDiff on held-out objects of the shape world: one view in, other views out.

    python benchmarks/nerfdiff.py MODEL [--objects 100] [--rows NAME ...] [--out runs/nerfdiff-benchmark]
    python benchmarks/nerfdiff.py MODEL --ablate [--objects 16]
    python benchmarks/nerfdiff.py MODEL --sheet FILE.png
    python benchmarks/nerfdiff.py --collect [--markdown FILE]

MODEL is a folder of `threedgen train nerfdiff`, or "embedded". Objects are cars and chairs in turn whose parameters
and colours no training drew, 32 views each on a spiral; view 8 is shown, 8 others are asked (`threedgen eval`'s
short protocol). Rows that `--out` holds are not computed again, so that several processes may share the work.

The denoiser never trains the NeRF it looks through (`coupled` is 0), so the single-image NeRF of a joint
training is that of a training without denoiser: "feed-forward NeRF" stands for both rows of the paper's table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from tables import add_markdown, write_markdown

from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import open_objects
from threedgen.evaluation import evaluate_objects
from threedgen.evaluation.baselines import MeanImage, NearestSource
from threedgen.evaluation.benchmark import views_of
from threedgen.evaluation.nerfdiff_predictors import Distilled, FeedForward, FreeViews
from threedgen.nerfdiff.distillation import NerfGuidedDistillation
from threedgen.nerfdiff.model import NerfDiffModel
from threedgen.nerfdiff.source import EMBEDDED
from threedgen.nerfdiff.store import load_model

NGD = NerfGuidedDistillation.Config
DATA = "shape-world:car,chair"
TRAINING_OBJECTS = 200  # that the mean picture is of

Rows = Mapping[str, Callable[[NerfDiffModel], Any]]
ROWS: Rows = MappingProxyType(
    {
        "mean picture": lambda model: MeanImage(open_objects(DATA, TRAINING_OBJECTS, split="train")),
        "source picture": lambda model: NearestSource(),
        "feed-forward NeRF (NerfDiff without NGD)": FeedForward,
        "views sampled freely": FreeViews,
        "NerfDiff with NGD": Distilled,
    }
)
ABLATIONS: Rows = MappingProxyType(
    {
        "feed-forward NeRF": FeedForward,
        "NGD": Distilled,
        "NGD, gamma 0": lambda model: Distilled(model, guidance=NGD(gamma=0.0)),
        "NGD, gamma 0.1": lambda model: Distilled(model, guidance=NGD(gamma=0.1)),
        "NGD, gamma 0.5": lambda model: Distilled(model, guidance=NGD(gamma=0.5)),
        "NGD, one pass a DDIM step": lambda model: Distilled(model, guidance=NGD(repeats=1)),
        "NGD, half the steps": lambda model: Distilled(model, steps=39),
        "NGD, twice the steps": lambda model: Distilled(model, steps=2 * Distilled.steps),
        "NGD, 6 views": lambda model: Distilled(model, batch=2, guidance=NGD(count=6)),
        "NGD, 24 views": lambda model: Distilled(model, steps=2 * Distilled.steps, guidance=NGD(count=24)),
        "NGD, from t = 1": lambda model: Distilled(model, guidance=NGD(t=(1.0, 0.02))),
        "NGD, from t = 0.5": lambda model: Distilled(model, guidance=NGD(t=(0.5, 0.02))),
    }
)


def measure(rows: Rows, names: list[str], model: NerfDiffModel, objects: int, out: Path) -> None:
    """Evaluates the rows that are not there yet, each into its folder."""
    data = open_objects(DATA, objects)
    for name in names:
        folder = out / name.replace(" ", "-")
        if (folder / "row.json").is_file():
            continue
        evaluation = evaluate_objects(rows[name](model), data, "short", name=name)
        evaluation.write(folder)
        (folder / "row.json").write_text(json.dumps({"objects": objects, **evaluation.row()}))
        print(json.dumps(evaluation.row()), flush=True)


def collect(out: Path) -> str:
    """Markdown of all rows that are there, in the order of the tables above."""
    order = {name: place for place, name in enumerate((*ROWS, *ABLATIONS))}
    rows = [json.loads(path.read_text()) for path in out.glob("*/row.json")]
    rows.sort(key=lambda row: order[row[""]])
    if not rows:
        return "no rows yet"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(str(row.get(name, "-")) for name in columns) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns), *lines])


def sheet(model: NerfDiffModel, path: Path, objects: int = 6, asked: int = 3) -> None:
    """A picture: the source view, then for some views the truth and every model's answer, a row an object."""
    models = {"feed-forward": FeedForward(model), "free views": FreeViews(model), "NGD": Distilled(model)}
    data, size, rows = open_objects(DATA, objects), model.architecture.size, []
    for index in range(objects):
        truth = data.load(index)
        source, others = views_of("short", len(truth.images))
        views = others[:: len(others) // asked][:asked]
        one = slice(source, source + 1)
        given = PosedPictures(truth.images[one], truth.alpha[one], truth.cameras[one])
        cameras = truth.cameras[torch.tensor(views)]
        answers = [truth.images[views], *(answer(given, cameras, index).rgb for answer in models.values())]
        columns = [given.images[0], *(kind[view] for view in range(asked) for kind in answers)]
        rows.append(torch.cat([column.detach().clamp(0.0, 1.0) for column in columns], dim=1))
    picture = Image.fromarray((torch.cat(rows) * 255.0).round().byte().numpy())
    picture = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.LANCZOS)
    labelled = Image.new("RGB", (picture.width, picture.height + 24), "white")
    labelled.paste(picture, (0, 24))
    draw, font = ImageDraw.Draw(labelled), ImageFont.load_default(14)
    for column, label in enumerate(["source", *(["truth", *models] * asked)]):
        draw.text((column * 2 * size + 6, 4), label, fill="black", font=font)
    labelled.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="embedded")
    parser.add_argument("--objects", type=int)
    parser.add_argument("--rows", nargs="*", help="some of the rows, by their names")
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--collect", action="store_true")
    add_markdown(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/nerfdiff-benchmark"))
    arguments = parser.parse_args()
    out = arguments.out / ("ablation" if arguments.ablate else "table")
    if not arguments.collect:
        model = load_model(EMBEDDED if arguments.model == "embedded" else arguments.model)
        if arguments.sheet:
            sheet(model, arguments.sheet)
            return
        rows = ABLATIONS if arguments.ablate else ROWS
        measure(
            rows,
            arguments.rows or list(rows),
            model,
            arguments.objects or (16 if arguments.ablate else 100),
            out,
        )
    text = collect(out)
    print(text)
    write_markdown(arguments.markdown, text)


if __name__ == "__main__":
    main()
