"""`threedgen recipes`: what recipes there are."""

from __future__ import annotations

import argparse

from threedgen.commands.parser import PROGRAM, Parser


def build_parser() -> Parser:
    return Parser(prog="threedgen recipes", description="List the built-in recipes.")


def run(arguments: argparse.Namespace) -> None:
    """Prints the recipes of the commands that make assets, and of `train ssdnerf`."""
    from threedgen.recipes.layers import BUILTIN_FOLDER, recipe_cards
    from threedgen.ssdnerf.recipes import FOLDER

    for folder, command in ((BUILTIN_FOLDER, ""), (FOLDER, "train ssdnerf")):
        if command:
            print(f"\nof {PROGRAM} {command} DATASET --recipe NAME:")
        cards = recipe_cards(folder)
        width = max(20, *(len(card.name) for card in cards))
        for card in cards:
            print(f"{card.name:{width}} {card.description}")
            for title, text in (("paper", card.paper), ("needs", card.needs), ("memory", card.memory)):
                if text:
                    print(f"{'':{width}}   {title}: {text}")
