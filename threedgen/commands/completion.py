"""`threedgen completion SHELL`: prints a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse

from threedgen.commands.parser import PROGRAM, Parser

SHELLS = ("bash", "zsh", "fish")


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen completion",
        description="Print a script that completes commands and options in a shell.",
        epilog="bash: threedgen completion bash > ~/.local/share/bash-completion/completions/threedgen; "
        "zsh: threedgen completion zsh > a file _threedgen in a folder of $fpath; "
        "fish: threedgen completion fish > ~/.config/fish/completions/threedgen.fish",
    )
    parser.add_argument("shell", choices=SHELLS, help="shell to complete in")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Prints the script."""
    import shtab

    print(shtab.complete(whole_parser(), arguments.shell), end="")


def whole_parser() -> argparse.ArgumentParser:
    """All commands as the subcommands of one parser; `train KIND` as subcommands of a subcommand."""
    from threedgen.commands.main import COMMANDS, TRAIN

    whole = argparse.ArgumentParser(PROGRAM, description="Text to 3D, picture to 3D and text to 4D.")
    commands = whole.add_subparsers(dest="command")
    train = commands.add_parser(TRAIN, help="Train a model.", description="Train a model.")
    kinds = train.add_subparsers(dest="kind")
    for name, command in COMMANDS.items():
        _, _, kind = name.partition(" ")
        own = command.parser()
        place = kinds if kind else commands
        place.add_parser(
            kind or name, parents=[own], add_help=False, help=command.summary, description=command.summary
        )
    return whole
