"""`threedgen compose SCENE.yaml`: several assets, each with its motions, in one scene."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from threedgen.commands.options import (
    add_run_options,
    add_settings,
    add_tokenizer,
    add_trust,
    backend,
    print_results,
    print_settings,
    trusting,
)
from threedgen.commands.parser import Parser


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen compose",
        description="Make the assets and motions that a scene file names, and put them together: anim.glb, "
        "anim.mp4, asset.glb, asset.ply, player.html and report.json in --out. Finished runs are kept: the same "
        "command continues where it was stopped.",
        epilog="still.KEY=VALUE changes a setting of the runs that make assets, motion.KEY=VALUE of those that "
        "make them move, export.KEY=VALUE of the files; docs/composing.md explains scene files.",
    )
    parser.add_argument(
        "scene",
        metavar="SCENE.yaml",
        help="file with the assets of the scene, their places and their motions",
    )
    add_settings(parser)
    parser.add_argument(
        "--prior",
        metavar="embedded|FOLDER|FILE|HUB_ID",
        help="frozen model that guides how assets look; default: the embedded one",
    )
    add_tokenizer(parser)
    parser.add_argument(
        "--video-prior",
        metavar="embedded|FOLDER",
        help="frozen video model that guides how they move; default: the embedded one",
    )
    add_run_options(parser, "runs/<name of the file>")
    add_trust(parser)
    return parser


@trusting
def run(arguments: argparse.Namespace) -> None:
    """Makes the scene and prints its files. Raises UserError."""
    from threedgen.composition.runs import Making, compose, plan
    from threedgen.composition.scene_file import read_scene
    from threedgen.jobs.run_directory import DEFAULT_PARENT, slug
    from threedgen.pipelines.common import showing

    source = Path(arguments.scene)
    scene = read_scene(source)
    out = DEFAULT_PARENT / slug(source.stem) if arguments.out is None else Path(arguments.out)
    own = [f"{kind}.{setting}" for kind in ("still", "motion") for setting in backend(arguments)]
    making = Making(
        prior=arguments.prior,
        tokenizer=arguments.tokenizer,
        video_prior=arguments.video_prior,
        seed=arguments.seed or 0,
        steps=arguments.steps,
        device=arguments.device,
        settings=(*own, *arguments.settings),
    )
    if arguments.dry_run:
        whole, runs = plan(scene, out, making)
        print_settings(
            {**whole.resolved, "runs": {str(path): dict(one.resolved) for path, one in runs.items()}}
        )
        return
    try:
        with showing(True, []) as listeners:
            made = compose(scene, out, making, listeners)
    except KeyboardInterrupt:
        print("run the same command again to continue from the last checkpoint", file=sys.stderr)
        raise KeyboardInterrupt from None  # without the path: the run under way is only a part
    print_results(made.path)
