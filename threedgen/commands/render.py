"""`threedgen render`: renders a run on a turntable."""

from __future__ import annotations

import argparse
from pathlib import Path

from threedgen.commands.options import add_backend, add_target, trusting
from threedgen.commands.parser import Parser
from threedgen.core.imports import without_collection


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen render",
        description="Render the asset of a run on a turntable: a film (.mp4, .gif, .webp) or a "
        "folder of PNG files.",
    )
    add_backend(parser)
    add_target(parser, "FILE.{mp4,gif,webp}|DIR", "a turntable setting, such as frames=90")
    return parser


@trusting
def run(arguments: argparse.Namespace) -> None:
    """Writes the film or the pictures and prints where. Raises UserError."""
    with without_collection():
        from threedgen.jobs.export_run import render_run
        from threedgen.jobs.run_directory import RunDirectory

    render_run(
        RunDirectory.open(arguments.run), Path(arguments.to), arguments.settings, arguments.backend or "auto"
    )
    print(arguments.to)
