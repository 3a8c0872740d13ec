"""Which words of a prompt a prior does not know, with an encoder that looks words up in a table."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from threedgen.guidance.priors.known_words import KnownWords, Unknown, report

THINGS = ["cat", "dog", "teddy bear", "fire hydrant", "car", "knife", "horse"]
# The nearest things of a word, the nearest first. Other words are far from all, each in its own direction.
NEAR = {"kitty": "cat", "automobile": "car", "bicycle": "car"}


def encode(texts: list[str]) -> Tensor:
    return torch.stack([_row(text.removeprefix("a photo of a ")) for text in texts])


def _row(text: str) -> Tensor:
    own = F.one_hot(torch.tensor(len(THINGS)), len(THINGS) + 1).float()
    if text in THINGS:
        return F.one_hot(torch.tensor(THINGS.index(text)), len(THINGS) + 1).float() * 3.0
    if text in NEAR:
        return 0.5 * own + _row(NEAR[text])
    return own + 0.2 * _row("horse") / 3.0 + 0.1 * _row("dog") / 3.0 + 0.05 * _row("cat") / 3.0


@pytest.fixture(scope="module")
def known() -> KnownWords:
    return KnownWords(THINGS, encode, threshold=0.6)


def unknown(known: KnownWords, prompt: str) -> list[str]:
    return [item.word for item in known.check(prompt)]


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat",
        "Two small red and white CATS next to a wooden car",
        "a teddy bear on a fire hydrant",
        "three knives",
        "a fluffy siamese white cat",  # what stands before a known thing describes it
        "a kitty in front of an automobile",
        "a racing bicycle",  # the last word says what it is
        "a photo of a big blue one",  # nothing in it is content
        "",
        "42 !?",
    ],
)
def test_what_is_known_passes(known, prompt):
    assert known.check(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "strange"),
    [
        ("a fluffy cat", []),
        ("a blorfy cat", ["blorfy"]),
        ("a siamese qwxz white cat on a blorfy bicycle", ["qwxz", "blorfy"]),  # whatever it describes
        ("a blorfy zebra", ["blorfy zebra"]),  # said once
        ("a blorfy cat on a zebra near a blorfy dog", ["blorfy", "zebra"]),
    ],
)
def test_what_describes_has_to_be_a_word(prompt, strange):
    known = KnownWords(THINGS, encode, 0.6, lambda word: word not in ("blorfy", "qwxz"))
    assert unknown(known, prompt) == strange
    assert KnownWords(THINGS, encode, 0.6).in_known_words(prompt) == known.in_known_words(prompt)


def test_the_vocabulary_tells_words_from_others():
    from threedgen.guidance.priors.folder.text_tokens import reads_words
    from threedgen.guidance.priors.load import EMBEDDED_THINGS_WEIGHTS

    reads = reads_words(EMBEDDED_THINGS_WEIGHTS / "tokenizer")
    for word in ("fluffy", "knitted", "siamese", "three-legged", "hand-painted", "café", "king's"):
        assert reads(word), word
    for word in ("blorfy", "zorptastic", "qwxz", "blorfy-legged"):
        assert not reads(word), word


@pytest.mark.parametrize("word", ["zebra", "kitty", "cat", "teddy bear", "robot arm"])
def test_case_articles_colours_and_places_change_nothing(known, word):
    plain = known.check(word)
    for prompt in (
        f"a {word}",
        f"The {word.upper()}!",
        f"a photo of an old red {word}",
        f"a {word} beside a dog",
        f"a cat on the {word}",
        f"{word}, {word} and {word}",
    ):
        assert known.check(prompt) == plain


def test_an_unknown_word_has_the_three_nearest_things(known):
    assert known.check("a zebra") == [Unknown("zebra", ("horse", "dog", "cat"))]
    assert len(known.check("a dragon with a zebra")) == 2


def test_fewer_things_than_three_are_all_nearest():
    (item,) = KnownWords(["cat", "cat", "horse"], encode).check("a zebra")
    assert item.nearest == ("horse", "cat")


def test_a_phrase_is_known_as_a_whole_only(known):
    assert unknown(known, "a bear") == ["bear"]
    assert unknown(known, "a hydrant") == ["hydrant"]
    assert unknown(known, "teddy bears") == []


def test_words_that_belong_together_are_reported_together(known):
    assert unknown(known, "a flying space ship over the moon") == ["space ship", "moon"]


def test_the_threshold_decides():
    assert unknown(KnownWords(THINGS, encode, threshold=-1.0), "a zebra") == []
    assert unknown(KnownWords(THINGS, encode, threshold=1.1), "a kitty") == ["kitty"]
    assert unknown(KnownWords(THINGS, encode, threshold=1.1), "a cat") == []  # is a known phrase


def test_the_things_are_encoded_once():
    calls: list[list[str]] = []

    def counted(texts: list[str]) -> Tensor:
        calls.append(texts)
        return encode(texts)

    known = KnownWords(THINGS, counted)
    known.check("a cat")
    assert calls == []  # nothing has to be compared
    known.check("a kitty")
    known.check("an automobile")
    assert sorted(len(texts) for texts in calls) == [2, 2, len(THINGS)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a black kitty", "a black cat"),
        ("A Black Kitty, and a red automobile", "a black cat , and a red car"),
        ("a racing red bicycle", "a red car"),  # its last word says what it is
        ("a zebra", "a horse"),  # the nearest, though it is not near
        ("a siamese cat on a fire hydrant", "a siamese cat on a fire hydrant"),
        ("", ""),
    ],
)
def test_unknown_words_are_replaced_by_the_nearest_known_thing(known: KnownWords, prompt: str, expected: str):
    assert known.in_known_words(prompt) == expected


def test_a_prior_without_things_is_an_error():
    with pytest.raises(ValueError, match="at least one thing"):
        KnownWords([], encode)


def test_the_message_names_words_and_answers(known):
    assert report(known.check("a zebra")) == (
        "This prior has not learnt 'zebra' (it knows horse, dog and cat)."
    )
    assert report(known.check("a zebra and a moon")).count("it knows") == 2
