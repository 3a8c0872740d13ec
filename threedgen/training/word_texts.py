"""The texts that a text encoder is pre-trained on: the nouns of WordNet, and captions with colours and relations.

WordNet is needed for training only (Debian: `apt install wordnet-base`). Source: Miller, "WordNet: a lexical
database for English", CACM 38(11), 1995; the format of data.noun is described in wndb(5), and the numbers of its
lexicographer files in lexnames(5).
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from threedgen.core.errors import UserError
from threedgen.datasets.things.captions import article
from threedgen.datasets.things.thing_class import COLORS
from threedgen.datasets.things.wording import countable, phrase, plural

WORDNET = Path("/usr/share/wordnet")
"""Where Debian's wordnet-base installs its files."""
TEMPLATES = ("{}", "{article} {}", "a photo of {article} {}")
"""The wordings in which the encoder meets each noun, all of which have the vector of `photo_of` it."""

_CONCRETE = frozenset(
    {"05", "06", "08", "13", "17", "18", "20"}
)  # animal artifact body food object person plant
_SENSES = 2  # meanings of a noun that count for its kin, the most frequent ones
_NOUN = re.compile(r"[a-z]+([ -][a-z]+)?")  # one word or two; names of species and people have capitals
_MATERIALS = (
    *("wooden", "metal", "iron", "glass", "plastic", "leather", "stone", "wicker", "cardboard", "golden"),
    *("silver", "paper", "ceramic", "rubber", "brick", "concrete", "marble", "bronze", "steel", "woolen"),
)
_SIZES = ("small", "big", "large", "tiny", "huge", "tall", "old", "new", "round", "long")
_RELATIONS = (
    *("on", "on top of", "next to", "beside", "under", "in front of", "behind", "and", "with", "inside"),
    *("above", "below", "near"),
)
_NUMBERS = ("two", "three", "four", "five")


@dataclass(frozen=True)
class Noun:
    """A noun or collocation of two words.

    concrete: whether it is a thing, a creature, food or a plant in one of its senses. usual: whether its words are
    whole pieces of the vocabulary of BERT, which means that they are frequent. kin: the synonyms and the next wider
    nouns of its first concrete senses, such as "cat" for "kitty" and "sofa" for "settee".
    """

    text: str
    concrete: bool
    usual: bool
    kin: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Synset:
    """One meaning: whether it is concrete, its nouns, and the meanings that are wider by one step."""

    concrete: bool
    nouns: tuple[str, ...]
    wider: tuple[str, ...]


@dataclass(frozen=True)
class Caption:
    """A text about things: `words` are the nouns of the first and the second thing, `colors` their first colours;
    None where there is none. The sentence model reads `photo`."""

    text: str
    words: tuple[str, str | None]
    colors: tuple[str | None, str | None]

    @property
    def photo(self) -> str:
        """The caption of a photo."""
        return f"a photo of {self.text}"


def wordnet_nouns(folder: Path, pieces: Collection[str]) -> list[Noun]:
    """The nouns of one or two lower-case words in the files data.noun and index.noun of a folder, sorted.

    pieces: the vocabulary. Raises UserError if the files cannot be read.
    """
    synsets = {fields[0]: _synset(fields) for fields in _lines(folder / "data.noun")}
    found = []
    for fields in _lines(folder / "index.noun"):
        text = fields[0].replace("_", " ")
        meanings = [synsets[offset] for offset in fields[6 + int(fields[3]) :]]
        meanings = [meaning for meaning in meanings if text in meaning.nouns]  # in others it has a capital
        if not meanings:
            continue
        things = [meaning for meaning in meanings if meaning.concrete]
        kin: dict[str, None] = {}
        for meaning in things[:_SENSES]:
            kin |= dict.fromkeys(meaning.nouns)
            for offset in meaning.wider:
                kin |= dict.fromkeys(synsets[offset].nouns[:2])
        kin.pop(text, None)
        usual = all(word in pieces for word in re.split("[ -]", text))
        found.append(Noun(text, bool(things), usual, tuple(kin)))
    return sorted(found, key=lambda noun: noun.text)


def _lines(path: Path) -> list[list[str]]:
    """The fields of each line of a file of WordNet without the licence."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"WordNet's nouns cannot be read from '{path}' ({error}): run `apt install wordnet-base`"
        ) from error
    return [line.split() for line in lines if not line.startswith(" ")]


def _synset(fields: Sequence[str]) -> _Synset:
    count = int(fields[3], 16)
    texts = [fields[4 + 2 * index].replace("_", " ") for index in range(count)]
    pointers = fields[5 + 2 * count : 5 + 2 * count + 4 * int(fields[4 + 2 * count])]
    wider = [target for kind, target in zip(pointers[::4], pointers[1::4], strict=True) if kind == "@"]
    nouns = [text for text in texts if _NOUN.fullmatch(text)]
    return _Synset(fields[1] in _CONCRETE, tuple(nouns), tuple(wider))


def rare_words(nouns: Sequence[Noun]) -> list[str]:
    """The concrete nouns of one word that are not usual, such as "settee" and "lorry"."""
    return [noun.text for noun in nouns if noun.concrete and not noun.usual and noun.text.isalpha()]


def chosen_nouns(nouns: Sequence[Noun], count: int, seed: int) -> list[str]:
    """At most `count` nouns to learn: usual concrete ones first, then other usual ones of one word, then
    `rare_words`, then the other concrete ones, drawn at random where not all fit."""
    rng = random.Random(seed)
    found: list[str] = []
    groups = (
        [noun.text for noun in nouns if noun.usual and noun.concrete],
        [noun.text for noun in nouns if noun.usual and not noun.concrete and noun.text.isalpha()],
        rare_words(nouns),
        [noun.text for noun in nouns if noun.concrete and not noun.usual and not noun.text.isalpha()],
    )
    for group in groups:
        left = count - len(found)
        found += group if len(group) <= left else rng.sample(group, left)
    return found


def photo_of(noun: str) -> str:
    """What the sentence model reads for a noun, also for one that begins with a vowel or is a plural: the wording
    that word pieces have their rows from."""
    return f"a photo of a {noun}"


def worded(noun: str, template: str) -> str:
    """A noun in one of TEMPLATES."""
    return template.format(noun, article=article(noun))


def captions(words: Sequence[str], count: int, seed: int) -> list[Caption]:
    """Distinct captions about words, such as "a red and white fire hydrant" and "two cats next to a wooden chair".

    words: nouns without an article; one that is named twice is drawn twice as often.
    """
    rng = random.Random(seed)
    found: dict[str, Caption] = {}
    while len(found) < count:
        text, word, color = _thing(rng, words)
        other_word, other_color = None, None
        if rng.random() < 0.35:
            other, other_word, other_color = _thing(rng, words)
            text = f"{text} {rng.choice(_RELATIONS)} {other}"
        found.setdefault(text, Caption(text, (word, other_word), (color, other_color)))
    return list(found.values())


def _thing(rng: random.Random, words: Sequence[str]) -> tuple[str, str, str | None]:
    """The text of one thing, its word and its first colour."""
    word = rng.choice(words)
    colors = rng.sample(list(COLORS), rng.choices((0, 1, 2), (0.3, 0.5, 0.2))[0])
    parts = [rng.choice(_SIZES)] if rng.random() < 0.12 else []
    named = [" and ".join(colors)] if colors else []
    parts += named + ([rng.choice(_MATERIALS)] if rng.random() < 0.25 else [])
    color = colors[0] if colors else None
    if countable(word) and rng.random() < 0.1:
        return " ".join((rng.choice(_NUMBERS), *parts, plural(word))), word, color
    if not parts:
        return phrase(word), word, None
    text = " ".join((*parts, word))
    return (f"{article(text)} {text}" if countable(word) else text), word, color
