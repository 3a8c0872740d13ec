"""`threedgen text-to-3d`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from threedgen.commands.options import (
    add_run_options,
    backend,
    print_results,
    progress_bar,
    require_free,
)
from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

EMBEDDED_HINT = (
    "No --prior given: using the embedded prior, a small model that ships with threedgen and knows simple "
    "coloured objects only: {classes}, in {colors}, and one on another ('a red cube on a blue cylinder'). "
    "For anything else name a real text-to-image model, for example --prior FOLDER (Stable Diffusion 1.x/2.x "
    "or DeepFloyd IF as diffusers saves it) or --prior OWNER/NAME from the Hugging Face hub."
)


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen text-to-3d",
        description="Make a 3D asset from a prompt: asset.glb, asset.ply, turntable.mp4, report.json in --out.",
        epilog="key=value changes a setting of the recipe, such as cameras.batch=8 or guidance.0.scale=5; "
        "`threedgen recipes` lists the recipes.",
    )
    parser.add_argument("prompt", metavar="PROMPT", help='what to make, for example "a red cube"')
    parser.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipe's settings")
    parser.add_argument("--recipe", default="text-to-3d", metavar="NAME|FILE", help="default: text-to-3d")
    parser.add_argument("--prior", metavar="embedded|FOLDER|HUB_ID", help="the frozen model that guides")
    add_run_options(parser, "runs/<prompt>")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """make a 3D asset from a prompt"""
    if not arguments.prompt.strip():
        raise UserError('the prompt is empty: say what to make, for example "a red cube"')

    require_free(arguments)
    from threedgen.recipes.recipe import load_recipe

    recipe = load_recipe(
        arguments.recipe,
        [*backend(arguments), *arguments.settings],
        prior=arguments.prior,
        prompt=arguments.prompt,
        seed=arguments.seed,
        steps=arguments.steps,
        device=arguments.device,
    )
    from threedgen.pipelines.text_to_3d import require_no_picture

    require_no_picture(recipe, arguments.recipe)
    if arguments.prior is None:
        _say_what_embedded_is_for(recipe)

    from threedgen.jobs.run import start
    from threedgen.jobs.run_directory import choose_path

    with progress_bar() as progress:
        made = start(recipe, choose_path(arguments.out, recipe.prompt), [progress])
    print_results(made)


def _say_what_embedded_is_for(recipe: Any) -> None:
    guides = [guide for part in recipe.parts for guide in part.resolved["guidance"]]
    if any(
        guide.get("prior", {}).get("name") == "embedded" and not guide["prior"]["path"] for guide in guides
    ):
        from threedgen.datasets.shapes import CLASSES, COLORS

        print(EMBEDDED_HINT.format(classes=", ".join(CLASSES), colors=", ".join(COLORS)), file=sys.stderr)
