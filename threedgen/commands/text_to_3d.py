"""`threedgen text-to-3d PROMPT`: makes a 3D asset from a prompt."""

from __future__ import annotations

import argparse
import sys
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
    require_prompt,
)
from threedgen.commands.parser import Parser
from threedgen.core.imports import without_collection

if TYPE_CHECKING:
    from threedgen.pipelines.prepared import Prepared
    from threedgen.recipes.recipe import Recipe

THINGS_HINT = (
    "No --prior was given, so the embedded prior is used: a small model that ships with threedgen and knows "
    "{count} things by name, in most colours (`threedgen things` lists them). For anything else name a real "
    "text-to-image model, for example --prior FOLDER (Stable Diffusion 1.x/2.x or DeepFloyd IF as diffusers saves "
    "it) or --prior OWNER/NAME from the Hugging Face hub."
)
SHAPES_HINT = (
    "No --prior was given, so this recipe uses the embedded prior of solids. It knows simple coloured objects "
    "only: {classes}, in {colors}, and one on another ('a red cube on a blue cylinder'). The recipe text-to-3d "
    "knows more things; for anything else name a real text-to-image model with --prior FOLDER or --prior "
    "OWNER/NAME."
)


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen text-to-3d",
        description="Make a 3D asset from a prompt. The run directory gets a mesh (asset.glb), the 3D Gaussians "
        "(asset.ply), a turntable (turntable.mp4), a contact sheet and a report.",
        epilog="key=value changes a setting of the recipe, such as cameras.batch=8 or guidance.0.scale=5; "
        "`threedgen recipes` lists the recipes, and `threedgen recipes NAME` the settings of one.",
    )
    parser.add_argument(
        "prompt", metavar="PROMPT", help='description of the object in quotes, for example "a penguin"'
    )
    add_settings(parser)
    add_recipe(parser, "text-to-3d")
    parser.add_argument(
        "--prior",
        metavar="embedded|FOLDER|FILE|HUB_ID",
        help="frozen diffusion model that guides; default: the recipe's, which is the embedded one in most recipes",
    )
    add_model_parts(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse a prompt with words that the embedded prior of things has not learnt",
    )
    add_refine(parser)
    add_quality(parser)
    add_run_options(parser, "runs/<prompt>")
    add_watching(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Makes the asset and prints its files. Raises UserError."""
    require_prompt(arguments, "a penguin")
    require_free(arguments)
    prepared = prepared_from(arguments)
    if arguments.prior is None:
        _introduce_the_embedded_prior(prepared.recipe)
    finish(prepared, arguments)


def prepared_from(arguments: argparse.Namespace) -> Prepared:
    """The run that the arguments ask for. Raises UserError."""
    with without_collection():
        from threedgen.pipelines.text_to_3d import prepare

    return prepare(
        arguments.prompt,
        out=arguments.out,
        recipe=arguments.recipe,
        prior=arguments.prior,
        tokenizer=arguments.tokenizer,
        vae=arguments.vae,
        strict=arguments.strict,
        refine=arguments.refine,
        **common(arguments),
    )


def _introduce_the_embedded_prior(recipe: Recipe) -> None:
    from threedgen.guidance.priors.load import THINGS

    guides = [guide for stage in recipe.all_stages for guide in stage.resolved["guidance"]]
    asked = {prior["name"] for guide in guides if (prior := guide.get("prior")) and not prior["path"]}
    if THINGS in asked:
        from threedgen.guidance.priors.folder.files import PipelineFolder
        from threedgen.guidance.priors.known_words import things_of
        from threedgen.guidance.priors.load import EMBEDDED_THINGS_WEIGHTS

        count = len(things_of(PipelineFolder(EMBEDDED_THINGS_WEIGHTS)))
        print(THINGS_HINT.format(count=count), file=sys.stderr)
    elif "embedded" in asked:
        from threedgen.datasets.shapes import CLASSES, COLORS

        print(SHAPES_HINT.format(classes=", ".join(CLASSES), colors=", ".join(COLORS)), file=sys.stderr)
