"""`threedgen recipes`: the recipes, and the settings of one."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from threedgen.commands.parser import PROGRAM, Parser

if TYPE_CHECKING:
    from threedgen.recipes.describe import Setting
    from threedgen.recipes.layers import Card

_SSDNERF = "train ssdnerf"
_WIDTH = 100  # columns


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen recipes",
        description="List the built-in recipes, or print every setting of one with its value, type, range and "
        "unit, and what it does.",
    )
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="NAME",
        help="a built-in recipe or a YAML file; default: list all recipes",
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Prints the list of the recipes, or the settings of one. Raises UserError for an unknown recipe."""
    if arguments.recipe is None:
        _print_list()
    else:
        _print_settings(arguments.recipe)


def _print_list() -> None:
    """The recipes of the commands that make assets, and of `train ssdnerf`."""
    from threedgen.recipes.layers import BUILTIN_FOLDER, recipe_cards
    from threedgen.ssdnerf.recipes import FOLDER

    for folder, command in ((BUILTIN_FOLDER, ""), (FOLDER, _SSDNERF)):
        if command:
            print(f"\nof {PROGRAM} {command} DATASET --recipe NAME:")
        cards = recipe_cards(folder)
        width = max(20, *(len(card.name) for card in cards))
        for card in cards:
            print(f"{card.name:{width}} {card.description}")
            for title, text in _about(card):
                print(f"{'':{width}}   {title}: {text}")


def _about(card: Card) -> list[tuple[str, str]]:
    texts = (("paper", card.paper), ("needs", card.needs), ("memory", card.memory))
    return [(title, text) for title, text in texts if text]


def _print_settings(source: str) -> None:
    from threedgen.recipes.describe import printed
    from threedgen.recipes.layers import (
        BUILTIN_FOLDER,
        WITH_PRIOR,
        extends_one_of,
        recipe_card,
        recipe_layers,
    )
    from threedgen.ssdnerf.recipes import FOLDER

    trains = not extends_one_of(source, BUILTIN_FOLDER) and extends_one_of(source, FOLDER)
    folder = FOLDER if trains else BUILTIN_FOLDER
    card = recipe_card(source, folder)
    print(_wrapped(f"{card.name}: {card.description}" if card.description else card.name))
    for title, text in _about(card):
        print(_wrapped(f"{title}: {text}", "    "))
    if trains:
        print(f"    of: {PROGRAM} {_SSDNERF} DATASET --recipe {source}")
    elif any(WITH_PRIOR in layer for layer in recipe_layers(source)):
        print(
            _wrapped(
                "values: without --prior; with a real prior the recipe sets some of them otherwise", "    "
            )
        )
    print(f"\n{printed(_ssdnerf_settings(source) if trains else _settings(source))}")


def _settings(source: str) -> Sequence[Setting]:
    from threedgen.recipes.describe import recipe_settings
    from threedgen.recipes.load import load_recipe

    return recipe_settings(load_recipe(source, prompt="-"))


def _ssdnerf_settings(source: str) -> Sequence[Setting]:
    from threedgen.recipes.describe import config_settings
    from threedgen.ssdnerf.config import load_config

    return config_settings(load_config(source))


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ")
