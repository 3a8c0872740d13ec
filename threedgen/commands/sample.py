"""`threedgen sample` and `threedgen reconstruct`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.ssdnerf.model import LatentModel


def build_parser() -> Parser:
    options = Parser(
        prog="threedgen sample",
        description="Draw 3D assets from a trained SSDNeRF: a GLB each and contact_sheet.png in RUN/samples.",
    )
    options.add_argument("run", metavar="RUN", help="a folder that `threedgen train ssdnerf` left")
    options.add_argument("--count", type=int, default=8, metavar="N", help="default: 8")
    options.add_argument("--caption", metavar="TEXT", help='of a model with captions, such as "a red car"')
    options.add_argument("--scale", type=float, default=2.0, help="of the caption's guidance; default: 2")
    options.add_argument("--steps", type=int, default=50, help="of the sampler; default: 50")
    options.add_argument("--sampler", choices=("ddim", "dpm-solver++", "one-step"), default="ddim")
    options.add_argument("--seed", type=int, default=0, metavar="N")
    options.add_argument(
        "--interpolate",
        nargs=2,
        type=int,
        metavar=("A", "B"),
        help="from sample A to sample B in --count steps",
    )
    options.add_argument("--out", type=Path, metavar="FOLDER", help="default: RUN/samples")
    options.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return options


def run(arguments: argparse.Namespace) -> None:
    """Draws scenes from a trained model: GLBs and a contact sheet."""
    if arguments.count < 1 or not 0.0 <= arguments.scale < float("inf"):
        raise UserError("--count must be at least 1, and --scale not negative")

    from threedgen.core.machine import choose_device
    from threedgen.ssdnerf.making import write_scenes
    from threedgen.ssdnerf.model import load_model

    model = load_model(arguments.run, choose_device(arguments.device))
    made, names = _drawn(model, arguments)
    told = ("seed", "caption", "scale", "sampler", "steps")
    note = {name: getattr(arguments, name) for name in told}
    from threedgen.jobs.listeners.progress import Progress

    with Progress() as progress:
        writing = progress.task("writing", len(names))
        written, empty = write_scenes(
            model,
            made,
            names,
            arguments.out or Path(arguments.run) / "samples",
            note,
            lambda done, total: writing.update(done),
        )
    print_written(written, empty)


def _drawn(model: LatentModel, arguments: Any) -> tuple[Tensor, list[str]]:
    """The codes that were asked for, and their names."""
    from threedgen.ssdnerf.one_step import load_one_step, sample_one_step
    from threedgen.ssdnerf.sampling import denoise_codes, draw_noise, interpolate, sample_codes

    seed, count = arguments.seed, arguments.count
    told = (arguments.caption, arguments.scale, arguments.steps, arguments.sampler)
    names = [f"seed{seed}-{number:04d}" for number in range(count)]
    if arguments.interpolate is None and arguments.sampler != "one-step":
        return sample_codes(model, range(count), seed, *told), names
    if arguments.interpolate is None:
        noise = draw_noise(model, range(count), seed)
    else:
        first, last = arguments.interpolate
        ends = draw_noise(model, (first, last), seed)
        noise = interpolate(ends[0], ends[1], count)
        names = [f"seed{seed}-{first:04d}-to-{last:04d}-{number:04d}" for number in range(count)]
    if arguments.sampler != "one-step":
        return denoise_codes(model, noise, *told), names
    if arguments.caption:
        raise UserError("the one-step sampler knows no captions: leave --caption out, or use --sampler ddim")
    return sample_one_step(model, load_one_step(model, arguments.run), noise), names


def print_written(written: list[Path], empty: list[str]) -> None:
    """Where the results are; what has no surface on stderr."""
    import sys

    for path in written:
        print(path)
    for name in empty:
        print(f"warning: '{name}' has no surface, and no GLB: train longer", file=sys.stderr)
