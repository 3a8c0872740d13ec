"""The set of all things by word: procedural classes, the shape world's classes, and objects of a catalogue.

What is held out for measuring, and so never trained on, is in held_out.yaml.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from threedgen.core.errors import UserError
from threedgen.datasets import shapes, solids, world
from threedgen.datasets.shapes import Piece
from threedgen.datasets.things import families
from threedgen.datasets.things.catalogue import Thing, read_catalogue
from threedgen.datasets.things.thing_class import ThingClass

HELD_OUT = Path(__file__).with_name("held_out.yaml")
INSTALLED = "installed"  # the catalogue where Debian puts it, if it is there

# The shape world's classes as things: the natural colours, and whether front and back look different.
_SHAPES: dict[str, tuple[tuple[str, ...], bool]] = {
    **{
        name: (("red", "blue", "yellow", "gray", "orange", "white"), False)
        for name in ("cube", "sphere", "cylinder", "cone", "torus")
    },
    "chair": (("brown", "beige", "white", "black", "red"), True),
    "table": (("brown", "beige", "white", "black"), False),
    "mug": (("white", "blue", "red", "yellow", "black"), True),
    "car": (("red", "blue", "white", "gray", "black", "yellow", "green"), True),
}


@dataclass(frozen=True, eq=False)
class ThingSource:
    """One class or one object from which pictures of things are made.

    name: unique, such as "animals/cat", "shapes/chair" or the key of a catalogue object. words: what people call
    it, the most usual word first. thing: the class, None for a catalogue object. item: the catalogue object, None
    for a class. held_out: whether it is kept for measuring.
    """

    name: str
    words: tuple[str, ...]
    thing: ThingClass | None = None
    item: Thing | None = None
    held_out: bool = False

    @property
    def word(self) -> str:
        """The most usual word."""
        return self.words[0]

    @property
    def natural(self) -> tuple[str, ...]:
        """The colours of the main paint in the world; empty for a catalogue object, whose pictures show its own."""
        return self.thing.natural if self.thing is not None else ()

    @property
    def front(self) -> bool:
        """Whether it looks different from the front and from the back, as all catalogue objects are taken to do."""
        return self.thing is None or self.thing.front

    def pieces(self, rng: np.random.Generator | None = None) -> list[Piece]:
        """The pieces of a random thing of a class, or of the canonical one. Raises ValueError for an object."""
        if self.thing is None:
            raise ValueError(f"{self.name} is a catalogue object: read_thing gives its mesh")
        return self.thing.pieces(self.thing.canonical() if rng is None else self.thing.sample(rng))

    def stamp(self) -> str:
        """A short digest that changes when the class or what is said of the object changes."""
        if self.item is None:
            assert self.thing is not None
            return code_stamp(self.thing.build.__module__)
        words, entry = self.item.words, self.item.entry
        return _digest(f"{words!r} {entry.size} {entry.rotation} {entry.model}")


@dataclass(frozen=True)
class HeldOut:
    """What is kept for measuring.

    objects: keys of catalogue objects. pairs: (colour, word) that no caption of the training names together; the
    pairs of the shape world are among them.
    """

    objects: frozenset[str]
    pairs: frozenset[tuple[str, str]]


class ThingSet:
    """All sources by their most usual word, the words in alphabetical order.

    note: one line that says what is missing, None if nothing is.
    """

    def __init__(self, sources: Iterable[ThingSource], note: str | None = None) -> None:
        found: dict[str, list[ThingSource]] = {}
        for source in sources:
            found.setdefault(source.word, []).append(source)
        self.by_word: Mapping[str, tuple[ThingSource, ...]] = {
            word: tuple(found[word]) for word in sorted(found)
        }
        self.note = note

    @property
    def words(self) -> tuple[str, ...]:
        """The words, sorted."""
        return tuple(self.by_word)

    def classes(self, word: str) -> tuple[ThingSource, ...]:
        """The procedural classes of a word, that of a family first."""
        return tuple(source for source in self.by_word[word] if source.thing is not None)

    def objects(self, word: str, held_out: bool = False) -> tuple[ThingSource, ...]:
        """The catalogue objects of a word: those to train on, or those that are held out."""
        return tuple(
            source for source in self.by_word[word] if source.item is not None and source.held_out == held_out
        )

    def canonical(self, word: str) -> ThingSource:
        """What measures a word: its first class or, without one, its first object, rather one that is held out.

        Raises UserError for a word that nothing has.
        """
        found = self.of([word])
        choices = (*found.classes(word), *found.objects(word, held_out=True), *found.objects(word))
        return choices[0]

    def of(self, words: Iterable[str]) -> ThingSet:
        """The part with the given words. Raises UserError for a word that nothing has."""
        chosen = list(words)
        for word in chosen:
            if word not in self.by_word:
                raise UserError(f"there is no thing called '{word}' ({len(self.by_word)} words are known)")
        return ThingSet((source for word in chosen for source in self.by_word[word]), self.note)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@once
def code_stamp(module: str) -> str:
    """A digest of the code of a module and of the solids of which classes are built."""
    return _digest(inspect.getsource(importlib.import_module(module)) + inspect.getsource(solids))


@once
def family_classes() -> Mapping[str, ThingSource]:
    """The classes of all families by word. Raises ValueError for a word that two families have."""
    found: dict[str, ThingSource] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(families.__path__)):
        family = importlib.import_module(f"{families.__name__}.{module}")
        for word, thing in getattr(family, "CLASSES", {}).items():
            if word in found:
                raise ValueError(f"'{word}' is both {found[word].name} and {module}/{word}")
            found[word] = ThingSource(f"{module}/{word}", (word,), thing)
    return found


@once
def shape_classes() -> Mapping[str, ThingSource]:
    """The shape world's nine classes as classes of things."""
    return {
        word: ThingSource(
            f"shapes/{word}",
            (word,),
            ThingClass(shapes.CLASSES[word].build, shapes.CLASSES[word].ranges, natural, front=front),
        )
        for word, (natural, front) in _SHAPES.items()
    }


@once
def held_out() -> HeldOut:
    """What held_out.yaml and the shape world keep for measuring."""
    values: dict[str, Any] = yaml.safe_load(HELD_OUT.read_text(encoding="utf-8"))
    pairs = {(color, word) for color, word in values["pairs"]}
    return HeldOut(frozenset(values["objects"]), frozenset(pairs) | world.HELD_OUT)


@once
def forbidden_colors(words: tuple[str, ...]) -> frozenset[str]:
    """The colours that make a held-out pair with one of the words: what is held out of "cat" is held out of
    "siamese cat" too."""
    return frozenset(
        color
        for color, kind in held_out().pairs
        for word in words
        if word == kind or word.endswith(f" {kind}")
    )


def thing_set(catalogue: str | Path | None = INSTALLED, only: str | None = None) -> ThingSet:
    """All things.

    catalogue: the folder of the furniture libraries; None leaves them out; INSTALLED means the place where Debian
    installs them, and without them the set has the procedural classes alone and a note that says so. only: see
    `read_catalogue`. Raises
    UserError for a given folder that holds no catalogue.
    """
    note, items = None, []
    try:
        if catalogue is not None:
            items = read_catalogue(None if catalogue == INSTALLED else catalogue, only)
    except UserError as error:
        if catalogue != INSTALLED:
            raise
        note = f"only procedural things: {error}"
    kept = held_out().objects
    objects = [
        ThingSource(item.entry.key, item.words.words, item=item, held_out=item.entry.key in kept)
        for item in items
    ]
    return ThingSet([*family_classes().values(), *shape_classes().values(), *objects], note)
