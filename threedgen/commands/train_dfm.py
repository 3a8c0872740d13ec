"""`threedgen train dfm`: trains a diffusion model of scenes on pictures, and writes its folder."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from threedgen.commands.options import add_dry_run, print_settings, whole
from threedgen.commands.parser import Parser
from threedgen.commands.training import (
    add_catalogue,
    add_config,
    catalogue_of,
    config_of,
    held,
    machine_name,
    train,
)
from threedgen.dfm.config import SceneTrainingConfig


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen train dfm",
        description="Train a diffusion model of scenes, which samples what one picture of an object may show, on "
        "pictures alone, and write its folder (model/), samples.png, losses.jsonl and errors.jsonl into --out. A "
        "training that was stopped continues.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/dfm"),
        metavar="DIR",
        help="folder of the training, which continues if it is there; default: runs/dfm",
    )
    parser.add_argument(
        "--size",
        type=whole,
        default=64,
        metavar="PIXELS",
        help="width and height of the pictures: 64 or a doubling of it; default: 64",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FOLDER",
        help="start with the weights of a prior of `threedgen train prior --kind picture` of the same size; "
        "default: random weights",
    )
    add_catalogue(parser)
    add_dry_run(parser, "training")
    add_config(parser, {"dfm": SceneTrainingConfig})
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains or continues the model in --out. Raises UserError."""
    config, folder = config_of(arguments, SceneTrainingConfig), arguments.out
    size = arguments.size
    if arguments.dry_run:
        print_settings({"size": size, **dataclasses.asdict(config)})
        return
    from threedgen.dfm.report import OBJECTS, write_card, write_scene_report
    from threedgen.dfm.store import save_scene_field
    from threedgen.dfm.trainer import SceneTrainer
    from threedgen.training.picture_report import held_out_views
    from threedgen.training.ring_bank import FramedViewBank

    trainer = SceneTrainer(config, size, folder)
    things = catalogue_of(arguments)
    with held(folder):
        if not trainer.resume() and arguments.start_from is not None:
            trainer.start_from(arguments.start_from)
        held_out = held_out_views(things, size, OBJECTS)
        loss = train(
            trainer,
            lambda progress: FramedViewBank(
                config, size, config.seed, things, folder / f"views-{size}", progress
            ),
            arguments.save_every,
            lambda: write_scene_report(trainer, held_out),
        )
        about = {"training": dataclasses.asdict(config), "steps": trainer.step, "pictures": trainer.pictures}
        save_scene_field(trainer.average, folder / "model", about)
        write_card(trainer, folder / "model", loss, machine_name(config.device))
