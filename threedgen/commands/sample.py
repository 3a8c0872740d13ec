"""`threedgen sample RUN`: draws new objects from a trained SSDNeRF."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.commands.options import add_device, at_least_one, whole
from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.ssdnerf.model import LatentModel

_NOTED = ("seed", "caption", "scale", "sampler", "steps")
"""The options that each GLB says it was made with."""


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen sample",
        description="Draw new 3D objects from a trained SSDNeRF, and write a GLB of each, contact_sheet.png and "
        "codes.safetensors into a folder. GLBs of an earlier call in that folder are removed.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a training with `threedgen train ssdnerf`")
    parser.add_argument(
        "--count",
        type=at_least_one,
        default=8,
        metavar="N",
        help="number of objects; default: 8",
    )
    parser.add_argument(
        "--caption",
        metavar="TEXT",
        help='description of all objects, such as "a red car", for a model that was trained with captions; '
        "default: none, which draws any object",
    )
    parser.add_argument(
        "--scale", type=float, default=2.0, metavar="S", help="guidance scale of the caption; default: 2"
    )
    parser.add_argument(
        "--steps",
        type=whole,
        default=50,
        metavar="N",
        help="number of steps of ddim and dpm-solver++; default: 50",
    )
    parser.add_argument(
        "--sampler",
        choices=("ddim", "dpm-solver++", "one-step"),
        default="ddim",
        help="how noise becomes an object: ddim, dpm-solver++, which needs fewer steps, or one-step, which "
        "`threedgen train one-step` makes; default: ddim",
    )
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of every random draw; default: 0"
    )
    parser.add_argument(
        "--interpolate",
        nargs=2,
        type=whole,
        metavar=("A", "B"),
        help="draw --count objects on the way from sample A to sample B of the seed; default: samples 0, 1, 2 and "
        "so on",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the files; default: RUN/samples")
    add_device(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Draws the objects and prints their files. Raises UserError."""
    if not 0.0 <= arguments.scale < float("inf"):
        raise UserError(f"--scale must be a number of at least 0, got {arguments.scale:g}")

    from threedgen.core.machine import choose_device
    from threedgen.jobs.listeners.progress import Progress
    from threedgen.ssdnerf.assets import write_objects
    from threedgen.ssdnerf.model import load_model

    model = load_model(arguments.run, choose_device(arguments.device or "auto"))
    codes, names = _drawn(model, arguments)
    folder = arguments.out or Path(arguments.run) / "samples"
    note = {name: getattr(arguments, name) for name in _NOTED}
    with writing_below(folder, arguments.run), Progress() as progress:
        writing = progress.task("writing", len(names))
        written, empty = write_objects(
            model, codes, names, folder, note, lambda done, total: writing.update(done)
        )
    print_written(written, empty)


def _drawn(model: LatentModel, arguments: argparse.Namespace) -> tuple[Tensor, list[str]]:
    """The codes that were asked for, and their names."""
    from threedgen.ssdnerf.one_step import load_one_step, sample_one_step
    from threedgen.ssdnerf.sampling import denoise_codes, draw_noise, interpolate, sample_codes

    seed, count = arguments.seed, arguments.count
    sampling = (arguments.caption, arguments.scale, arguments.steps, arguments.sampler)
    names = [f"seed{seed}-{number:04d}" for number in range(count)]
    if arguments.interpolate is None and arguments.sampler != "one-step":
        return sample_codes(model, range(count), seed, *sampling), names
    if arguments.interpolate is None:
        noise = draw_noise(model, range(count), seed)
    else:
        first, last = arguments.interpolate
        ends = draw_noise(model, (first, last), seed)
        noise = interpolate(ends[0], ends[1], count)
        names = [f"seed{seed}-{first:04d}-to-{last:04d}-{number:04d}" for number in range(count)]
    if arguments.sampler != "one-step":
        return denoise_codes(model, noise, *sampling), names
    if arguments.caption:
        raise UserError("the one-step sampler takes no caption: leave --caption out, or use --sampler ddim")
    return sample_one_step(model, load_one_step(model, arguments.run), noise), names


@contextmanager
def writing_below(folder: Path, run: str | Path) -> Iterator[None]:
    """Inside it this process alone writes into `folder`, which is the user's or below the folder of the training.

    Raises UserError as `threedgen.jobs.lock.holding` does, and if a link leads from the training to the folder.
    """
    from threedgen.core import inside
    from threedgen.jobs.lock import holding

    if folder.is_relative_to(run):
        inside.require_no_link(folder, run)
    with holding(folder, lambda: f"the same command writes '{folder}' again"):
        yield


def print_written(written: list[Path], empty: list[str]) -> None:
    """Prints the files, and on stderr a warning for each object without a surface."""
    for path in written:
        print(path)
    for name in empty:
        print(f"warning: '{name}' has no surface, and no GLB: train longer", file=sys.stderr)
