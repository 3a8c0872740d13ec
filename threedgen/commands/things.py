"""`threedgen things`: what the embedded prior knows by name."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

_WIDTH = 100  # columns


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen things",
        description="List the things that the embedded text prior knows by name, or say of a prompt which of its "
        "words the prior has not learnt.",
    )
    parser.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help='a prompt in quotes, for example "a zebra on a sofa"; default: list all things',
    )
    parser.add_argument(
        "--prior",
        type=Path,
        metavar="FOLDER",
        help="the folder of another prior that `threedgen train prior --kind field` wrote; default: the embedded "
        "one",
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Prints the words, or what is unknown of a prompt. Raises UserError for a folder without a field of things."""
    from threedgen.guidance.priors.folder.files import PipelineFolder
    from threedgen.guidance.priors.known_words import report, things_of
    from threedgen.guidance.priors.load import EMBEDDED_THINGS_WEIGHTS

    if arguments.prompt is not None and not arguments.prompt.strip():
        raise UserError(
            "the prompt is empty: write what you look for, or no prompt for the list of all things"
        )
    path = arguments.prior or EMBEDDED_THINGS_WEIGHTS
    things = things_of(PipelineFolder(path))
    if arguments.prompt is None:
        print(textwrap.fill(", ".join(things), _WIDTH))
        print(f"{len(things)} things. Other words for them are understood too, and colours: a pink couch.")
        return
    from threedgen.guidance.priors.load import load_folder

    unknown = load_folder(path).words.check(arguments.prompt)
    print(report(unknown) if unknown else "This prior knows all words of the prompt.")
