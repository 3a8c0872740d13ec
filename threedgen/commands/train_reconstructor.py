"""`threedgen train reconstructor`: trains the network that turns views into 3D Gaussians, and writes its folder."""

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
from threedgen.core.errors import UserError
from threedgen.reconstruction.config import ReconstructorTrainingConfig


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen train reconstructor",
        description="Train the network that turns views of an object into 3D Gaussians in one pass, and write its "
        "folder (model/), samples.png, losses.jsonl and errors.jsonl into --out. A training that was stopped "
        "continues.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/reconstructor"),
        metavar="DIR",
        help="folder of the training, which continues if it is there; default: runs/reconstructor",
    )
    parser.add_argument(
        "--size",
        type=whole,
        default=64,
        metavar="PIXELS",
        help="width and height of the views, a multiple of 16; default: 64",
    )
    parser.add_argument(
        "--prior",
        type=Path,
        metavar="FOLDER",
        help="a multi-view prior (the folder pipeline/ of `threedgen train prior --kind multiview`), from whose "
        "estimates of noisy views it learns as well; default: it learns from clean views only",
    )
    add_catalogue(parser)
    add_dry_run(parser, "training")
    add_config(parser, {"reconstructor": ReconstructorTrainingConfig})
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains or continues the reconstructor in --out. Raises UserError."""
    config, folder = config_of(arguments, ReconstructorTrainingConfig), arguments.out
    size = arguments.size
    if size < 16 or size % 16:
        raise UserError(f"--size is {size}: it must be a multiple of 16")
    if arguments.dry_run:
        print_settings({"size": size, **dataclasses.asdict(config)})
        return
    from threedgen.guidance.priors.base import check_shows
    from threedgen.reconstruction.report import write_card, write_report
    from threedgen.reconstruction.store import save_reconstructor
    from threedgen.reconstruction.trainer import ReconstructorTrainer
    from threedgen.training.multiview_model import load_multiview_pipeline
    from threedgen.training.ring_bank import RingBank
    from threedgen.training.ring_report import held_out_rings

    things = catalogue_of(arguments)
    prior = None if arguments.prior is None else load_multiview_pipeline(arguments.prior)
    if prior is not None:
        check_shows(str(arguments.prior), prior.shows, "colors")
    if prior is not None and prior.size != size:
        raise UserError(f"the views of --prior have {prior.size} pixels: choose --size {prior.size}")
    trainer = ReconstructorTrainer(config, size, folder, prior)
    with held(folder):
        trainer.resume()
        held_out = held_out_rings(things, size)
        loss = train(
            trainer,
            lambda progress: RingBank(config, size, config.seed, things, folder / f"views-{size}", progress),
            arguments.save_every,
            lambda: write_report(trainer, held_out),
        )
        about = {"training": dataclasses.asdict(config), "steps": trainer.step, "views": trainer.pictures}
        save_reconstructor(trainer.average, folder / "model", about)
        write_card(trainer, folder / "model", loss, machine_name(config.device))
