"""argparse whose complaints are one line and an exception, like every other bad input."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from threedgen.core.errors import UserError
from threedgen.core.plugins import did_you_mean

PROGRAM = "threedgen"


# argparse has no public name for the class of action="append".
_REPEATED: type[argparse.Action] = argparse._AppendAction


class Parser(argparse.ArgumentParser):
    """ArgumentParser that raises UserError; options must be written out in full."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, allow_abbrev=False, **keywords)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments of a command; options may stand between `key=value` settings. Raises UserError."""
        return self.parse_intermixed_args(self._joined(argv))

    def of_columns(
        self, values: Mapping[str, str | bool | list[str]], fixed: Mapping[str, Any]
    ) -> argparse.Namespace:
        """The arguments of a command from values by the names of its options, without their dashes.

        Several values are a list, or one text with semicolons between them. fixed: arguments that are no columns.
        Raises UserError that names the column.
        """
        actions = [action for action in self._actions if action.dest not in ("help", *fixed)]
        known = {self._column(action): action for action in actions}
        arguments = argparse.Namespace(**{action.dest: action.default for action in actions}, **fixed)
        for column, value in values.items():
            if column not in known:
                near = did_you_mean(column, list(known)) or ";"
                raise UserError(
                    f"column '{column}' is no option of {self.prog.removeprefix(PROGRAM).strip()}{near} known: "
                    f"{', '.join(sorted(known))}, and settings of the recipe, which have a dot in their names"
                )
            try:
                setattr(arguments, known[column].dest, self._of_column(known[column], value))
            except argparse.ArgumentError as error:
                raise UserError(f"column '{column}': {error.message}") from error
        arguments.settings = list(arguments.settings or ())
        return arguments

    @staticmethod
    def _column(action: argparse.Action) -> str:
        return action.option_strings[-1].lstrip("-") if action.option_strings else action.dest

    def _of_column(self, action: argparse.Action, value: str | bool | list[str]) -> Any:
        if action.nargs == 0:
            return _truth(action, value)
        several = isinstance(action.nargs, int) or action.nargs == "*" or isinstance(action, _REPEATED)
        if not several:
            if not isinstance(value, str):
                raise argparse.ArgumentError(action, f"must be one text or number, got {value}")
            return self._get_values(action, [value])
        texts = value if isinstance(value, list) else [part.strip() for part in str(value).split(";")]
        if isinstance(action.nargs, int) and len(texts) != action.nargs:
            raise argparse.ArgumentError(action, f"must be {action.nargs} values, got {len(texts)}")
        if isinstance(action, _REPEATED):
            return [self._get_values(action, [text]) for text in texts]
        return self._get_values(action, texts)

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


def _truth(action: argparse.Action, value: str | bool | list[str]) -> bool:
    """The value of an option that is there or not."""
    text = str(value).lower()
    if text not in ("true", "yes", "1", "false", "no", "0"):
        raise argparse.ArgumentError(action, f"must be true or false, got '{value}'")
    return text in ("true", "yes", "1")
