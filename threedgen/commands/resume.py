"""`threedgen resume`: continues a run that was stopped."""

from __future__ import annotations

import argparse

from threedgen.commands.options import (
    add_backend,
    add_device,
    add_trust,
    add_watching,
    at_least_one,
    print_results,
    trusting,
)
from threedgen.commands.parser import Parser
from threedgen.core.imports import without_collection


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen resume",
        description="Continue a run from its last checkpoint. On a CPU it ends with the same bits "
        "as one that was not stopped. A finished run continues with --steps.",
    )
    parser.add_argument("run", metavar="RUN", help="the directory of the run")
    parser.add_argument(
        "--steps",
        type=at_least_one,
        metavar="N",
        help="steps of the whole run; if it has fewer, a finished run continues; default: the recipe's",
    )
    add_device(parser)
    add_backend(parser)
    add_watching(parser)
    add_trust(parser)
    return parser


@trusting
def run(arguments: argparse.Namespace) -> None:
    """Continues the run and prints its files. Raises UserError for a folder that is no run."""
    with without_collection():
        from threedgen.jobs.listeners.logs import logs_of
        from threedgen.pipelines.result import load_run

    opened = load_run(arguments.run)
    if opened.finished and arguments.steps is None:
        print(f"{opened.path} is finished: nothing to do; --steps N gives it more steps")
        return
    with logs_of(arguments.log, opened.path) as logs:
        opened.resume(
            arguments.device,
            arguments.backend,
            steps=arguments.steps,
            listeners=logs,
            stop_when_hopeless=arguments.stop_when_hopeless,
        )
    print_results(opened.path)
