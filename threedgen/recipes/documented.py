"""The descriptions of settings in the docstrings of Configs.

A Config documents its fields in the section that Google's style calls Attributes, with the unit in brackets if
there is one:

    Attributes:
        size (pixels): Width and height of each picture.
        frames: Number of pictures in one turn.

A dataclass inherits the descriptions of its bases.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

_ENTRY = re.compile(r"(\w+)(?: \(([^)]+)\))?: (.*)")


@dataclass(frozen=True)
class Description:
    """The description of one field. unit: empty if the value has none. text: whole sentences on one line."""

    unit: str
    text: str


def descriptions(cls: type) -> dict[str, Description]:
    """The descriptions of the fields of a dataclass and its bases by name."""
    found: dict[str, Description] = {}
    for base in reversed(cls.__mro__):
        found |= _section(base.__dict__.get("__doc__") or "")
    return found


def _section(text: str) -> dict[str, Description]:
    lines = iter(inspect.cleandoc(text).splitlines())
    if not any(line.strip() == "Attributes:" for line in lines):
        return {}
    found: dict[str, list[str]] = {}
    units: dict[str, str] = {}
    name = ""
    for line in lines:
        if line.strip() and not line.startswith(" "):
            break
        entry = _ENTRY.fullmatch(line.strip())
        if entry and len(line) - len(line.lstrip()) == 4:
            name = entry[1]
            units[name], found[name] = entry[2] or "", [entry[3]]
        elif name and line.strip():
            found[name].append(line.strip())
    return {name: Description(units[name], " ".join(words)) for name, words in found.items()}
