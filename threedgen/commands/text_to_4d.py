"""`threedgen text-to-4d PROMPT`: makes a 3D asset that moves from a prompt."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from threedgen.commands.options import (
    above_zero,
    add_model_parts,
    add_quality,
    add_recipe,
    add_run_options,
    add_settings,
    add_trust,
    add_watching,
    common,
    finish,
    require_free,
    require_prompt,
    trusting,
)
from threedgen.commands.parser import Parser
from threedgen.core.imports import without_collection

if TYPE_CHECKING:
    from threedgen.pipelines.prepared import Prepared


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen text-to-4d",
        description="Make a moving 3D asset from a prompt. The run directory gets an animated mesh (anim.glb), a "
        "film (anim.mp4) and a player (player.html), and the files of text-to-3d.",
        epilog="key=value changes a setting of the recipe, such as stages.1.guidance.0.scale=5.",
    )
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        help='the object and its motion, in quotes, for example "a blue cube bouncing"',
    )
    add_settings(parser)
    add_recipe(parser, "text-to-4d")
    parser.add_argument(
        "--asset",
        metavar="RUN|FILE",
        help="object that moves: a finished run, a file of Gaussians or a mesh file; default: made first",
    )
    parser.add_argument("--seconds", type=above_zero, metavar="S", help="length of the motion; default: 2")
    parser.add_argument(
        "--fps", type=above_zero, metavar="F", help="frames per second of the files; default: 24"
    )
    parser.add_argument(
        "--prior",
        metavar="embedded|FOLDER|FILE|HUB_ID",
        help="frozen model that guides how the object looks; default: the embedded one",
    )
    add_model_parts(parser)
    parser.add_argument(
        "--video-prior",
        metavar="embedded|FOLDER",
        help="frozen video model that guides how it moves; default: the embedded one",
    )
    parser.add_argument(
        "--video",
        metavar="FILM",
        help="film that the motion follows: an mp4, gif or webp file, or a folder of pictures",
    )
    parser.add_argument(
        "--video-view",
        metavar="AZ[,EL[,DIST]]",
        help="where the film was taken from, in degrees and world units; default: 0,0,4.9",
    )
    add_quality(parser)
    add_run_options(parser, "runs/<prompt>")
    add_watching(parser)
    add_trust(parser)
    return parser


@trusting
def run(arguments: argparse.Namespace) -> None:
    """Makes the asset and prints its files. Raises UserError."""
    require_prompt(arguments, "a blue cube bouncing")
    require_free(arguments)
    finish(prepared_from(arguments), arguments)


def prepared_from(arguments: argparse.Namespace) -> Prepared:
    """The run that the arguments ask for. Raises UserError."""
    with without_collection():
        from threedgen.pipelines.text_to_4d import prepare

    return prepare(
        arguments.prompt,
        asset=arguments.asset,
        seconds=arguments.seconds,
        fps=arguments.fps,
        prior=arguments.prior,
        tokenizer=arguments.tokenizer,
        vae=arguments.vae,
        video_prior=arguments.video_prior,
        video=arguments.video,
        video_view=arguments.video_view,
        out=arguments.out,
        recipe=arguments.recipe,
        **common(arguments),
    )
