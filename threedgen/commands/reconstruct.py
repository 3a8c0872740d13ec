"""`threedgen reconstruct RUN VIEW ...`: finds the object that views show, with a trained SSDNeRF."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.options import add_device, whole
from threedgen.commands.parser import Parser
from threedgen.commands.sample import print_written, writing_below
from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from threedgen.ssdnerf.config import Config
    from threedgen.ssdnerf.reconstruction import Reconstruction


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen reconstruct",
        description="Find the 3D object that one or several views show, with a trained SSDNeRF, and write "
        "asset.glb, contact_sheet.png, codes.safetensors and report.json into a folder.",
        epilog="CAMERA is AZIMUTH[,ELEVATION[,DISTANCE]] in degrees and world units, or a file with an SRN pose. "
        "The default azimuth is 0, the front; elevation and distance default to the means of the training "
        "pictures. A picture is used as it is, on white, so it must be framed like the training pictures.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a training with `threedgen train ssdnerf`")
    parser.add_argument(
        "views",
        metavar="VIEW.png[@CAMERA]",
        nargs="+",
        help="a picture of the object, and the camera that saw it; all pictures have the same size",
    )
    parser.add_argument(
        "--guiding",
        type=whole,
        metavar="N",
        help="number of steps of guided sampling; 0 leaves it out; default: guiding.steps of the model",
    )
    parser.add_argument(
        "--gain",
        type=float,
        metavar="G",
        help="strength of the guidance by the views; default: guiding.gain of the model",
    )
    parser.add_argument(
        "--finetuning",
        type=whole,
        metavar="N",
        help="number of rounds of finetuning, of finetuning.inner steps each; 0 leaves it out; default: "
        "finetuning.outer of the model",
    )
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of every random draw; default: 0"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the files; default: RUN/reconstructions/<name of the first picture>",
    )
    add_device(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Reconstructs the object and prints its files. Raises UserError."""
    from threedgen.core.machine import choose_device
    from threedgen.ssdnerf.assets import given_views, reconstruction_folder, write_reconstruction
    from threedgen.ssdnerf.model import load_model

    model = load_model(arguments.run, choose_device(arguments.device or "auto"))
    how = _settings(arguments, model.config)
    views = given_views(arguments.views, model.viewpoint)
    folder = arguments.out or reconstruction_folder(arguments.run, arguments.views)
    with writing_below(folder, arguments.run):
        made = write_reconstruction(model, views, how, arguments.seed, folder, arguments.views)
    print_written(*made)


def _settings(arguments: argparse.Namespace, config: Config) -> Reconstruction:
    """The settings of the model, changed by the options. Raises UserError."""
    from threedgen.ssdnerf.reconstruction import Reconstruction

    guiding = _changed(config.guiding, {"steps": "guiding", "gain": "gain"}, arguments)
    finetuning = _changed(config.finetuning, {"outer": "finetuning"}, arguments)
    if not guiding.steps and not finetuning.outer:
        raise UserError("--guiding 0 and --finetuning 0 together leave nothing to do: leave one of them out")
    return Reconstruction(guiding, finetuning)


def _changed(config: Any, options: dict[str, str], arguments: argparse.Namespace) -> Any:
    """A section of settings under the options that are given. options: name of the option by name of the setting.

    Raises UserError, which names the option, for a value out of bounds.
    """
    from threedgen.core.settings import SettingError

    given = {name: getattr(arguments, option) for name, option in options.items()}
    try:
        return replace(config, **{name: value for name, value in given.items() if value is not None})
    except SettingError as error:
        raise UserError(f"--{options[error.name]} {error.problem}") from error
