"""`threedgen fit`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from threedgen.commands.options import (
    add_run_options,
    print_results,
    progress_bar,
    recipe_of,
    require_free,
    whole,
)
from threedgen.commands.parser import Parser


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen fit",
        description="Fit an asset to a folder of posed pictures (transforms.json or SRN) or to a mesh file (.glb, "
        ".obj, .ply, .stl, .off); the files are those of text-to-3d.",
        epilog="key=value changes a setting of the recipe, such as representation.count=8000.",
    )
    parser.add_argument("source", metavar="DATASET|MESH", help="a folder, a transforms .json or a mesh file")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipe's settings")
    parser.add_argument("--representation", metavar="NAME", help="gaussians (default), triplane, mesh, ...")
    parser.add_argument("--recipe", default="fit", metavar="NAME|FILE", help="default: fit")
    parser.add_argument("--resolution", type=whole("--resolution"), metavar="R", help="pixels; default: 128")
    parser.add_argument("--views", type=whole("--views"), metavar="N", help="of a mesh; default: 24")
    parser.add_argument("--light", type=float, metavar="0..1", help="on a mesh; default: 0, plain ones 0.6")
    parser.add_argument("--texture", metavar="FILE", help="for a mesh whose file names none")
    parser.add_argument(
        "--up", choices=("y", "z"), help="of a data set's world; default: what its cameras say"
    )
    add_run_options(parser, "runs/<name>")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """make a 3D asset from posed pictures, or from a mesh seen from all around"""
    require_free(arguments)
    from threedgen.pipelines.fit import start_fit, target_of

    target = target_of(
        arguments.source,
        views=arguments.views,
        resolution=arguments.resolution,
        light=arguments.light,
        texture=arguments.texture,
        up=arguments.up,
    )
    print(target.about, file=sys.stderr)
    with progress_bar() as progress:
        made = start_fit(
            target,
            Path(arguments.source).absolute().stem,
            arguments.out,
            [progress],
            representation=arguments.representation,
            **recipe_of(arguments),
        )
    print_results(made)
