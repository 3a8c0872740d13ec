"""argparse whose complaints are one line and an exception, like every other bad input."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from threedgen.core.errors import UserError

PROGRAM = "threedgen"


class Parser(argparse.ArgumentParser):
    """ArgumentParser that raises UserError; options must be written out in full."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, allow_abbrev=False, **keywords)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments of a command; options may stand between `key=value` settings. Raises UserError."""
        return self.parse_intermixed_args(self._joined(argv))

    def _joined(self, argv: Sequence[str]) -> list[str]:
        """The same arguments, with `--up -y` as `--up=-y`: argparse would take -y for another option."""
        pairs = {
            (option, choice)
            for action in self._actions
            for choice in action.choices or ()
            for option in action.option_strings
            if str(choice).startswith("-")
        }
        joined: list[str] = []
        for word in argv:
            if joined and (joined[-1], word) in pairs:
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def error(self, message: str) -> NoReturn:
        # The settings are listed among what is missing, although there may be none of them.
        raise UserError(f"{message.removesuffix(', key=value')} (see {self.prog} --help)")
