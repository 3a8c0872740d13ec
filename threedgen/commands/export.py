"""`threedgen export`: writes the asset of a run, or its motion, to a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from threedgen.commands.options import add_target, trusting
from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError
from threedgen.core.imports import without_collection
from threedgen.export.splat_settings import Up
from threedgen.export.targets import check_target, holds_splats


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen export",
        description="Write the asset of a run to a file: a mesh (.glb, .obj) or its Gaussians (.ply, "
        ".compressed.ply, .splat, .spz, .sog, .splats.glb, .splats.usdz); a run that moves also as .mp4, .gif, "
        ".webp, .usdz, .html, or as one .ply per frame (DIR/*.ply, in quotes).",
    )
    add_target(
        parser,
        "FILE.{glb,ply,obj,splat,spz,sog,mp4,gif,webp,usdz,html}|DIR/*.ply",
        "an export setting, such as mesh.faces=5000",
    )
    parser.add_argument(
        "--up",
        choices=[up for up in get_args(Up) if up != "auto"],
        help="axis of a file of Gaussians that points up; default: what readers of the format expect",
    )
    return parser


@trusting
def run(arguments: argparse.Namespace) -> None:
    """Writes the file and prints its path. Raises UserError."""
    path, settings = Path(arguments.to), list(arguments.settings)
    check_target(path)
    if arguments.up is not None:
        if not holds_splats(path):
            raise UserError(f"--up is for files of 3D Gaussians, and {path} is none: leave it out")
        settings.append(f"splats.up={arguments.up}")
    with without_collection():
        from threedgen.jobs.export_run import export_run
        from threedgen.jobs.run_directory import RunDirectory

    export_run(RunDirectory.open(arguments.run), path, settings)
    print(arguments.to)
