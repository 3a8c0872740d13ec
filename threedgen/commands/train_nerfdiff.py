"""`threedgen train nerfdiff DATASET`: trains the two networks of NerfDiff together, and writes a folder that
`threedgen eval` and `threedgen image-to-3d --recipe nerfdiff` read."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from threedgen.commands.options import add_dry_run, at_least_one, print_settings, whole
from threedgen.commands.parser import Parser
from threedgen.commands.training import add_config, config_of, held, machine_name, train
from threedgen.core.errors import UserError
from threedgen.nerfdiff.config import NerfDiffTrainingConfig

_OBJECTS = 2400  # of the shape world, where nothing is said


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen train nerfdiff",
        description="Train the two networks of NerfDiff together on posed pictures of many objects, and write "
        "nerfdiff.json, model.safetensors and losses.jsonl into --out. A training that was stopped continues.",
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="a folder of SRN objects (rgb/, pose/, intrinsics.txt), or shape-world:CLASS[,CLASS...]",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/nerfdiff"),
        metavar="DIR",
        help="folder of the training, which continues if it is there; default: runs/nerfdiff",
    )
    parser.add_argument(
        "--size",
        type=whole,
        default=64,
        metavar="N",
        help="pixels of the pictures, and texels of the planes; default: 64",
    )
    parser.add_argument(
        "--features",
        type=at_least_one,
        default=8,
        metavar="N",
        help="numbers stored in each texel; default: 8",
    )
    parser.add_argument(
        "--objects",
        type=whole,
        default=0,
        metavar="N",
        help=f"number of objects to train on; default: 0, which is all, or {_OBJECTS} of the shape world",
    )
    add_dry_run(parser, "training")
    add_config(parser, {"nerfdiff": NerfDiffTrainingConfig})
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains or continues the model in --out. Raises UserError."""
    from threedgen.datasets.objects import SHAPE_WORLD, open_objects
    from threedgen.nerfdiff.bank import PairBank
    from threedgen.nerfdiff.card import write_card
    from threedgen.nerfdiff.model import NerfDiffArchitecture
    from threedgen.nerfdiff.store import save_model
    from threedgen.nerfdiff.trainer import NerfDiffTrainer

    config, folder = config_of(arguments, NerfDiffTrainingConfig), arguments.out
    if arguments.size < 16 or arguments.size % 16:
        raise UserError(f"--size is {arguments.size}: it must be a multiple of 16")
    if arguments.objects < 0:
        raise UserError(f"--objects must be 0 or more, got {arguments.objects}")
    if arguments.dry_run:
        own = {"dataset": arguments.dataset, "size": arguments.size, "features": arguments.features}
        print_settings({**own, "objects": arguments.objects, **dataclasses.asdict(config)})
        return
    drawn = arguments.dataset.startswith(SHAPE_WORLD)
    objects = open_objects(
        arguments.dataset,
        arguments.objects or (_OBJECTS if drawn else None),
        arguments.size,
        "train",
        config.seed,
    )
    architecture = NerfDiffArchitecture(size=arguments.size, features=arguments.features)
    trainer = NerfDiffTrainer(config, architecture, folder)
    digests = objects.digests()

    def saved() -> None:
        about = {
            "dataset": arguments.dataset if drawn else Path(arguments.dataset).resolve().name,
            "objects": len(objects),
            "digests": digests,
            "training": dataclasses.asdict(config),
            "steps": trainer.step,
            "pictures": trainer.pictures,
            "hours": round(trainer.seconds / 3600, 3),
            "machine": machine_name(config.device),
        }
        save_model(trainer.average, folder, about)
        write_card(trainer.average, config, about, folder)

    with held(folder):
        trainer.resume()
        train(
            trainer, lambda progress: PairBank(objects, arguments.size, progress), arguments.save_every, saved
        )
        saved()
