"""`threedgen train one-step RUN`: distils a trained SSDNeRF into a sampler of one step."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.commands.options import add_device, add_dry_run, print_settings, whole
from threedgen.commands.parser import Parser

if TYPE_CHECKING:
    from threedgen.ssdnerf.bootstrapping import BootstrapConfig


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen train one-step",
        description="Distil a trained SSDNeRF, without its data, into a sampler of one step (BOOT), and write it "
        "into RUN/one-step, where `threedgen sample RUN --sampler one-step` finds it. A distillation that was "
        "stopped continues.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a training with `threedgen train ssdnerf`")
    parser.add_argument(
        "--steps",
        type=whole,
        default=2000,
        metavar="N",
        help="number of steps of the whole distillation; default: 2000",
    )
    parser.add_argument(
        "--batch",
        type=whole,
        default=16,
        metavar="N",
        help="number of noises in a step; default: 16",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=2e-4,
        metavar="R",
        help="learning rate of Adam after the warm-up of 100 steps; it falls to 0; default: 0.0002",
    )
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of every random draw; default: 0"
    )
    add_device(parser)
    add_dry_run(parser, "distillation")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Distils the sampler, or continues to, and prints its folder. Raises UserError."""
    from threedgen.commands.training import held
    from threedgen.core import inside
    from threedgen.core.machine import choose_device
    from threedgen.jobs.listeners.progress import Progress
    from threedgen.recipes.typed import plain
    from threedgen.ssdnerf import one_step
    from threedgen.ssdnerf.model import load_model

    config = _config(arguments)
    if arguments.dry_run:
        print_settings(plain(config))
        return
    model = load_model(arguments.run, choose_device(arguments.device or "auto"))
    folder = Path(arguments.run) / one_step.FOLDER
    inside.require_no_link(folder, arguments.run)
    with held(folder), Progress() as progress:
        task = progress.task("distilling", config.steps)

        def report(step: int, bootstrapping: float, boundary: float) -> None:
            task.update(step, f"bootstrapping {bootstrapping:.3g}, boundary {boundary:.3g}")

        one_step.train_one_step(model, folder, config, report)
    print(folder)


def _config(arguments: argparse.Namespace) -> BootstrapConfig:
    """The settings of the distillation. Raises UserError, which names the option, for a value out of bounds."""
    from threedgen.commands.training import option_error
    from threedgen.core.settings import SettingError
    from threedgen.ssdnerf.bootstrapping import BootstrapConfig

    names = {item.name for item in dataclasses.fields(BootstrapConfig)}
    try:
        return BootstrapConfig(**{name: value for name, value in vars(arguments).items() if name in names})
    except SettingError as error:
        raise option_error(error) from error
