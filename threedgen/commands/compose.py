"""`threedgen compose SCENE.yaml`: several assets, each with its motions, in one scene."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from threedgen.commands.options import add_run_options, backend, print_results, progress_bar
from threedgen.commands.parser import Parser


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen compose",
        description="Make the assets and motions that a scene file names, and put them together: anim.glb, "
        "anim.mp4, asset.glb, asset.ply, player.html and report.json in --out. What is finished is kept: the same "
        "command goes on where it was stopped.",
        epilog="still.KEY=VALUE changes a setting of the runs that make assets, motion.KEY=VALUE of those that "
        "make them move, export.KEY=VALUE of the files; docs/composing.md says what a scene file holds.",
    )
    parser.add_argument("scene", metavar="SCENE.yaml", help="what is where, and what it does when")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipes' settings")
    parser.add_argument("--prior", metavar="embedded|FOLDER|HUB_ID", help="that says what assets are")
    parser.add_argument("--video-prior", metavar="embedded|FOLDER", help="that says how they move")
    add_run_options(parser, "runs/<name of the file>")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises UserError for what a user can put right."""
    from threedgen.composition.scene_file import read_scene
    from threedgen.jobs.run_directory import DEFAULT_PARENT, slug

    source = Path(arguments.scene)
    scene = read_scene(source)
    out = DEFAULT_PARENT / slug(source.stem) if arguments.out is None else Path(arguments.out)

    from threedgen.composition.runs import Making
    from threedgen.composition.runs import compose as make

    own = [f"{kind}.{setting}" for kind in ("still", "motion") for setting in backend(arguments)]
    making = Making(
        prior=arguments.prior,
        video_prior=arguments.video_prior,
        seed=arguments.seed or 0,
        steps=arguments.steps,
        device=arguments.device,
        settings=(*own, *arguments.settings),
    )
    try:
        with progress_bar() as progress:
            made = make(scene, out, making, [progress])
    except KeyboardInterrupt:
        print("run the same command again to continue from the last checkpoint", file=sys.stderr)
        raise KeyboardInterrupt from None  # without the run that was under way: it is but a part
    print_results(made)
