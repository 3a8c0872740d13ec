"""Vectors of captions by the frozen text encoder of a folder, each caption encoded once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError

_MOST = 200_000  # captions in memory


class TextReader:
    """The states of captions, and those of their end tokens.

    folder: one that holds text_encoder/ and tokenizer/, such as that of `benchmarks/text_pretraining.py` or of a
    text prior.

    Raises UserError for another folder.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoTokenizer
        from transformers.models.clip.modeling_clip import CLIPTextModel

        if not (folder / "text_encoder" / "config.json").is_file():
            raise UserError(
                f"'{folder}' has no text_encoder: name the folder of a text encoder or of a text prior"
            )
        self.folder, self.device = folder, device
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder / "tokenizer"), local_files_only=True, trust_remote_code=False
        )
        self._encoder: Any = CLIPTextModel.from_pretrained(
            str(folder / "text_encoder"), local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        self._encoder.requires_grad_(False).eval().to(device)
        self.width: int = self._encoder.config.hidden_size
        self.length: int = self._encoder.config.max_position_embeddings
        self._known: dict[str, Tensor] = {}

    def save_encoder(self, folder: Path) -> None:
        """Writes the text encoder in half precision."""
        copy.deepcopy(self._encoder).half().save_pretrained(folder)

    @torch.no_grad()
    def encode(self, texts: list[str]) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B D"]]:
        """The last states of texts, and the states of their end tokens."""
        tokens = self._tokenizer(
            texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).to(self.device)
        result = self._encoder(tokens.input_ids, attention_mask=tokens.attention_mask)
        return result.last_hidden_state, result.pooler_output

    def vectors(self, texts: list[str]) -> Float[Tensor, "B D"]:
        """The states of the end tokens of texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) > _MOST:
            self._known.clear()
            new = list(dict.fromkeys(texts))
        if new:
            self._known.update(zip(new, self.encode(new)[1], strict=True))
        return torch.stack([self._known[text] for text in texts])
