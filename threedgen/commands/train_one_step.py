"""`threedgen train one-step`: distils a trained SSDNeRF into a sampler of one step."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.commands.parser import Parser

if TYPE_CHECKING:
    pass


def build_parser() -> Parser:

    options = Parser(
        prog="threedgen train one-step",
        description="Distil a trained SSDNeRF, without its data, into a sampler of one step (BOOT), which "
        "`threedgen sample RUN --sampler one-step` then uses.",
    )
    options.add_argument("run", metavar="RUN", help="a folder that `threedgen train ssdnerf` left")
    options.add_argument("--steps", type=int, default=2000, metavar="N", help="default: 2000")
    options.add_argument("--batch", type=int, default=16, metavar="N")
    options.add_argument("--learning-rate", type=float, default=2e-4)
    options.add_argument("--seed", type=int, default=0, metavar="N")
    options.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return options


def run(arguments: argparse.Namespace) -> None:
    """Distils, or goes on distilling, a trained SSDNeRF into a sampler of one step."""
    from threedgen.commands.training import make_folder
    from threedgen.core.machine import choose_device
    from threedgen.ssdnerf import one_step
    from threedgen.ssdnerf.bootstrapping import BootstrapConfig
    from threedgen.ssdnerf.model import load_model

    names = [field.name for field in dataclasses.fields(BootstrapConfig)]
    config = BootstrapConfig(**{name: value for name, value in vars(arguments).items() if name in names})
    model = load_model(arguments.run, choose_device(arguments.device))
    folder = Path(arguments.run) / one_step.FOLDER
    make_folder(folder)
    from threedgen.jobs.listeners.progress import Progress

    with Progress() as progress:
        task = progress.task("distilling", config.steps)

        def report(step: int, taught: float, edge: float) -> None:
            task.update(step, f"bootstrapping {taught:.3g}, boundary {edge:.3g}")

        one_step.train_one_step(model, folder, config, report)
    print(folder)
