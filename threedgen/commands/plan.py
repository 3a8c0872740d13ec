"""`threedgen plan COMMAND ...`: what a command would fetch, and the memory and time that it would take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from threedgen.commands.parser import Parser

if TYPE_CHECKING:
    from threedgen.pipelines.prepared import Prepared

PLANNED = {
    "text-to-3d": "text_to_3d",
    "text-to-4d": "text_to_4d",
    "image-to-3d": "image_to_3d",
    "fit": "fit",
}


class _PlanParser(Parser):
    """Everything after the name of the command belongs to that command."""

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        place = next((index for index, word in enumerate(argv) if word in PLANNED), len(argv))
        own, words = argv[: place + 1], argv[place + 1 :]
        return argparse.Namespace(**vars(super().parse(own)), words=list(words))


def build_parser() -> Parser:
    parser = _PlanParser(
        prog="threedgen plan",
        description="Say what a command would do before it does: its recipe, the parameters and their groups, the "
        "models and what of them has to be fetched, memory, time, and what is wrong. Time and memory are those of "
        "the same command with few steps, which runs once and is remembered for this machine.",
        epilog='example: threedgen plan text-to-3d "a cat" --recipe sds',
    )
    parser.add_argument(
        "--no-calibration",
        action="store_true",
        help="run nothing: time and memory are said if they are known",
    )
    parser.add_argument(
        "command", choices=list(PLANNED), help="the command to plan, followed by all of its arguments"
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Prints the plan. Raises UserError for what the command itself would refuse."""
    command = import_module(f"threedgen.commands.{PLANNED[arguments.command]}")
    own = command.build_parser().parse(arguments.words)

    def show(prepared: Prepared) -> None:
        from threedgen.pipelines.planning.plan import lines, plan

        made = plan(prepared, [arguments.command, *arguments.words], not arguments.no_calibration)
        print("\n".join(lines(made, prepared)))

    own.planned = show
    command.run(own)
