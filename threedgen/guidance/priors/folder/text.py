"""Texts to the tensors that a denoiser reads: each distinct text is encoded once, and may be stored on disk."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Blend, Text
from threedgen.guidance.priors.folder.text_cache import Rows, TextCache

Encode = Callable[[list[str]], Mapping[str, Tensor]]

UNREAD = "unread"
"""Name of the one optional result of an `Encode` that no denoiser reads: [n], the number of characters at the end
of each text that no encoder read."""

_BATCH = 16  # texts per pass of the encoder: beside T5-XXL a whole library of prompts would not fit at once


class TextEmbedder:
    """Text -> named encoder results, each distinct text encoded once.

    The encoder can be far larger than the denoiser (T5-XXL: 4.8 billion parameters), so it is loaded only for a
    text that is neither in memory nor on disk, and may be released once all texts of a run are encoded. It runs
    in this process, and its exceptions are raised here unchanged.

    load:        () -> encode; encode(texts) -> name -> [n, ...], floating point, one row per text in their order,
                 all rows of a name with the same shape. The result named UNREAD is not returned but leads to a
                 warning.
    fingerprint: everything beside the text that decides the rows: the files of the encoder, its precision, the
                 length that texts are padded to. Rows on disk are used only under the same fingerprint.
    cache_dir:   folder in which rows outlive the process, see TextCache; None: none (if encoding costs less than
                 reading a file).
    device:      device of the rows between calls.
    """

    def __init__(
        self,
        load: Callable[[], Encode],
        fingerprint: str,
        cache_dir: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._load = load
        self._encode: Encode | None = None
        self._cache = None if cache_dir is None else TextCache(cache_dir, fingerprint)
        self._device = torch.device(device)
        self._rows: dict[str, Rows] = {}

    def __call__(self, texts: Sequence[Text]) -> dict[str, Tensor]:
        """name -> [B, ...], one row per text. A Blend is the weighted sum of the rows of its texts, in float32.

        Raises what the encoder raises, and UserError if a row has numbers that are not finite.
        """
        blends = [text if isinstance(text, Blend) else Blend((text,), (1.0,)) for text in texts]
        self._know([text for blend in blends for text in blend.texts])
        rows = [self._mixed(blend) for blend in blends]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def fresh(self) -> TextEmbedder:
        """Another one for the same encoder that knows nothing but the empty text, as after loading a prior."""
        other = copy.copy(self)
        other._rows = {text: rows for text, rows in self._rows.items() if text == ""}
        return other

    def release(self) -> None:
        """Remove the encoder from memory; it is loaded again for the next new text."""
        self._encode = None

    def _mixed(self, blend: Blend) -> Rows:
        if len(blend.texts) == 1 and blend.shares == (1.0,):
            return self._rows[blend.texts[0]]
        weighted = [(share, self._rows[text]) for text, share in zip(blend.texts, blend.shares, strict=True)]
        first = weighted[0][1]
        # Half precision would lose the difference between the embeddings of two views.
        return {
            name: torch.stack([share * row[name].float() for share, row in weighted]).sum(0).to(first[name])
            for name in first
        }

    def _know(self, texts: Sequence[str]) -> None:
        """Bring the rows of all `texts` into memory, from the disk or else from the encoder."""
        absent = [text for text in dict.fromkeys(texts) if text not in self._rows]
        unread: dict[str, int] = {}
        new = []
        for text in absent:
            rows = None if self._cache is None else self._cache.read(text)
            if rows is None:
                new.append(text)
            else:
                unread[text] = self._keep(text, rows)
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            for text, rows in zip(batch, self._encoded(batch), strict=True):
                unread[text] = self._keep(text, rows)
                if self._cache is not None:
                    self._cache.write(text, rows)
        if new and self._cache is not None:
            self._cache.prune()
        _warn_of_cuts({text: count for text, count in unread.items() if count})

    @torch.no_grad()
    def _encoded(self, texts: list[str]) -> list[Rows]:
        if self._encode is None:
            self._encode = self._load()
        results = dict(self._encode(texts))
        for name, values in results.items():
            finite = values.isfinite().reshape(len(texts), -1).all(dim=1)
            if not bool(finite.all()):
                text = texts[int(finite.int().argmin())]
                raise UserError(
                    f"the text encoder's '{name}' for {_quoted(text)} are not finite numbers: "
                    "use a prior dtype with a wider range (bfloat16 or float32)"
                )
        # Copies, so that a row does not keep the memory of its batch and can be saved by itself.
        return [
            {name: values[i].detach().clone().contiguous() for name, values in results.items()}
            for i in range(len(texts))
        ]

    def _keep(self, text: str, rows: Rows) -> int:
        """Store the rows of a text in memory; returns how many of its last characters were not read."""
        unread = rows.get(UNREAD)
        self._rows[text] = {name: row.to(self._device) for name, row in rows.items() if name != UNREAD}
        return 0 if unread is None else int(unread)


def clip_or_t5_states(
    tokenizer: Any, encoder: Any, words: Sequence[str], length: int, masked: bool
) -> dict[str, Tensor]:
    """The last hidden states of a text encoder of transformers: states [n, length, C], unread [n].

    length: number of tokens that each text is padded or cut to. masked: hide the padding from the encoder, as
    DeepFloyd IF does and Stable Diffusion does not.
    """
    tokens, unread = tokens_of(tokenizer, words, length)
    tokens = tokens.to(encoder.device)
    states = encoder(tokens.input_ids, attention_mask=tokens.attention_mask if masked else None)[0]
    return {"states": states, UNREAD: unread}


def tokens_of(tokenizer: Any, words: Sequence[str], length: int) -> tuple[Any, Tensor]:
    """The tokens of each text, padded or cut to `length`, and the number of characters that are cut off, [n]."""
    tokens = tokenizer(
        list(words), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return tokens, torch.tensor([_unread(tokenizer, text, length) for text in words])


def lower_case(texts: Sequence[str]) -> list[str]:
    """The texts in the form that DeepFloyd IF was trained with."""
    return [text.lower().strip() for text in texts]


def _unread(tokenizer: Any, text: str, length: int) -> int:
    """Number of characters after the longest beginning of `text` that fits, by bisection: not every tokenizer tells
    where in the text its tokens lie."""

    def fits(count: int) -> bool:
        return len(tokenizer(text[:count], truncation=False, verbose=False).input_ids) <= length

    if fits(len(text)):
        return 0
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return len(text) - low


def _warn_of_cuts(unread: Mapping[str, int]) -> None:
    """One warning for all texts of a call that were cut, because the words for the view are at their ends."""
    if not unread:
        return
    text, count = next(iter(unread.items()))
    others = f" (and the ends of {len(unread) - 1} more texts)" if len(unread) > 1 else ""
    warnings.warn(
        f"the text encoder stops before the end of a text: it never reads {_quoted(text[-count:])} "
        f"at the end of {_quoted(text)}{others}; shorten the prompt",
        stacklevel=4,
    )


def _quoted(text: str, limit: int = 80) -> str:
    """`text` in quotes on one line, without its middle if it is long."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return json.dumps(text, ensure_ascii=False)


def no_text() -> TextEmbedder:
    """For priors that read no text: every text is the same row of zeros."""

    def unread(texts: list[str]) -> dict[str, Tensor]:
        return {"states": torch.zeros(len(texts), 1)}

    return TextEmbedder(lambda: unread, "")
