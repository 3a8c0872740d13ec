"""`threedgen reconstruct`: finds the object that views show, with a trained SSDNeRF."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

if TYPE_CHECKING:
    pass
from threedgen.commands.sample import print_written


def build_parser() -> Parser:
    options = Parser(
        prog="threedgen reconstruct",
        description="Find the 3D asset that one or several views show, with a trained SSDNeRF: asset.glb, "
        "contact_sheet.png and report.json in --out.",
        epilog="CAMERA is AZIMUTH[,ELEVATION[,DISTANCE]] in degrees and world units, or a file with an SRN pose; "
        "what is not said is as the training pictures have it. The picture is looked at as it is, on white: it "
        "must be framed as the training pictures are.",
    )
    options.add_argument("run", metavar="RUN", help="a folder that `threedgen train ssdnerf` left")
    options.add_argument("views", metavar="VIEW.png[@CAMERA]", nargs="+")
    options.add_argument("--guiding", type=int, metavar="N", help="steps of guided sampling, 0: none")
    options.add_argument("--gain", type=float, help="of the guidance by the views")
    options.add_argument("--finetuning", type=int, metavar="N", help="times 4 steps, 0: none")
    options.add_argument("--seed", type=int, default=0, metavar="N")
    options.add_argument("--out", type=Path, metavar="FOLDER", help="default: RUN/reconstructions/<name>")
    options.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return options


def run(arguments: argparse.Namespace) -> None:
    """Finds the scene that given views show."""
    from threedgen.core.machine import choose_device
    from threedgen.ssdnerf.making import given_views, reconstruction_folder, write_reconstruction
    from threedgen.ssdnerf.model import load_model
    from threedgen.ssdnerf.reconstruction import Reconstruction

    model = load_model(arguments.run, choose_device(arguments.device))
    chosen = {"steps": arguments.guiding, "gain": arguments.gain}
    said = {name: value for name, value in chosen.items() if value is not None}
    guiding, finetuning = replace(model.config.guiding, **said), model.config.finetuning
    if arguments.finetuning is not None:
        finetuning = replace(finetuning, outer=arguments.finetuning)
    if not guiding.steps and not finetuning.outer:
        raise UserError("--guiding 0 and --finetuning 0 together leave nothing to be done")
    views = given_views(arguments.views, model.viewpoint)
    folder = arguments.out or reconstruction_folder(arguments.run, arguments.views)
    how = Reconstruction(guiding, finetuning)
    print_written(*write_reconstruction(model, views, how, arguments.seed, folder, arguments.views))
