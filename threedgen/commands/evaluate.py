"""`threedgen eval`: options, which kind of thing the target is, and where the table goes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.options import DEVICES, add_trust, trusting, whole
from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from threedgen.datasets.objects import ObjectSet
    from threedgen.evaluation.benchmark import Predictor
    from threedgen.evaluation.result import Evaluation

PREDICTOR = "nerfdiff.json"  # of a folder that `threedgen train nerfdiff` left
LATENT = "ssdnerf.json"  # and of `threedgen train ssdnerf`
FOLDER = "eval"  # in the target, where no --out is given
_SIZE = 64  # pixels of the shape world, for a nerfdiff

Progress = Callable[[int, int], None]


@trusting
def run(arguments: argparse.Namespace) -> None:
    """Measures, prints a table and writes it. Raises UserError for what a user can put right."""
    from threedgen.core import inside
    from threedgen.core.paths import existing

    target = existing(
        arguments.target, "there is nothing at '{path}': name a run, a trained model or pictures"
    )
    if not target.is_dir():
        raise UserError(f"'{target}' is a file: name a run, a trained model or a folder of pictures")
    out = target / FOLDER if arguments.out is None else Path(arguments.out)
    if arguments.out is None:
        inside.require_no_link(out, target)
    _require_writable(out)
    from threedgen.jobs.listeners.progress import Progress as Display

    with Display() as display:
        task = display.task("evaluating")
        evaluation = _evaluated(target, arguments, lambda done, total: task.update(done, total=total))
        task.end()
    _print(evaluation)
    evaluation.write(out)
    for name in ("eval.json", "views.csv", "table.md"):
        print(out / name)


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen eval",
        description="Measure the asset of a run, a trained single-view model, or pictures: PSNR, SSIM, LPIPS, FID, "
        "KID, 3D consistency, and the motion of an asset that moves. Prints a table; eval.json, views.csv and "
        "table.md go to --out.",
        epilog="FID and KID depend on the network that they name: compare them within one network only.",
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="a run, a folder of pictures, or the folder of a trained NerfDiff or SSDNeRF",
    )
    parser.add_argument(
        "--truth",
        metavar="DATASET",
        help="true pictures: posed ones, for pictures also plain ones of the same names, for a model also "
        "shape-world:CLASS[,CLASS]; default: what the run or model was made of, if that is known",
    )
    parser.add_argument(
        "--protocol",
        choices=("srn", "short"),
        help="for a model: which views are given and asked; default: short",
    )
    parser.add_argument(
        "--answer",
        choices=("feed-forward", "views", "ngd", "reconstruction", "samples"),
        help="for a NerfDiff: its NeRF as predicted (feed-forward, the default), views drawn freely (views), or "
        "NeRF-guided distillation (ngd); for an SSDNeRF: what it reconstructs from one view (reconstruction, the "
        "default), or samples",
    )
    parser.add_argument(
        "--objects",
        type=whole,
        metavar="N",
        help="for a model: number of objects; default: all",
    )
    parser.add_argument(
        "--seed",
        type=whole,
        default=0,
        metavar="N",
        help="seed of the model and of KID; default: 0",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        help="for an SSDNeRF: where to compute; default: auto, which takes the GPU if there is one",
    )
    parser.add_argument(
        "--up",
        choices=("y", "z"),
        help="axis of the world of --truth that points up; default: detected from its cameras",
    )
    parser.add_argument(
        "--features",
        default="embedded",
        metavar="NAME",
        help="network of FID and KID: embedded, clip:FOLDER, efficientnet:FILE or inception:FILE; "
        "default: embedded",
    )
    parser.add_argument(
        "--lpips",
        metavar="FILE",
        help="weights of LPIPS; default: the file that the variable THREEDGEN_LPIPS names",
    )
    parser.add_argument("--out", metavar="DIR", help=f"folder of the results; default: TARGET/{FOLDER}")
    add_trust(parser)
    return parser


def _evaluated(target: Path, arguments: argparse.Namespace, progress: Progress) -> Evaluation:
    from threedgen.jobs.run_directory import RECIPE

    if (target / PREDICTOR).is_file() or (target / LATENT).is_file():
        return _model(target, arguments, progress)
    for option in ("protocol", "objects", "answer", "device"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} is for a trained model: '{target}' has no {PREDICTOR} or {LATENT}")
    if (target / RECIPE).is_file():
        return _run(target, arguments, progress)
    return _pictures(target, arguments, progress)


def _model(target: Path, arguments: argparse.Namespace, progress: Progress) -> Evaluation:
    latent = (target / LATENT).is_file()
    record = _record(target / (LATENT if latent else PREDICTOR))
    truth = arguments.truth or (_classes_of(record) if latent else None)
    if truth is None:
        raise UserError(
            "a model is measured on objects: --truth DATASET, for example --truth shape-world:car,chair"
        )
    if arguments.up is not None:
        raise UserError("--up is for the pictures of one object: the objects of a set have +Y up")
    answer = arguments.answer or ("reconstruction" if latent else "feed-forward")
    if (answer in ("reconstruction", "samples")) != latent:
        raise UserError(
            f"--answer {answer} is not what {LATENT if latent else PREDICTOR} of '{target}' gives"
        )
    if arguments.device is not None and not latent:
        raise UserError(f"--device is for an ssdnerf: '{target}' is measured on the CPU, leave it out")
    from threedgen.core.machine import choose_device
    from threedgen.datasets.objects import SHAPE_WORLD, open_objects
    from threedgen.evaluation import evaluate_objects, evaluate_samples

    device = choose_device(arguments.device or "auto")
    drawn = arguments.objects if truth.startswith(SHAPE_WORLD) else None
    name = target.absolute().name
    if answer == "samples":
        from threedgen.ssdnerf.model import load_model
        from threedgen.ssdnerf.views import Sampled

        sampled = Sampled(load_model(target, device), arguments.seed)
        objects = open_objects(truth, drawn, sampled.model.viewpoint.size)
        count, networks = arguments.objects, (arguments.features, arguments.seed)
        evaluation = evaluate_samples(sampled, objects, *networks, count=count, name=name, progress=progress)
        return _about(evaluation, target, truth)
    predictor, size = _predictor(target, answer, device)
    objects = open_objects(truth, drawn, size)
    evaluation = evaluate_objects(
        predictor,
        objects,
        arguments.protocol or "short",
        arguments.features,
        arguments.lpips,
        arguments.seed,
        count=arguments.objects,
        learnt=_learnt(record, truth, objects),
        name=name,
        progress=progress,
    )
    return _about(evaluation, target, truth)


def _predictor(target: Path, answer: str, device: str) -> tuple[Predictor, int]:
    """The model, and how many pixels the shape world's pictures have that it is measured on. device: of an
    ssdnerf."""
    if answer == "reconstruction":
        from threedgen.ssdnerf.model import load_model
        from threedgen.ssdnerf.reconstruction import Reconstructed

        model = load_model(target, device)
        return Reconstructed(model), model.viewpoint.size
    from threedgen.evaluation.nerfdiff_predictors import load_predictor

    return load_predictor(target, answer), _SIZE


def _record(file: Path) -> dict[str, Any]:
    """What a model says of its training."""
    from threedgen.core.documents import parse_json

    try:
        record = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # loading the model says what is wrong
    return record if isinstance(record, dict) else {}


def _classes_of(record: dict[str, Any]) -> str | None:
    """The shape world's classes that a model was trained on, of which others can be drawn; None for a folder."""
    from threedgen.datasets.objects import SHAPE_WORLD

    dataset = record.get("dataset")
    return dataset if isinstance(dataset, str) and dataset.startswith(SHAPE_WORLD) else None


def _learnt(record: dict[str, Any], truth: str, objects: ObjectSet) -> Callable[[int], bool]:
    """Whether a model was trained on the object with an index of the set `truth`, by the digests of its files that
    the model keeps, whatever they are called now.

    A model of an earlier version keeps none: it was trained on the first objects of a folder with the name of its
    own. Those of the shape world are others than in any training.
    """
    digests = record.get("digests")
    if isinstance(digests, list) and digests:
        return lambda index: objects.digest(index) in digests
    count = _first(record, truth)
    return lambda index: index < count


def _first(record: dict[str, Any], truth: str) -> int:
    dataset = record.get("dataset")
    objects = record.get("objects", record.get("scenes"))  # a NerfDiff's name for it, and an SSDNeRF's
    if not isinstance(objects, int) or not dataset or dataset == _classes_of(record):
        return 0
    return objects if dataset in (Path(truth).name, Path(truth).resolve().name) else 0


def _run(target: Path, arguments: argparse.Namespace, progress: Progress) -> Evaluation:
    from threedgen.evaluation.runs import evaluate_run
    from threedgen.jobs.run_directory import RunDirectory

    run = RunDirectory.open(target)
    networks = (arguments.features, arguments.lpips, arguments.seed)
    evaluation = evaluate_run(run, arguments.truth, *networks, up=arguments.up, progress=progress)
    return _about(evaluation, target, arguments.truth)


def _pictures(target: Path, arguments: argparse.Namespace, progress: Progress) -> Evaluation:
    if arguments.truth is None:
        raise UserError(
            f"'{target}' is neither a run nor a model, and pictures need others to compare: --truth FOLDER"
        )
    if arguments.up is not None:
        raise UserError(
            f"--up turns the cameras of --truth, and the pictures of '{target}' have none: leave it out"
        )
    from threedgen.evaluation.picture_sets import compare_pictures
    from threedgen.evaluation.scorer import Scorer

    scorer = Scorer(arguments.features, arguments.lpips, arguments.seed)
    evaluation = compare_pictures(target, arguments.truth, scorer, progress)
    return _about(evaluation, target, arguments.truth)


def _about(evaluation: Evaluation, target: Path, truth: str | None) -> Evaluation:
    import dataclasses

    about = {"target": str(target), "truth": truth, **evaluation.about}
    return dataclasses.replace(evaluation, about=about)


def _print(evaluation: Evaluation) -> None:
    from threedgen.evaluation.result import table

    print(table([evaluation]))
    if evaluation.report:
        scores = (f"{name} {value:g}" for name, value in evaluation.report.items() if _is_number(value))
        print(f"\nits own report: {', '.join(scores)}")
    print()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_writable(folder: Path) -> None:
    """Said before anything is computed."""
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"cannot write to '{folder}': '{parent}' is a file; choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to '{folder}': no permission in {parent}; choose another --out")
