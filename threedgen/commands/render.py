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
        description="Render the mesh of a run on a turntable, or what was optimised: a film (.mp4, .gif, .webp) "
        "or a folder of PNG files.",
    )
    parser.add_argument(
        "--show",
        choices=("mesh", "optimised"),
        help="mesh: what asset.glb holds; optimised: the 3D Gaussians, the field or the mesh that was optimised; "
        "default: the mesh, but as optimised where the run is not finished or has no mesh",
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
        RunDirectory.open(arguments.run),
        Path(arguments.to),
        arguments.settings,
        arguments.backend or "auto",
        arguments.show,
    )
    print(arguments.to)
