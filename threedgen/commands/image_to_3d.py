"""`threedgen image-to-3d`."""

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
)
from threedgen.commands.parser import Parser


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen image-to-3d",
        description="Make a 3D asset from one picture of an object, or several; the files are those of text-to-3d, "
        "and the cut-outs in reference/.",
        epilog="key=value changes a setting of the recipe, such as cameras.batch=2.",
    )
    parser.add_argument("picture", metavar="PICTURE", help="PNG, JPEG or WebP; transparent or opaque")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipe's settings")
    parser.add_argument("--mask", metavar="M.png", help="white where the object is; default: told by itself")
    parser.add_argument("--depth", metavar="D.png", help="grey, nearer is brighter; of the picture's size")
    parser.add_argument("--elevation", type=float, metavar="DEG", help="the picture's; positive looks down")
    parser.add_argument(
        "--views", action="append", metavar="FILE@AZIMUTH[,ELEVATION]", help="another picture; repeatable"
    )
    parser.add_argument("--recipe", default="zero123", metavar="NAME|FILE", help="default: zero123")
    parser.add_argument(
        "--prior",
        metavar="FOLDER|HUB_ID",
        help="a Zero-1-to-3 or Stable-Zero123; default: the small one that ships",
    )
    parser.add_argument(
        "--text-prior", metavar="FOLDER|HUB_ID", help="of recipes that have one too (magic123)"
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="what a text prior is told; default: the picture's name"
    )
    add_run_options(parser, "runs/<name>")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """make a 3D asset from one picture, or several"""
    require_free(arguments)
    from threedgen.datasets.cut_outs import cut_out_of
    from threedgen.pipelines.image_to_3d import start_image_to_3d, views_of

    if arguments.elevation is not None:
        arguments.settings.insert(0, f"cameras.reference.elevation={arguments.elevation}")
    cut_out = cut_out_of(arguments.picture, arguments.mask, arguments.depth)
    views, arguments.settings = views_of(arguments.views or [], arguments.settings)
    for seen in (cut_out, *(view.cut_out for view in views)):
        print(seen.about, file=sys.stderr)
    with progress_bar() as progress:
        made = start_image_to_3d(
            cut_out,
            Path(arguments.picture).absolute().stem,
            arguments.out,
            [progress],
            views,
            prior=arguments.prior,
            text_prior=arguments.text_prior,
            prompt=arguments.prompt,
            **recipe_of(arguments),
        )
    print_results(made)
