"""The words of a text prior with an open vocabulary: BERT's word pieces, their meanings, and a small encoder.

A text is split into the 30,522 word pieces of BERT (Devlin et al. 2019), to which rare nouns such as "settee" may
be added whole. The row of a piece in the encoder's token embedding is what the sentence model says of a photo of
it, in 96 numbers, and is frozen: "kitty" begins near "cat" even if the prior never sees a kitty.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.atomic import replacing
from threedgen.training.word_texts import photo_of

MAX_TOKENS = 32
WIDTH = 96
SCALE = 0.3
"""Root of the mean square of a number of the table. A position begins at 0.02, so that the meaning prevails."""
KIN = 0.6
"""How far a word is moved to its kin; from 0.5 to 0.7 no difference was measured."""
PAD, START, END = 0, 101, 102  # [PAD], [CLS] and [SEP] in BERT's vocabulary
_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def read_vocabulary(path: Path) -> list[str]:
    """The pieces of a vocab.txt, the one of id 0 first."""
    return path.read_text(encoding="utf-8").splitlines()


def write_word_tokenizer(folder: Path, pieces: Sequence[str]) -> None:
    """Writes the files of a BertTokenizer (vocab.txt, tokenizer_config.json) into `folder`."""
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": MAX_TOKENS,
        "model_input_names": ["input_ids", "attention_mask"],
        **{f"{name}_token": piece for name, piece in _SPECIAL.items()},
    }
    with replacing(folder / "vocab.txt") as path:
        path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    with replacing(folder / "tokenizer_config.json") as path:
        path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def make_word_tokenizer(pieces: Sequence[str]) -> Any:
    """The tokenizer of transformers for these pieces, in lower case."""
    from transformers.models.bert.tokenization_bert import BertTokenizer

    make: Any = BertTokenizer  # its stubs know only the constructor from files
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return make(
        vocab=vocab,
        do_lower_case=True,
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": piece for name, piece in _SPECIAL.items()},
    )


def encode_words(
    tokenizer: Any, texts: Sequence[str], device: str = "cpu"
) -> tuple[Int[Tensor, "B 32"], Int[Tensor, "B 32"]]:
    """Token ids of texts, padded or cut to 32, and their mask (0 at padding), on `device`."""
    encoded = tokenizer(
        list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    return encoded["input_ids"].to(device), encoded["attention_mask"].to(device)


def piece_texts(pieces: Sequence[str]) -> list[str]:
    """What the sentence model reads for each piece: a photo of a whole word, the plain letters of the middle or the
    end of a word ("##ty") and of a mark such as "[CLS]"."""
    return [
        piece[2:]
        if piece.startswith("##") and len(piece) > 2
        else piece
        if piece[0] == "["
        else photo_of(piece)
        for piece in pieces
    ]


def with_kin(
    vectors: Float[Tensor, "n D"], kin: Sequence[Sequence[int]], share: float = KIN
) -> Float[Tensor, "n D"]:
    """The unit vectors of words, each moved to the mean of its kin by `share`.

    The sentence model knows rare words badly: alone it holds a hatchet for a torus. kin: for each word the rows of
    its synonyms and of the next wider words in `vectors`; a word without any stays.
    """
    moved = vectors.clone()
    for row, others in enumerate(kin):
        if others:
            moved[row] += share * vectors[list(others)].mean(0)
    return F.normalize(moved, dim=-1)


def compressed(
    vectors: Float[Tensor, "V D"], width: int = WIDTH, scale: float = SCALE
) -> Float[Tensor, "V {width}"]:
    """The first `width` principal components of vectors, centred, with the mean square scale^2. Neighbours keep
    their order: the components are not scaled one by one."""
    centred = (vectors - vectors.mean(0)).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    rows = centred @ axes.flip(1)[:, :width]
    return (scale * rows / rows.square().mean().sqrt()).float()


def make_word_encoder(table: Float[Tensor, "V 96"], layers: int = 2) -> Any:
    """A small CLIP text model, with random weights, whose token embedding is `table` and frozen.

    pooler_output is the state at the first [SEP]. Its attention is causal, so nothing behind a token changes it.
    """
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    count, width = table.shape
    encoder: Any = CLIPTextModel._from_config(
        CLIPTextConfig(
            vocab_size=count,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=PAD,
        ),
        attn_implementation="eager",
    )
    with torch.no_grad():
        encoder.get_input_embeddings().weight.copy_(table)
    return freeze_table(encoder)


def read_word_encoder(folder: Path) -> Any:
    """The encoder in a folder text_encoder/ that its save_pretrained wrote, in float32, with its table frozen."""
    from transformers.models.clip.modeling_clip import CLIPTextModel

    load: Any = CLIPTextModel.from_pretrained
    encoder = load(str(folder), local_files_only=True, use_safetensors=True, attn_implementation="eager")
    return freeze_table(encoder.float())


def freeze_table(encoder: Any) -> Any:
    """The encoder itself, whose token embedding no longer asks for gradients."""
    encoder.get_input_embeddings().weight.requires_grad_(False)
    return encoder


def pooled(
    encoder: Any, tokens: Int[Tensor, "B L"], mask: Int[Tensor, "B L"] | None = None
) -> Float[Tensor, "B 96"]:
    """The states at the first [SEP] of texts. mask: as of `encode_words`; it changes nothing, as the padding comes
    last, and is there for encoders that need it."""
    return encoder(tokens, attention_mask=mask).pooler_output
