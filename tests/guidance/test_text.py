"""Encoded texts: each once, in batches, blended, and stored on disk such that damage is harmless."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import clip_parts, t5_parts

from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Blend
from threedgen.guidance.priors.folder.text import (
    UNREAD,
    TextEmbedder,
    clip_or_t5_states,
    lower_case,
    tokens_of,
)
from threedgen.guidance.priors.folder.text_cache import TextCache, cache_folder


class Letters:
    """An encoder with known rows: the code points of the first four characters, and the number of characters."""

    def __init__(self, reads: int = 10**6) -> None:
        self.batches: list[list[str]] = []
        self.loads = 0
        self.reads = reads

    def load(self):
        self.loads += 1
        return self.encode

    def encode(self, texts):
        self.batches.append(texts)
        codes = [[float(ord(c)) for c in text[:4].ljust(4, "\0")] for text in texts]
        return {
            "states": torch.tensor(codes).reshape(-1, 2, 2),
            "pooled": torch.tensor([[float(len(text))] for text in texts]),
            UNREAD: torch.tensor([max(len(text) - self.reads, 0) for text in texts]),
        }

    @property
    def encoded(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


def test_each_text_is_encoded_once_in_batches_and_rows_keep_the_order():
    encoder = Letters()
    embedder = TextEmbedder(encoder.load, "f")
    rows = embedder(["b", "a", "b"])
    assert rows["states"].shape == (3, 2, 2)
    assert rows["states"][:, 0, 0].tolist() == [98.0, 97.0, 98.0]
    assert set(rows) == {"states", "pooled"}
    assert encoder.batches == [["b", "a"]]
    embedder(["a", "c"])
    assert encoder.encoded == ["b", "a", "c"]
    embedder([f"text {i}" for i in range(100)])
    assert max(len(batch) for batch in encoder.batches) < 100
    assert len(encoder.encoded) == 103


def test_the_encoder_is_loaded_when_it_is_needed_and_again_after_release():
    encoder = Letters()
    embedder = TextEmbedder(encoder.load, "f")
    assert encoder.loads == 0
    embedder(["a"])
    embedder(["b"])
    embedder.release()
    embedder(["a", "b"])
    assert encoder.loads == 1
    embedder(["c"])
    assert encoder.loads == 2


@given(st.lists(st.tuples(st.text(max_size=8), st.floats(-2.0, 2.0)), min_size=1, max_size=4))
def test_a_blend_is_the_weighted_sum_of_its_texts(parts):
    embedder = TextEmbedder(Letters().load, "f")
    texts, shares = zip(*parts, strict=True)
    alone = embedder(texts)
    mixed = embedder(["x", Blend(texts, shares)])
    for name, rows in alone.items():
        weights = torch.tensor(shares).reshape(-1, *[1] * (rows.dim() - 1))
        # Code points reach 1.1e6, and float32 keeps 7 digits of their sum.
        torch.testing.assert_close(mixed[name][1], (weights * rows).sum(0), rtol=1e-5, atol=1.0)


def test_half_precision_rows_are_blended_without_its_rounding():
    values = {"a": 1.0, "b": 1.0078125, "c": 3.0}
    embedder = TextEmbedder(
        lambda: lambda texts: {"states": torch.tensor([[values[t]] for t in texts], dtype=torch.bfloat16)}, ""
    )
    rows = embedder([Blend(("a", "b", "c"), (100.0, -100.0, 1.0))])["states"]
    assert rows.dtype == torch.bfloat16
    assert rows.item() == pytest.approx(3.0 - 0.78125, rel=2**-8)


def test_an_error_of_the_encoder_is_the_error_that_is_raised(tmp_path):
    def broken(texts):
        raise RuntimeError("out of memory")

    embedder = TextEmbedder(lambda: broken, "f", tmp_path)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        embedder(["a"])
    assert not list(tmp_path.rglob("*"))


def test_numbers_that_overflowed_are_named_and_not_kept(tmp_path):
    def overflowing(texts):
        return {"states": torch.tensor([[1.0], [torch.inf], [1.0]])[: len(texts)]}

    embedder = TextEmbedder(lambda: overflowing, "f", tmp_path)
    with pytest.raises(UserError, match=r'\'states\' for "b" are not finite numbers: use a prior dtype'):
        embedder(["a", "b", "c"])
    assert not list(tmp_path.rglob("*"))


# Rows on disk.

ODD = ["", "a", "a ", "A", "007", "no", "null", "${x}", "it's \"quoted\"", "\n\t", "\0", "🦊👩‍👩‍👧", "é", "e\u0301",
       "שלום", "\u202eevil", "x" * 5000, "../../etc/passwd", "a\0b", "\ufeff", "日本語"]  # fmt: skip


@given(st.lists(st.text(max_size=30), max_size=4))
@settings(max_examples=30)
def test_what_was_kept_comes_back_for_exactly_its_text(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("cache")
    texts = [*ODD, *texts]
    first = TextEmbedder(Letters().load, "f", folder)(texts)
    second = Letters()
    again = TextEmbedder(second.load, "f", folder)(texts)
    assert second.loads == 0
    for name, rows in first.items():
        assert torch.equal(again[name], rows)
    assert len(list(folder.iterdir())) == len(set(texts))


def test_another_encoder_never_meets_the_rows(tmp_path):
    TextEmbedder(Letters().load, "one", tmp_path)(["a"])
    other = Letters()
    TextEmbedder(other.load, "other", tmp_path)(["a"])
    assert other.encoded == ["a"]


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "empty":
        content = bytearray()
    elif how == "cut":
        content = content[:-3]
    elif how == "header cut":
        content = content[:20]
    elif how == "a bit":
        content[-2] ^= 1
    elif how == "header":
        content[8:20] = b"\xff" * 12
    elif how == "not safetensors":
        content = bytearray(b"hello")
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["empty", "cut", "header cut", "a bit", "header", "not safetensors"])
def test_a_damaged_file_is_made_anew(tmp_path, how):
    whole = TextEmbedder(Letters().load, "f", tmp_path)(["a cube"])
    (file,) = tmp_path.iterdir()
    damage(file, how)
    encoder = Letters()
    again = TextEmbedder(encoder.load, "f", tmp_path)(["a cube"])
    assert encoder.encoded == ["a cube"]
    assert torch.equal(again["states"], whole["states"])
    assert TextCache(tmp_path, "f").read("a cube") is not None


def test_a_foreign_file_is_made_anew(tmp_path):
    import safetensors.torch

    cache = TextCache(tmp_path, "f")
    TextEmbedder(Letters().load, "f", tmp_path)(["a", "b"])
    os.replace(cache.path("b"), cache.path("a"))
    assert cache.read("a") is None
    safetensors.torch.save_file({"states": torch.zeros(2, 2)}, cache.path("a"))
    assert cache.read("a") is None
    cache.path("c").mkdir()
    assert cache.read("c") is None


def test_no_place_to_write_is_a_warning_once_and_the_run_goes_on(tmp_path):
    (tmp_path / "file").write_text("in the way")
    embedder = TextEmbedder(Letters().load, "f", tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="THREEDGEN_CACHE") as caught:
        rows = embedder(["a", "b"])
    assert len(caught) == 1
    assert rows["states"].shape == (2, 2, 2)


def test_the_folder_stays_within_its_limit_and_what_was_used_last_survives(tmp_path):
    rows = {"states": torch.zeros(1000)}
    size = 4000
    cache = TextCache(tmp_path, "f", limit=5 * size)
    for i, text in enumerate("abcdef"):
        cache.write(text, rows)
        os.utime(cache.path(text), (i, i))
    assert cache.read("a") is not None  # used, so now the latest
    cache.prune()
    kept = {text for text in "abcdef" if cache.path(text).exists()}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 5 * size
    assert kept == {"a", "d", "e", "f"}


def _fill(folder: str, texts: list[str]) -> None:
    torch.set_num_threads(1)
    embedder = TextEmbedder(Letters().load, "f", Path(folder))
    for text in texts:
        embedder([text])


def test_two_processes_may_fill_and_prune_one_folder(tmp_path):
    texts = [f"text {i}" for i in range(40)]
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_fill, args=(str(tmp_path), order)) for order in (texts, texts[::-1], texts)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    encoder = Letters()
    TextEmbedder(encoder.load, "f", tmp_path)(texts)
    assert encoder.loads == 0
    assert len(list(tmp_path.iterdir())) == 40


def test_the_folder_follows_the_platform_and_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("THREEDGEN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "threedgen" / "text"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "threedgen" / "text"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "threedgen" / "text"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "threedgen" / "text"
    monkeypatch.setenv("THREEDGEN_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here" / "text"
    monkeypatch.delenv("THREEDGEN_CACHE")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is None


# Ends of texts that an encoder does not read.


def test_a_cut_text_is_a_warning_also_when_it_comes_from_the_disk(tmp_path):
    for _ in range(2):
        embedder = TextEmbedder(Letters(reads=6).load, "f", tmp_path)
        with pytest.warns(UserWarning, match="never reads") as caught:
            embedder(["short", "a cube, front view", "a cube, back view"])
        (message,) = [str(item.message) for item in caught]
        assert '", front view" at the end of "a cube, front view" (and the ends of 1 more texts)' in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder(["a cube, front view", "short"])  # reported already


@pytest.mark.parametrize("parts", [clip_parts, t5_parts])
def test_states_and_what_is_unread_of_the_encoders_of_transformers(parts):
    tokenizer, encoder = parts()
    encoder.eval()
    long = "a cube " * 40
    length = 20
    with torch.no_grad():
        result = clip_or_t5_states(tokenizer, encoder, ["a cube", long, ""], length, masked=True)
        alone = clip_or_t5_states(tokenizer, encoder, ["a cube"], length, masked=True)
    assert result["states"].shape == (3, length, 16)
    torch.testing.assert_close(result["states"][:1], alone["states"])
    whole, unread, none = result[UNREAD].tolist()
    assert whole == none == 0
    # The part that was read gives the same tokens (except the last, of a word cut in two), and not more fits.
    read = long[: len(long) - unread]
    again, rest = tokens_of(tokenizer, [read], length)
    assert rest.item() == 0
    cut = tokens_of(tokenizer, [long], length)[0]
    assert torch.equal(again.input_ids[:, :-2], cut.input_ids[:, :-2])
    assert tokens_of(tokenizer, [long[: len(read) + 1]], length)[1].item() > 0


def test_texts_as_deepfloyd_reads_them():
    assert lower_case([" A Blue Cone ", "ÉTÉ"]) == ["a blue cone", "été"]
