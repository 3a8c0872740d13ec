"""Words that contradict a view are removed from its text and reported; everything else is unchanged."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipelines import ring, transformers

from threedgen.core.errors import UserError
from threedgen.guidance.prompting.conditioning import Prompting, ViewConditions
from threedgen.guidance.prompting.debiasing import PHRASES, MaskedLanguageModel, by_words, debiaser, without
from threedgen.guidance.prompting.prompts import SIDES


class Listener:
    camera_conditioned = False

    def prepare(self, prompts):
        self.texts = list(prompts)


def test_a_smile_is_not_seen_from_behind():
    told = by_words("a smiling dog, with a hat")
    assert told.prompts == {
        "front": "a smiling dog, with a hat",
        "side": "a smiling dog, with a hat",
        "back": "a dog, with a hat",
        "overhead": "a dog, with a hat",
    }
    assert told.dropped == {"back": ("smiling",), "overhead": ("smiling",)}
    assert told.report().endswith('"smiling" (back, overhead)')


@pytest.mark.parametrize(
    ("prompt", "side", "expected"),
    [
        ("a DSLR photo of Mount Fuji, aerial view", "front", "a DSLR photo of Mount Fuji"),
        ("a photo of aerial view of a castle", "side", "a photo of a castle"),
        ("Front view of a chair", "back", "a chair"),
        ("a portrait of a queen, looking at the camera, oil", "back", "a queen, oil"),
        ("a chimpanzee with a big grin", "back", "a chimpanzee"),
        ("a cat seen from behind, low poly", "front", "a cat, low poly"),
        ("smiling, a dog", "back", "a dog"),
        ("an owl GRINNING .", "back", "an owl."),
        # Names of things and places that only sound like views are kept.
        ("a cat lying on its back", "front", "a cat lying on its back"),
        ("a squirrel in front of an easel", "back", "a squirrel in front of an easel"),
        ("a capybara wearing a top hat", "front", "a capybara wearing a top hat"),
        ("an unsmiling dog", "back", "an unsmiling dog"),
        ("a non-smiling dog", "back", "a non-smiling dog"),
    ],
)
def test_what_is_left_reads_well(prompt, side, expected):
    assert by_words(prompt).prompts[side] == expected


def test_a_prompt_never_becomes_empty():
    for prompt in ("smiling", "front view", "a portrait of", "", "smiling!"):
        assert set(by_words(prompt).prompts.values()) == {prompt}
        assert not by_words(prompt).dropped


@given(st.text(max_size=60))
def test_a_text_without_view_words_stays_as_it_is(text):
    told = by_words(text)
    if not told.dropped:
        assert set(told.prompts.values()) == {text}


@given(st.lists(st.sampled_from([*PHRASES, "a dog", ",", "שלום", "🦊", "on its back", "\n"]), max_size=6))
def test_each_view_keeps_every_other_word(pieces):
    prompt = " ".join(pieces)
    told = by_words(prompt)
    assert tuple(told.prompts) == SIDES
    for side in SIDES:
        lost = " ".join(told.dropped.get(side, ())).split()
        left = told.prompts[side].replace(",", " ").split()
        assert sorted([*lost, *left]) == sorted(prompt.replace(",", " ").split())
        assert all(side not in PHRASES[phrase.lower()] for phrase in told.dropped.get(side, ()))


def test_the_views_are_told_and_the_user_too_once():
    prior = Listener()
    conditions = ViewConditions(prior, Prompting(debias="words"))  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r'for some views: "smiling" \(back, overhead\)$') as caught:
        told = conditions("a smiling dog", ring(4), 0, 10)
    assert len(caught) == 1
    assert told.prompts == tuple(
        f"a {dog}, {side} view"
        for dog, side in (
            ("smiling dog", "front"),
            ("smiling dog", "side"),
            ("dog", "back"),
            ("smiling dog", "side"),
        )
    )
    assert set(told.prompts) <= set(prior.texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditions("a smiling dog", ring(4), 1, 10)
        ViewConditions(prior, Prompting(debias="words"))("a dog", ring(4), 0, 10)  # type: ignore[arg-type]
        ViewConditions(prior, Prompting())("a smiling dog", ring(4), 0, 10)  # type: ignore[arg-type]


# A masked language model.

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SIDES, "this", "image", "is", "depicting", "a", "view",
         "of", "dog", "smiling", "red", "hat", ","]  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    tokenizer = transformers().BertTokenizer(
        vocab={word: i for i, word in enumerate(WORDS)}, do_lower_case=True
    )
    config = transformers().BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    transformers().BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def probabilities(folder: Path, prompt: str) -> list[float]:
    """p(view | prompt) by the classes of transformers, one sentence at a time."""
    tokenizer = transformers().AutoTokenizer.from_pretrained(folder)
    model = transformers().BertForMaskedLM.from_pretrained(folder).eval()
    tokens = tokenizer(f"This image is depicting a [MASK] view of {prompt}", return_tensors="pt")
    place = tokens.input_ids[0].tolist().index(tokenizer.mask_token_id)
    with torch.no_grad():
        all_words = torch.softmax(model(**tokens).logits[0, place], dim=0)
    named = all_words[[WORDS.index(side) for side in SIDES]]
    return (named / named.sum()).tolist()


def test_the_rule_of_the_language_model(bert):
    prompt = "a smiling red dog , hat"
    told = debiaser(str(bert))(prompt)
    whole = probabilities(bert, prompt)
    words = prompt.split()
    some = 0
    for i, side in enumerate(SIDES):
        kept = []
        for j, word in enumerate(words):
            part = probabilities(bert, " ".join(words[:j] + words[j + 1 :]))
            if whole[i] >= 0.95 * (whole[i] + part[i]) / 2:
                kept.append(word)
        some += len(words) - len(kept)
        assert told.prompts[side].replace(",", " , ").split() == kept or told.prompts[side] == prompt
    assert some > 0  # a random model says something
    assert told.dropped


def test_long_and_odd_prompts_go_through_the_language_model(bert):
    for prompt in ("dog " * 100, "a [MASK] dog", "🦊", "", "\0", "a\ndog"):
        told = debiaser(str(bert))(prompt)
        assert all(told.prompts[side] == prompt for side in SIDES if side not in told.dropped)


@pytest.mark.parametrize(
    "damage", ["no weights", "pickle", "cut", "other weights", "no tokenizer", "no names"]
)
def test_a_folder_that_is_no_masked_language_model(bert, tmp_path, damage):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(bert, tmp_path / "bert"))
    weights = folder / "model.safetensors"
    if damage in ("no weights", "pickle"):
        weights.unlink()
    if damage == "pickle":
        torch.save({}, folder / "pytorch_model.bin")
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-50])
    if damage == "other weights":
        tensors = load_file(weights)
        tensors.pop("bert.embeddings.word_embeddings.weight")
        tensors.pop("cls.predictions.bias")
        save_file(tensors, weights, metadata={"format": "pt"})
    if damage == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            (folder / name).unlink(missing_ok=True)
    if damage == "no names":
        words = ["frnt" if word == "front" else word for word in WORDS]
        transformers().BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    with pytest.raises(UserError, match="debias model") as caught:
        MaskedLanguageModel(folder)("a smiling dog")
    assert "\n" not in str(caught.value)


def test_no_such_folder(tmp_path):
    for name in ("word", str(tmp_path), str(tmp_path / "absent")):
        with pytest.raises(UserError, match="neither 'words' nor a folder"):
            debiaser(name)


def test_overlapping_spans_of_several_sides():
    told = without("a b c", {"back": [(0, 1), (2, 3)]})
    assert told.prompts == {"front": "a b c", "side": "a b c", "back": "c", "overhead": "a b c"}
