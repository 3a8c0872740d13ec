"""`threedgen batch TABLE --out DIR`: makes an asset for each row of a table."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands import fit, image_to_3d, text_to_3d, text_to_4d
from threedgen.commands.options import (
    above_zero,
    add_device,
    add_quality,
    add_settings,
    add_trust,
    at_least_one,
    trusting,
    whole,
)
from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError
from threedgen.core.imports import without_collection

if TYPE_CHECKING:
    from threedgen.batch.making import Workers
    from threedgen.batch.pieces import Piece
    from threedgen.batch.rows import Row, Value
    from threedgen.pipelines.prepared import Prepared

_MODULES = {"text-to-3d": text_to_3d, "image-to-3d": image_to_3d, "text-to-4d": text_to_4d, "fit": fit}
# Options of these commands that are about the whole batch.
_OF_ALL = {"out": None, "dry_run": False, "threads": None, "trust": False}
# Options of the batch that a row may set as well.
_MOST_KINDS = 200  # of rows whose recipes are read before anything is made
_OF_ROWS = ("recipe", "prior", "seed", "steps", "device", "quality")


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen batch",
        description="Make an asset for each row of a table. Each row becomes an ordinary run directory in "
        "DIR/runs; DIR also gets an index, a summary and a gallery. Given again, the command keeps the rows that "
        "are finished, and continues those that were cut.",
        epilog="A .txt file has a prompt on each line. The columns of a .csv file and the keys of a .jsonl file "
        "are the options of the commands: prompt, picture, source, seed, recipe and so on, and settings such as "
        "cameras.batch. The column job names the command of a row.",
    )
    parser.add_argument("table", metavar="PROMPTS", help="a .txt, .jsonl or .csv file")
    add_settings(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the batch")
    parser.add_argument(
        "--job",
        choices=list(_MODULES),
        default="text-to-3d",
        help="command of the rows that name none; default: text-to-3d",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="recipe of the rows that name none; default: that of the command",
    )
    parser.add_argument(
        "--prior",
        metavar="embedded|FOLDER|FILE|HUB_ID",
        help="frozen diffusion model of the rows that name none; default: the recipe's",
    )
    parser.add_argument(
        "--seed", type=whole, metavar="N", help="seed of the rows that name none; default: the recipe's"
    )
    parser.add_argument(
        "--steps",
        type=whole,
        metavar="N",
        help="steps of the runs whose rows do not say it; default: the recipe's",
    )
    parser.add_argument(
        "--seeds",
        type=at_least_one,
        default=1,
        metavar="K",
        help="runs of each row, with K seeds that follow one another; default: 1",
    )
    parser.add_argument(
        "--keep",
        choices=("best", "all"),
        default="best",
        help="with --seeds: the runs that stay, the best of each row or all; default: best",
    )
    parser.add_argument(
        "--score",
        default="",
        metavar="NAME",
        help="with --seeds: the score in report.json that says which run is best; default: the first of psnr, "
        "reference_psnr and mesh_agreement_iou that the report has",
    )
    parser.add_argument(
        "--on",
        metavar="ray[://ADDRESS]",
        help="with several processes, on the cluster at ADDRESS or on this machine; default: in one process",
    )
    parser.add_argument(
        "--workers",
        type=at_least_one,
        metavar="N",
        help="with --on: processes that work at the same time; default: as many as there is room for",
    )
    parser.add_argument(
        "--gpus",
        type=above_zero,
        metavar="G",
        help="with --on: GPUs of each worker, such as 0.5 for two on one GPU; default: 1 if there are any",
    )
    add_quality(parser)
    add_device(parser)
    add_trust(parser)
    return parser


@trusting
def run(arguments: argparse.Namespace) -> None:
    """Makes the rows and prints the files of the batch. Raises UserError, also if a row failed."""
    with without_collection():
        from threedgen.batch.making import make_all
        from threedgen.batch.pages import GALLERY, SUMMARY
        from threedgen.batch.pieces import FAILED
        from threedgen.batch.races import Race
        from threedgen.batch.rows import Table

    if arguments.score and arguments.seeds == 1:
        raise UserError("--score decides between several runs of a row: add --seeds K")
    defaults: dict[str, Any] = {
        name: str(value) for name in _OF_ROWS if (value := getattr(arguments, name)) is not None
    }
    if arguments.settings:
        defaults["settings"] = arguments.settings
    table = Table(arguments.table, arguments.job, defaults)
    out = Path(arguments.out).absolute()
    race = Race(arguments.seeds, arguments.keep, arguments.score)
    try:
        states = make_all(table, out, workers_of(arguments), checks(), race)
    except KeyboardInterrupt:
        print("the finished rows are kept, and the same command continues with the others", file=sys.stderr)
        raise KeyboardInterrupt from None  # without the run that was cut, which is not to be continued alone
    for name in (SUMMARY, GALLERY):
        print(Path(arguments.out) / name)
    if failed := states[FAILED]:
        raise UserError(
            f"{failed} of {states.total()} rows failed, and {Path(arguments.out) / SUMMARY} says why: run the same "
            "command again to try them again, the others are kept"
        )


def workers_of(arguments: argparse.Namespace) -> Workers:
    """Those that the options --on, --workers and --gpus ask for. Raises UserError."""
    where, _, address = (arguments.on or "").partition("://")
    if arguments.on is None:
        from threedgen.batch.making import InThisProcess

        for name in ("workers", "gpus"):
            if getattr(arguments, name) is not None:
                raise UserError(f"--{name} is for several processes: add --on ray")
        return InThisProcess(prepared)
    if where != "ray" or ("://" in arguments.on and not address):
        raise UserError(f"--on {arguments.on}: write ray, or ray://HOST:PORT of a cluster")
    from threedgen.batch.ray_workers import RayWorkers

    return RayWorkers(
        prepared,
        arguments.on if address else "",
        arguments.workers,
        arguments.gpus,
        arguments.threads or 1,
    )


def checks() -> Callable[[Row], None]:
    """A function that raises UserError, with the place of the row, for a value that its command does not take, and
    for a setting that its recipe does not have.

    A recipe is read for the first row that names it with the same settings, as that takes longer than the rest.
    """
    from threedgen.recipes.load import load_recipe

    seen: set[tuple[object, ...]] = set()

    def check(row: Row) -> None:
        try:
            arguments = _arguments(row.job, row.arguments)
        except UserError as error:
            raise UserError(f"{row.where}, {error}") from error
        keys = [setting.partition("=")[0] for setting in arguments.settings]
        kind = (row.job, arguments.recipe, arguments.steps, *keys)
        if kind in seen or len(seen) >= _MOST_KINDS:
            return
        seen.add(kind)
        try:
            load_recipe(arguments.recipe, arguments.settings, prompt="anything", steps=arguments.steps)
        except UserError as error:
            named = next((f", column '{key}'" for key in keys if key in str(error)), "")
            raise UserError(f"{row.where}{named}: {error}") from error

    return check


def prepared(piece: Piece) -> Prepared:
    """The run of a piece, ready to start. Raises UserError."""
    arguments = _arguments(piece.job, piece.arguments)
    arguments.out = str(piece.path)
    return _MODULES[piece.job].prepared_from(arguments)


def _arguments(job: str, values: dict[str, Value]) -> argparse.Namespace:
    arguments = _parser(job).of_columns(values, _OF_ALL)
    for setting in arguments.settings:
        if "=" not in setting:
            raise UserError(f"column 'settings': '{setting}' is no setting: write key=value")
    return arguments


@functools.cache
def _parser(job: str) -> Parser:
    return _MODULES[job].build_parser()
