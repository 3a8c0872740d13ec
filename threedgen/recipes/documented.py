"""What the docstring of a Config says of each of its settings.

A Config documents its fields in the section that Google's style calls Attributes, the unit in brackets where there
is one:

    Attributes:
        size (pixels): Width and height of each picture.
        frames: Number of pictures in one turn.

A dataclass inherits what its bases say of their fields.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

_ENTRY = re.compile(r"(\w+)(?: \(([^)]+)\))?: (.*)")


@dataclass(frozen=True)
class Description:
    """What is said of one field. unit: empty where the value has none. text: whole sentences on one line."""

    unit: str
    text: str


def descriptions(cls: type) -> dict[str, Description]:
    """What a dataclass and its bases say of their fields, by name."""
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
