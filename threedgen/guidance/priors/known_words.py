"""Which words of a prompt does a prior not know? A text encoder can read any word; what a prior can draw is a list.

A word counts as known if the encoder puts it near something that the prior has learnt to draw: "kitty" near "cat".
`THRESHOLD` is measured (benchmarks/known_words.py).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache as once
from functools import cached_property
from pathlib import Path

import yaml
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.datasets.things.thing_class import COLORS
from threedgen.guidance.priors.folder.files import PipelineFolder

THRESHOLD = 0.64
"""Cosine to the nearest known thing below which a word is unknown."""

NEAREST = 3
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_WORD_OR_MARK = re.compile(_WORD.pattern + r"|[^\w\s]")

_PLAIN = Path(__file__).with_name("plain_words.yaml")


@dataclass(frozen=True)
class Unknown:
    """A word, or words that belong together, that are far from all that a prior knows.

    word: as in the prompt, in lower case. nearest: the three known things that are nearest, the first one the
    nearest; fewer if the prior knows fewer.
    """

    word: str
    nearest: tuple[str, ...]


@dataclass(frozen=True)
class KnownThing:
    """What a prior says of a thing that it knows. synonyms: other words for it. size: how large it is beside
    others, from 0 (an apple) to 5 (a house)."""

    synonyms: tuple[str, ...]
    size: int


def things_of(folder: PipelineFolder) -> dict[str, KnownThing]:
    """The things that a prior with a field was trained on, by their words. Raises UserError if it does not say
    so."""
    try:
        things = {
            word: KnownThing(tuple(str(name) for name in entry["synonyms"]), int(entry["size"]))
            for word, entry in folder.index["things"].items()
        }
        if not things or not all(0 <= thing.size <= 5 for thing in things.values()):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"prior '{folder.path}' does not say which things it knows: it is no field of things, or not whole"
        ) from error
    return things


class KnownWords:
    """What a prior knows, and a check of prompts against it.

    things:    phrases such as "cat" and "teddy bear".
    encode:    texts -> [n, d], the pooled states of the prior's text encoder, one row per text in their order. It
               is called once for each prompt with words that have to be compared, and before the first of
               these once for the things.
    threshold: least cosine to the nearest thing at which a word counts as known.
    reads:     whether the text encoder has a word in its vocabulary, whole or as a stem with an ending.

    Raises ValueError without things.
    """

    def __init__(
        self,
        things: Sequence[str],
        encode: Callable[[list[str]], Float[Tensor, "n d"]],
        threshold: float = THRESHOLD,
        reads: Callable[[str], bool] = lambda word: True,
    ) -> None:
        if not things:
            raise ValueError("a prior knows at least one thing")
        self._things = list(dict.fromkeys(" ".join(_WORD.findall(thing.lower())) for thing in things))
        self._phrases = {tuple(thing.split()) for thing in self._things}
        self._longest = max(len(phrase) for phrase in self._phrases)
        self._encode = encode
        self._threshold = threshold
        self._reads = reads

    def read_by(self, encode: Callable[[list[str]], Float[Tensor, "n d"]]) -> KnownWords:
        """The same things, of which the vectors are known already, before another encoder of the same texts."""
        other = copy.copy(self)
        other._encode = encode
        return other

    def check(self, prompt: str) -> list[Unknown]:
        """The words of a prompt that the prior does not know, in the order of the prompt, each once.

        Words for colours, materials, numbers, sizes and relations are passed over, and so is what stands right
        before a known thing ("a siamese cat"), because it describes that. Other words that follow one another are
        compared both together and by the last of them, which says what they are ("a racing bicycle"). What
        describes has to be a word at least: of "a blorfy cat", "blorfy" is not known.
        """
        words = _WORD_OR_MARK.findall(prompt.lower())
        far = {group: cosines for group, cosines in self._compared(words) if cosines.max() < self._threshold}
        named = {place for group in far for place in group}
        strange = [place for place in self._describing(words) if place not in named]
        strange = [(place,) for place in strange if not self._reads(words[place])]
        if strange:
            far |= zip(strange, self.cosines([words[place] for (place,) in strange]), strict=True)
        found = []
        for group, cosines in sorted(far.items(), key=lambda item: item[0]):
            order = cosines.topk(min(NEAREST, len(self._things))).indices.tolist()
            name = " ".join(words[place] for place in group)
            found.append(Unknown(name, tuple(self._things[index] for index in order)))
        return list(dict.fromkeys(found))

    def in_known_words(self, text: str) -> str:
        """A text with each word that `check` compares replaced by the known thing that is nearest to it, whether it
        is near or not: "a black kitty" becomes "a black cat". Others are left as they are, but for capitals."""
        words: list[str | None] = [*_WORD_OR_MARK.findall(text.lower())]
        for group, cosines in self._compared([word or "" for word in words]):
            for place in group[:-1]:
                words[place] = None
            words[group[-1]] = self._things[int(cosines.argmax())]
        return " ".join(word for word in words if word)

    def cosines(self, texts: Sequence[str]) -> Float[Tensor, "n k"]:
        """How near each text is to each of the known things, in [-1, 1]."""
        return _vectors(self._encode, texts) @ self._vectors.T

    @cached_property
    def _vectors(self) -> Float[Tensor, "k d"]:
        return _vectors(self._encode, self._things)

    @property
    def things(self) -> tuple[str, ...]:
        """The known things in the order of the columns of `cosines`."""
        return tuple(self._things)

    def _compared(self, words: Sequence[str]) -> list[tuple[tuple[int, ...], Float[Tensor, " k"]]]:
        """The places of each group of words that are not known by themselves, and its cosines to the known things:
        those of all of it or of its last word, whichever is nearer to one."""
        groups = [group for group, describes in self._groups(words) if not describes]
        if not groups:
            return []
        texts = [" ".join(words[place] for place in group) for group in groups]
        together, last = self.cosines([*texts, *(words[group[-1]] for group in groups)]).chunk(2)
        nearer = [
            whole if whole.max() >= head.max() else head for whole, head in zip(together, last, strict=True)
        ]
        return list(zip(groups, nearer, strict=True))

    def _describing(self, words: Sequence[str]) -> list[int]:
        """The places of words that describe what comes after them."""
        return [
            place
            for group, describes in self._groups(words)
            for place in (group if describes else group[:-1])
        ]

    def _groups(self, words: Sequence[str]) -> Iterator[tuple[tuple[int, ...], bool]]:
        """The places of words that follow one another, are content and not known, and whether they are right before
        a known thing, which they describe.

        words: also marks such as a comma.
        """
        between, describing = _plain("between"), _plain("describing") | COLORS.keys()
        group: list[int] = []
        place = 0
        while place < len(words):
            length = self._known_at(words, place)
            if length:
                if group:
                    yield tuple(group), True
                group = []
            elif words[place] in between or words[place].isdecimal() or not _WORD.fullmatch(words[place]):
                if group:
                    yield tuple(group), False
                group = []
            elif words[place] not in describing:
                group.append(place)
            place += max(length, 1)
        if group:
            yield tuple(group), False

    def _known_at(self, words: Sequence[str], place: int) -> int:
        """The number of words of the longest known thing that begins at a place, also in the plural; 0 if none."""
        for length in range(min(self._longest, len(words) - place), 0, -1):
            *first, last = words[place : place + length]
            if any((*first, form) in self._phrases for form in (last, *_singulars(last))):
                return length
        return 0


def plain_words() -> frozenset[str]:
    """The words that name no thing: colours, materials, sizes, numbers, relations and so on."""
    return _plain("between") | _plain("describing") | COLORS.keys()


@once
def _plain(kind: str) -> frozenset[str]:
    """The words of plain_words.yaml that are between things, or describing."""
    groups: dict[str, list[str]] = yaml.safe_load(_PLAIN.read_text(encoding="utf-8"))[kind]
    return frozenset(word for words in groups.values() for word in words)


def _singulars(word: str) -> Iterator[str]:
    """What a word may be the plural of."""
    for ending, other in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            yield word.removesuffix(ending) + other


def _vectors(
    encode: Callable[[list[str]], Float[Tensor, "n d"]], texts: Sequence[str]
) -> Float[Tensor, "n d"]:
    return F.normalize(encode([f"a photo of a {text}" for text in texts]).detach().float().cpu(), dim=-1)


def report(unknown: Sequence[Unknown]) -> str:
    """A sentence for a message, such as "This prior has not learnt 'zebra' (it knows horse, cow and lion)"."""
    parts = [f"'{item.word}' (it knows {_listed(item.nearest)})" for item in unknown]
    return f"This prior has not learnt {_listed(parts)}."


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
