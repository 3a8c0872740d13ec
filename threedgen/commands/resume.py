"""`threedgen resume`: continues a run that was stopped."""

from __future__ import annotations

import argparse
import sys

from threedgen.commands.options import add_backend, add_device, backend, print_results, progress_bar
from threedgen.commands.parser import Parser


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen resume",
        description="Continue a run from its last checkpoint. It ends with the same bits "
        "as one that was not stopped.",
    )
    parser.add_argument("run", metavar="RUN", help="the directory of the run")
    add_device(parser)
    add_backend(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Continues the run and prints its files. Raises UserError for a folder that is no run."""
    from threedgen.jobs.run_directory import RunDirectory

    directory = RunDirectory.open(arguments.run)
    if directory.finished:
        print(f"{directory.path} is finished: nothing to do")
        return
    from threedgen.jobs.run import resume

    with progress_bar() as progress:
        warnings = resume(directory, [progress], arguments.device, backend(arguments))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print_results(directory)
