"""A tiny tokenizer for the embedded priors, in the format of CLIP.

It is byte-level BPE over the 256 bytes (alone and at the end of a word) with merges for the words of the shape
world. Any text can be read; an unknown word becomes its letters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from threedgen.datasets.shapes import CLASSES, COLORS

MAX_TOKENS = 77
_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_OTHER_WORDS = (
    *("a", "an", "on", "of", "the", "photo", "3d", "model", "rendering", "front", "side", "back", "overhead"),
    *(
        "view",
        "moving",
        "spinning",
        "bouncing",
        "growing",
        "falling",
        "swaying",
        "left",
        "right",
        "up",
        "down",
    ),
    "still",
)


def _byte_symbols() -> list[str]:
    """The printable characters that stand for the 256 bytes in CLIP."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def vocabulary(more: Sequence[str] = ()) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token ids and merges: bytes, bytes at the end of a word, a chain of merges for each known word, and the marks
    of start and end.

    more: further known words.
    """
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + _WORD_END for symbol in symbols)]
    merges: list[tuple[str, str]] = []
    for word in (*COLORS, *CLASSES, *_OTHER_WORDS, *more):
        pieces = [*word[:-1], word[-1] + _WORD_END]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
            pieces[:2] = ["".join(pair)]
    tokens = [*dict.fromkeys(tokens), _START, _END]
    return {token: index for index, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path, more: Sequence[str] = ()) -> None:
    """Writes the files of a CLIPTokenizer (vocab.json, merges.txt, tokenizer_config.json) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = vocabulary(more)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": _START,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": _END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def make_tokenizer(more: Sequence[str] = ()) -> Any:
    """The tokenizer of transformers for `vocabulary(more)`."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    vocab, merges = vocabulary(more)
    make: Any = CLIPTokenizer  # its stubs know only the constructor from files
    return make(vocab=vocab, merges=merges, bos_token=_START, eos_token=_END, unk_token=_END, pad_token=_END)


def encode(tokenizer: Any, captions: list[str], device: str) -> tuple[Tensor, Tensor]:
    """Padded token ids [B, 77] and their mask, on `device`."""
    encoded = tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    return encoded["input_ids"].to(device), encoded["attention_mask"].to(device)
