"""Unusual prompts pass through all prompt processing, and into the files of a run and back, without loss."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_pipelines import clip_parts, ring, t5_parts

from threedgen.guidance.priors.base import Blend, Condition
from threedgen.guidance.priors.folder.text import TextEmbedder, clip_or_t5_states
from threedgen.guidance.prompting.conditioning import Prompting, ViewConditions
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.load import load_recipe, read_resolved

# One prompt of each kind that tends to break programs: words and marks of YAML, interpolation, quotes, line breaks,
# control characters, right-to-left scripts, combined and joined characters, paths, and texts like an option.
PROMPTS = (
    "a DSLR photo of a squirrel dressed as a 1920's gangster, 3/4 view",
    "007", "1e3", "0x1f", "2020-01-01", "no", "null", "~", "true", "on",
    "${x}", "${oc.env:HOME}", "\\${x}", "$(ls)", "%s", "{0}",
    "it's a \"quoted\" cat", "'", '"', "a: b", "- a", "#a", "a #b", "!tag", "&a", "*a", "|", ">", "{a: b}", "[a]",
    " a ", "a\nb", "a\r\nb", "a\tb", "a\0b", "a\x07b", "a\x85b", "a\u2028b", "\x1b[31mred",
    "🦊", "👩‍👩‍👧", "a 🏺 vase", "שלום", "قطة حمراء", "\u202egod a", "日本の猫", "naïve", "nai\u0308ve",
    "\ufeffa cat",
    "Ω≈ç√∫", "\U0010ffff", "[MASK] view", "<|endoftext|> a cat", "</s> a cat", "smiling", "front view, back view",
    "run:me", "run: a dog", "../../etc/passwd", "--prior", "key=value", "words", "a, " * 200, "x" * 5000,
)  # fmt: skip

unicode_text = st.text(min_size=1, max_size=40).filter(lambda text: bool(text.strip()))


class Reader:
    """A prior that only reads texts, with a TextEmbedder."""

    camera_conditioned = False

    def __init__(self, encode, folder) -> None:
        self.text = TextEmbedder(lambda: encode, "reader", folder)

    def prepare(self, prompts):
        self.text(prompts)
        self.text.release()


@pytest.fixture(scope="module")
def encoders():
    """The encode functions of a tiny CLIP and a tiny T5."""

    def make(parts):
        tokenizer, encoder = parts()
        encoder.eval()
        return lambda texts: clip_or_t5_states(tokenizer, encoder, texts, 77, True)

    return [make(parts) for parts in (clip_parts, t5_parts)]


def told(prior, prompt: str, **options) -> Condition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cuts and of words left out: tested where they are made
        return ViewConditions(prior, Prompting(**options))(prompt, ring(7, elevation=20.0), 0, 10)


def check(prior, prompt: str) -> None:
    views = {f"{prompt}, {side} view" for side in ("front", "side", "back", "overhead")}
    plain = told(prior, prompt, negative=prompt)
    assert set(plain.prompts) <= views
    assert plain.negative == prompt
    opposed = told(prior, prompt, negative=prompt, perp_neg=1.0)
    texts = [*opposed.prompts, *(text for some in opposed.opposed for text, _ in some)]
    words = {word for t in texts for word in (t.texts if isinstance(t, Blend) else (t,))}
    assert words <= views
    rows = prior.text(texts)["states"]
    assert len(rows) == 7 * 3
    assert rows.isfinite().all()
    # A text has the same rows in every batch.
    first = opposed.opposed[0][0][0]
    assert torch.equal(prior.text([first])["states"][0], rows[7])
    told(prior, prompt, debias="words")


@pytest.mark.parametrize("kind", [0, 1])
def test_every_kind_of_prompt_is_told_and_encoded(encoders, tmp_path, kind):
    prior = Reader(encoders[kind], tmp_path)
    for prompt in PROMPTS:
        check(prior, prompt)
    # A second run encodes nothing and reads the same numbers.
    again = Reader(None, tmp_path)
    for prompt in PROMPTS:
        for text in (prompt, f"{prompt}, back view"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert torch.equal(again.text([text])["states"], prior.text([text])["states"])


@given(unicode_text)
@settings(max_examples=15)
def test_any_text_is_told_and_encoded(encoders, tmp_path_factory, prompt):
    check(Reader(encoders[0], tmp_path_factory.getbasetemp() / "any text"), prompt)


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("text-to-3d", prompt="-").resolved


def through_a_run(recipe, folder, prompt: str) -> tuple[str, str]:
    """prompt and negative, read back from the recipe.yaml of a run."""
    guidance = [{**recipe["guidance"][0], "negative": prompt}, *recipe["guidance"][1:]]
    run = RunDirectory.create(folder, {**recipe, "prompt": prompt, "guidance": guidance})
    back = read_resolved(run.recipe)
    return back.prompt, back.guidance[0].config.negative


def test_every_kind_of_prompt_comes_back_from_a_run(recipe, tmp_path):
    for number, prompt in enumerate(PROMPTS):
        assert through_a_run(recipe, tmp_path / str(number), prompt) == (prompt, prompt)


@given(unicode_text)
@example("a\x85b")
@example("run:me")
def test_any_prompt_comes_back_from_a_run(recipe, tmp_path_factory, prompt):
    assert through_a_run(recipe, tmp_path_factory.mktemp("run") / "here", prompt) == (prompt, prompt)


def test_a_setting_on_the_command_line_is_text_as_it_stands():
    for prompt in PROMPTS[:40:4]:
        recipe = load_recipe("text-to-3d", [f"guidance.0.negative={prompt}"], prompt=prompt)
        assert recipe.prompt == recipe.guidance[0].config.negative == prompt
