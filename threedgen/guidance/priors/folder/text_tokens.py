"""The tokens of texts, by the library behind transformers' fast tokenizers, whose import takes no time."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import cache as once
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.files import first_line, read_json

_CONFIG = "tokenizer_config.json"
# What Radford et al. 2021 (arXiv:2103.00020) take as words: the marks of a text, English endings, letters, single
# digits, and other signs.
_WORD = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_LONGEST = 32  # tokens of a word
_MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")


class Tokens(NamedTuple):
    """The tokens of texts. read: which of them are no padding. unread: characters at the end of each text that do
    not fit into the length."""

    ids: Int[Tensor, "B L"]
    read: Bool[Tensor, "B L"]
    unread: Int[Tensor, " B"]


class Tokenizer:
    """Texts to tokens, each text padded or cut to `length` of them.

    make: returns a tokenizer of the library. pad: its token for padding. words: number of tokens that the encoder
    knows. folder: of its files, which are at fault if anything fails: then UserError is raised.
    """

    def __init__(self, make: Callable[[], Any], pad: str, length: int, words: int, folder: Path) -> None:
        try:
            self._tokenizer = make()
            pad_id = self._tokenizer.token_to_id(pad)
            if pad_id is None:
                raise ValueError(f"{pad} is not in its vocabulary")
            most = max(self._tokenizer.get_vocab(with_added_tokens=True).values())
            if most >= words:
                raise ValueError(f"it has a token {most}, and the text encoder knows {words} tokens")
            self._tokenizer.enable_padding(pad_id=pad_id, pad_token=pad, length=length)
            self._tokenizer.enable_truncation(length)
        except Exception as error:  # the library raises exceptions of the most general kind
            raise UserError(
                f"prior part '{folder}' cannot be loaded ({first_line(error)}): copy it again"
            ) from error

    def __call__(self, texts: Sequence[str]) -> Tokens:
        found = self._tokenizer.encode_batch(list(texts))
        unread = [
            len(text[max(end for _, end in item.offsets) :].lstrip()) if item.overflowing else 0
            for text, item in zip(texts, found, strict=True)
        ]
        read = torch.tensor([item.attention_mask for item in found], dtype=torch.bool)
        return Tokens(torch.tensor([item.ids for item in found]), read, torch.tensor(unread))


def reads_words(folder: Path) -> Callable[[str], bool]:
    """Whether the vocab.txt of a folder has a word, whole or as a stem with an ending: in two pieces at most.

    Of a word with marks such as a hyphen this is asked of each part. The file is read when the first word is asked:
    then UserError is raised if it is damaged.
    """

    @once
    def pieces() -> Tokenizer:
        return word_pieces(folder, _LONGEST, sys.maxsize)

    def reads(word: str) -> bool:
        parts = re.findall(r"[^\W_]+", word)
        # The tokens of a text begin and end with a mark of their own.
        return all(count - 2 <= 2 for count in pieces()(parts).read.sum(1).tolist())

    return reads


def word_pieces(folder: Path, length: int, words: int) -> Tokenizer:
    """That of the vocab.txt of a folder: transformers' BertTokenizer (Devlin et al. 2019, arXiv:1810.04805).

    words: number of tokens that the encoder knows. Raises UserError for damaged files.
    """
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    config = read_json(folder / _CONFIG)
    lower = bool(config.get("do_lower_case", True))
    pad = str(config.get("pad_token", "[PAD]"))
    return Tokenizer(
        lambda: BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=lower), pad, length, words, folder
    )


def has_byte_pairs(folder: Path) -> bool:
    """Whether `byte_pairs` reads a folder: one with the files that `threedgen train prior` writes, and no more."""
    config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    plain = all(isinstance(config.get(name), str) for name in _MARKS)
    others = set(config) - {*_MARKS, "tokenizer_class", "model_max_length"}
    return (
        plain
        and not others
        and config.get("tokenizer_class") == "CLIPTokenizer"
        and {file.name for file in folder.iterdir()} == {_CONFIG, "vocab.json", "merges.txt"}
    )


def byte_pairs(folder: Path, length: int, words: int) -> Tokenizer:
    """That of the vocab.json and merges.txt of a folder: transformers' CLIPTokenizer.

    words: number of tokens that the encoder knows. Raises UserError for damaged files.
    """
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Pipeline
    from tokenizers.models import BPE

    config = read_json(folder / _CONFIG)
    start, end, unknown, pad = (str(config[name]) for name in _MARKS)

    def make() -> Any:
        vocabulary, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        model = BPE(
            vocabulary, merges, unk_token=unknown, continuing_subword_prefix="", end_of_word_suffix="</w>"
        )
        made = Pipeline(model)
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
        words = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        made.add_special_tokens([AddedToken(mark, special=True) for mark in (start, end, unknown, pad)])
        made.post_processor = processors.RobertaProcessing(
            (end, vocabulary[end]), (start, vocabulary[start]), trim_offsets=False, add_prefix_space=False
        )
        return made

    return Tokenizer(make, pad, length, words, folder)
