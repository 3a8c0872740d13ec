"""`threedgen text-to-4d`."""

from __future__ import annotations

import argparse
import sys

from threedgen.commands.options import (
    add_run_options,
    backend,
    print_results,
    progress_bar,
    require_free,
)
from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen text-to-4d",
        description="Make a moving 3D asset from a prompt: anim.glb and anim.mp4 beside the files of text-to-3d.",
        epilog="key=value changes a setting of the recipe, such as stages.1.guidance.0.scale=5.",
    )
    parser.add_argument("prompt", metavar="PROMPT", help='what moves how, for example "a blue cube bouncing"')
    parser.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipe's settings")
    parser.add_argument("--recipe", default="text-to-4d", metavar="NAME|FILE", help="default: text-to-4d")
    parser.add_argument(
        "--asset", metavar="RUN|FILE", help="what moves: a finished run, a .ply with Gaussians, a mesh"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="of the motion; default: 2")
    parser.add_argument(
        "--fps", type=float, metavar="F", help="frames a second that are written; default: 24"
    )
    parser.add_argument("--prior", metavar="embedded|FOLDER|HUB_ID", help="that says what it is")
    parser.add_argument("--video-prior", metavar="embedded|FOLDER", help="that says how it moves")
    parser.add_argument(
        "--video", metavar="FILM", help="how it moves: an mp4, gif, webp or a folder of pictures"
    )
    parser.add_argument(
        "--video-view", metavar="AZ[,EL[,DIST]]", help="where that was taken from, degrees; default: 0,0,4.9"
    )
    add_run_options(parser, "runs/<prompt>")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """make a 3D asset that moves from a prompt"""
    if not arguments.prompt.strip():
        raise UserError('the prompt is empty: say what moves how, for example "a blue cube bouncing"')

    require_free(arguments)
    from threedgen.jobs.run_directory import choose_path
    from threedgen.pipelines.film import film_and_view, start_with
    from threedgen.pipelines.text_to_4d import recipe_for

    film, view = film_and_view(arguments.video, arguments.video_view)
    if film is not None:
        print(film.about, file=sys.stderr)
    path = choose_path(arguments.out, arguments.prompt)
    recipe = recipe_for(
        arguments.recipe,
        arguments.prompt,
        [*backend(arguments), *arguments.settings],
        asset=arguments.asset,
        seconds=arguments.seconds,
        fps=arguments.fps,
        prior=arguments.prior,
        video_prior=arguments.video_prior,
        film=film,
        view=view,
        base=path,
        seed=arguments.seed,
        steps=arguments.steps,
        device=arguments.device,
    )
    with progress_bar() as progress:
        made = start_with(film, recipe, path, [progress])
    print_results(made)
