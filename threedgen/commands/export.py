"""`threedgen export`: writes the asset of a run, or its motion, to a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from threedgen.commands.options import add_target, trusting
from threedgen.commands.parser import Parser
from threedgen.core.imports import without_collection


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen export",
        description="Write the asset of a run to a file: a mesh (.glb, .obj) or its Gaussians (.ply); a run that "
        "moves also as .mp4, .gif, .webp, .usdz, .html, or as one .ply per frame (DIR/*.ply, in quotes).",
    )
    add_target(
        parser,
        "FILE.{glb,ply,obj,mp4,gif,webp,usdz,html}|DIR/*.ply",
        "an export setting, such as mesh.faces=5000",
    )
    return parser


@trusting
def run(arguments: argparse.Namespace) -> None:
    """Writes the file and prints its path. Raises UserError."""
    with without_collection():
        from threedgen.jobs.export_run import export_run
        from threedgen.jobs.run_directory import RunDirectory

    export_run(RunDirectory.open(arguments.run), Path(arguments.to), arguments.settings)
    print(arguments.to)
