"""What captions of things say: drawn colours, synonyms, plurals; never what is held out for measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from threedgen.datasets.things import captions
from threedgen.datasets.things.catalogue import bare_words
from threedgen.datasets.things.thing_class import COLORS
from threedgen.datasets.things.thing_set import ThingSource, forbidden_colors
from threedgen.datasets.things.thing_views import ObjectLook

SYNONYMS = Path(__file__).with_name("synonyms.yaml")
UNNAMED = 0.5  # share of captions of classes that name no colour
NAMED_SECOND = 0.4  # share of the others that name the second colour too, if there is one
SYNONYM = 0.25  # share of captions with a synonym, if the word has one
RECOLORED = 0.5  # share of pictures of catalogue objects in other colours, if they may have them
_ANY_SECOND = 0.5  # share of second colours that are drawn from all, if the caption names them
_CONTRASTS = ("white", "gray", "brown")  # second colours where no natural one differs from the main colour
_NUMBERS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Synonyms:
    """Other words for a thing: train are in captions of the training, held_out are not."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Coat:
    """The names of the colours of the two paints, which differ, and those that the caption names."""

    main: str
    second: str
    named: tuple[str, ...]

    @property
    def colors(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """The colours of the two paints, display-referred."""
        return COLORS[self.main], COLORS[self.second]


@once
def synonyms() -> Mapping[str, Synonyms]:
    """The synonyms of every word that has some."""
    return {
        word: Synonyms(tuple(values.get("train", ())), tuple(values.get("held_out", ())))
        for word, values in _document()["synonyms"].items()
    }


@once
def held_out_words() -> frozenset[str]:
    """The synonyms that no caption of the training has."""
    return frozenset(word for values in synonyms().values() for word in values.held_out)


def synonyms_of(word: str) -> tuple[str, ...]:
    """The synonyms that captions of the training have."""
    return synonyms()[word].train if word in synonyms() else ()


def draw_word(word: str, rng: np.random.Generator) -> str:
    """The word, or in a share SYNONYM of the draws one of its synonyms for the training."""
    others = synonyms_of(word)
    if rng.random() < SYNONYM and others:
        return others[rng.integers(len(others))]
    return word


def draw_coat(source: ThingSource, rng: np.random.Generator, plain: float = UNNAMED) -> Coat:
    """Colours of a thing of a class: its first natural ones, which are not named, or any that it may have, with
    their names. Drawn natural colours without their names would teach a model their mean, which is grey.

    plain: share of the draws that name no colour. No held-out pair of a colour and a word is drawn.
    """
    thing = source.thing
    assert thing is not None
    natural, others = _allowed(thing.natural, source.words), _allowed(thing.second, source.words)
    every = _allowed(tuple(COLORS), source.words)
    named = rng.random() >= plain
    mains = every if named and thing.recolored else natural
    main = mains[rng.integers(len(mains)) if named else 0]
    both = bool(others) and named and rng.random() < NAMED_SECOND
    seconds = every if both and thing.recolored and rng.random() < _ANY_SECOND else others
    seconds = [name for name in seconds if name != main] or [name for name in _CONTRASTS if name != main]
    second = seconds[rng.integers(len(seconds)) if both else 0]
    return Coat(main, second, ((main, second) if both else (main,)) if named else ())


def draw_object(
    source: ThingSource, look: ObjectLook, rng: np.random.Generator
) -> tuple[Float[Tensor, "2 3"], str]:
    """Colours of the paints of a catalogue object, and a phrase that fits them."""
    assert source.item is not None
    words = source.item.words
    kept = tuple(word for word in words.words if word not in held_out_words()) or words.words[:1]
    word = draw_word(kept[0], rng)
    words = replace(words, words=kept if word == kept[0] else (word,))
    if look.paints and words.recolored and words.colored and rng.random() < RECOLORED:
        free = _allowed(tuple(COLORS), source.words)
        first = free[rng.integers(len(free))]
        rest = [name for name in free if name != first]
        second = rest[rng.integers(len(rest))] if look.paints == 2 and rng.random() < 0.5 else None
        named = look.palette.dominant(first, second)
        if forbidden_colors(source.words).isdisjoint(named):
            colors = look.colors.clone()
            colors[0] = torch.tensor(COLORS[first])
            if second is not None:
                colors[1] = torch.tensor(COLORS[second])
            count = 2 if rng.random() < NAMED_SECOND else 1
            return colors, phrase(words.words[0], named[:count])
    named = look.palette.dominant()
    allowed = forbidden_colors(source.words).isdisjoint(named)
    text = captions.caption(words, named if allowed else (), rng)
    return look.colors, _without_article(text, words.words[0])


def phrase(word: str, colors: Sequence[str] = ()) -> str:
    """A word with its article and colours: "a red and white boat", "an apple", "grapes"."""
    return _without_article(captions.phrase(word, colors), word)


def count_phrase(count: int, word: str, colors: Sequence[str] = ()) -> str:
    """A number of the same things, such as "three red and white chairs". count: 2, 3 or 4."""
    color = f"{' and '.join(colors)} " if colors else ""
    return f"{_NUMBERS[count]} {color}{plural(word)}"


def countable(word: str) -> bool:
    """Whether a word has an article and a plural."""
    return word not in bare_words() and word not in _document()["bare"]


def plural(word: str) -> str:
    """The plural of a word that can be counted."""
    for ending, other in _document()["plurals"].items():
        if word == ending or word.endswith(f" {ending}"):
            return word[: len(word) - len(ending)] + other
    if word.endswith(("s", "x", "sh", "ch")):
        return f"{word}es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def _without_article(text: str, word: str) -> str:
    """The text, without the article that `captions` puts before a word that it takes for countable."""
    return text.split(" ", 1)[1] if word in _document()["bare"] else text


def _allowed(colors: Sequence[str], words: tuple[str, ...]) -> list[str]:
    forbidden = forbidden_colors(words)
    return [name for name in colors if name not in forbidden]


@once
def _document() -> dict[str, Any]:
    return yaml.safe_load(SYNONYMS.read_text(encoding="utf-8"))
