"""Who made the objects of the catalogue: ATTRIBUTION.md, which the licences of the furniture libraries ask for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from threedgen.datasets.things.catalogue import Thing, read_catalogue

# The addresses of licences, by words that the licence of a library has; the first that fits.
_ADDRESSES = (
    ("public domain", "https://creativecommons.org/publicdomain/zero/1.0/"),
    ("attribution 3.0 united states", "https://creativecommons.org/licenses/by/3.0/us/"),
    ("attribution 3.0", "https://creativecommons.org/licenses/by/3.0/"),
)
_INTRODUCTION = """# Attribution

Priors of threedgen learn from pictures of three-dimensional models that other people made. These
models are no part of threedgen. They are in the furniture libraries of [Sweet Home 3D](https://www.sweethome3d.com),
packaged by Debian as `sweethome3d-furniture`. We thank their authors, who are named here with the names of those
of their models that were used.

Changes: the models were scaled, some were turned or painted in other colours, and pictures of them were rendered.

This file is written by `python benchmarks/things_attribution.py`.
"""


def attribution(things: Iterable[Thing]) -> str:
    """The text of ATTRIBUTION.md for objects: each library with its licence, its creators, and what they made."""
    libraries: defaultdict[tuple[str, str], defaultdict[str, list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for thing in things:
        entry = thing.entry
        libraries[entry.library.stem, entry.license][entry.creator or "unknown"].append(entry.name)
    sections = [_INTRODUCTION]
    for (library, license_name), creators in sorted(libraries.items()):
        count = sum(len(names) for names in creators.values())
        lines = [f"## {library}", "", f"{count} models. {_linked(license_name)}", ""]
        for creator in sorted(creators, key=str.casefold):
            lines.append(f"- **{creator}**: {_listed(creators[creator])}")
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def write_attribution(path: Path, folder: str | Path | None = None, only: str | None = None) -> int:
    """Writes ATTRIBUTION.md for the kept objects of a catalogue, and returns how many they are.

    folder, only: those of `read_catalogue`. Raises UserError as it does.
    """
    things = read_catalogue(folder, only)
    path.write_text(attribution(things), encoding="utf-8")
    return len(things)


def _linked(license_name: str) -> str:
    lower = license_name.lower()
    address = next((address for words, address in _ADDRESSES if words in lower), None)
    name = " ".join(license_name.split())
    return f"Licence: {name}." if address is None else f"Licence: [{name}]({address})."


def _listed(names: list[str]) -> str:
    """Names in alphabetical order, with how often they occur."""
    count = {name: names.count(name) for name in sorted(set(names), key=str.casefold)}
    return ", ".join(name if number == 1 else f"{name} ({number})" for name, number in count.items())
