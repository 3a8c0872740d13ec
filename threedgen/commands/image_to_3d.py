"""`threedgen image-to-3d PICTURE`: makes a 3D asset from one picture or several."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from threedgen.commands.options import (
    add_model_parts,
    add_quality,
    add_recipe,
    add_refine,
    add_run_options,
    add_settings,
    add_watching,
    common,
    finish,
    require_free,
)
from threedgen.commands.parser import Parser
from threedgen.core.imports import without_collection

if TYPE_CHECKING:
    from threedgen.pipelines.prepared import Prepared


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen image-to-3d",
        description="Make a 3D asset from one picture of an object, or several. The run directory gets the files "
        "of text-to-3d, and the cut-outs in reference/.",
        epilog="key=value changes a setting of the recipe, such as cameras.batch=2.",
    )
    parser.add_argument(
        "picture", metavar="PICTURE", help="PNG, JPEG or WebP file; transparent or with a background"
    )
    add_settings(parser)
    parser.add_argument(
        "--mask",
        metavar="M.png",
        help="grey picture, white where the object is; default: the background is detected",
    )
    parser.add_argument(
        "--depth", metavar="D.png", help="grey picture of the same size, brighter where the object is nearer"
    )
    parser.add_argument(
        "--elevation",
        type=float,
        metavar="DEG",
        help="elevation of the camera in degrees, positive if it looks down; default: 0",
    )
    parser.add_argument(
        "--views",
        action="append",
        metavar="FILE@AZIMUTH[,ELEVATION]",
        help="another picture of the object and where it was taken from, in degrees; repeatable",
    )
    add_recipe(parser, "image-to-3d")
    parser.add_argument(
        "--prior",
        metavar="FOLDER|HUB_ID",
        help="view-conditioned model, a Zero-1-to-3 or Stable-Zero123; default: the small one that ships",
    )
    parser.add_argument(
        "--text-prior",
        metavar="FOLDER|FILE|HUB_ID",
        help="text-to-image model, for recipes that have one too (magic123)",
    )
    add_model_parts(parser)
    parser.add_argument(
        "--prompt", metavar="TEXT", help="description for the text prior; default: the name of the picture"
    )
    add_refine(parser)
    add_quality(parser)
    add_run_options(parser, "runs/<name of the picture>")
    add_watching(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Makes the asset and prints its files. Raises UserError."""
    require_free(arguments)
    finish(prepared_from(arguments), arguments)


def prepared_from(arguments: argparse.Namespace) -> Prepared:
    """The run that the arguments ask for. Raises UserError."""
    with without_collection():
        from threedgen.pipelines.image_to_3d import prepare, split_views

    views, arguments.settings = split_views(arguments.views or [], arguments.settings)
    return prepare(
        arguments.picture,
        mask=arguments.mask,
        depth=arguments.depth,
        elevation=arguments.elevation,
        views=views,
        prompt=arguments.prompt,
        out=arguments.out,
        recipe=arguments.recipe,
        prior=arguments.prior,
        text_prior=arguments.text_prior,
        tokenizer=arguments.tokenizer,
        vae=arguments.vae,
        refine=arguments.refine,
        **common(arguments),
    )
