"""`threedgen fit DATASET|MESH`: makes a 3D asset from posed pictures, or from a mesh rendered from all around."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from threedgen.commands.options import (
    add_quality,
    add_recipe,
    add_run_options,
    add_settings,
    add_watching,
    common,
    finish,
    require_free,
    whole,
)
from threedgen.commands.parser import Parser
from threedgen.core.imports import without_collection

if TYPE_CHECKING:
    from threedgen.pipelines.prepared import Prepared


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen fit",
        description="Fit an asset to a folder of posed pictures (transforms.json, COLMAP or SRN), to a mesh file "
        "(.glb, .obj, .ply, .stl, .off) or to a file of Gaussians (.ply, .splat, .spz, .sog). The run directory "
        "gets the files of text-to-3d.",
        epilog="key=value changes a setting of the recipe, such as representation.count=8000.",
    )
    parser.add_argument(
        "source",
        metavar="DATASET|MESH",
        help="a folder, a transforms .json file, a mesh file or a file of Gaussians",
    )
    add_settings(parser)
    parser.add_argument(
        "--representation",
        metavar="NAME",
        help="representation to fit: gaussians, triplane, mesh and others; default: gaussians",
    )
    add_recipe(parser, "fit")
    parser.add_argument(
        "--feed-forward",
        action="store_true",
        help="begin with the Gaussians that a network makes of a few of the pictures, for few views and few steps",
    )
    parser.add_argument(
        "--resolution",
        type=whole,
        metavar="R",
        help="height of the pictures in pixels; larger ones are scaled down; default: 128",
    )
    parser.add_argument(
        "--views",
        type=whole,
        metavar="N",
        help="for a mesh or Gaussians: number of rendered views to train on; default: 24",
    )
    parser.add_argument(
        "--light",
        type=float,
        metavar="0..1",
        help="for a mesh: strength of the light; default: 0, and 0.6 for a mesh of one colour",
    )
    parser.add_argument(
        "--texture", metavar="FILE", help="for a mesh whose file names no texture: the picture to use"
    )
    parser.add_argument(
        "--up",
        choices=("y", "z"),
        help="for a data set: axis of its world that points up; default: detected from its cameras",
    )
    add_quality(parser)
    parser.add_argument(
        "--background",
        choices=("cut", "keep"),
        help="for a data set: cut by masks or transparency, or keep what is behind the object; default: cut where "
        "there are masks",
    )
    parser.add_argument(
        "--box",
        nargs=6,
        type=float,
        metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
        help="for a data set: lower and upper corner of the object in its coordinates; the rest is left out of the "
        "asset",
    )
    add_run_options(parser, "runs/<name of the source>")
    add_watching(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Fits the asset and prints its files. Raises UserError."""
    require_free(arguments)
    finish(prepared_from(arguments), arguments)


def prepared_from(arguments: argparse.Namespace) -> Prepared:
    """The run that the arguments ask for. Raises UserError."""
    with without_collection():
        from threedgen.pipelines.fit import prepare

    return prepare(
        arguments.source,
        representation=arguments.representation,
        views=arguments.views,
        resolution=arguments.resolution,
        light=arguments.light,
        texture=arguments.texture,
        up=arguments.up,
        background=arguments.background,
        box=arguments.box,
        feed_forward=arguments.feed_forward,
        out=arguments.out,
        recipe=arguments.recipe,
        **common(arguments),
    )
