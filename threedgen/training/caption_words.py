"""The words that captions of things and of the shape world are made of, whether or not a catalogue is installed."""

from __future__ import annotations

from functools import cache

from threedgen.datasets.things.catalogue import word_map
from threedgen.datasets.things.thing_class import COLORS
from threedgen.datasets.things.thing_set import family_classes
from threedgen.datasets.things.wording import synonyms


@cache
def caption_words() -> tuple[str, ...]:
    """All of them in alphabetical order, so that the tokens of a vocabulary are always the same."""
    texts = [*COLORS, *family_classes(), "and"]
    for words in word_map().values():
        texts += [*words.words, *([words.material] if words.material else [])]
    for word, others in synonyms().items():
        texts += [word, *others.train, *others.held_out]
    return tuple(sorted({word for text in texts for word in text.lower().split() if word.isalpha()}))
