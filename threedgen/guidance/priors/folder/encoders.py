"""The text encoders of each family of denoisers: which encoders, which of their layers, and how they are joined.

Each function returns a TextEmbedder with the rows that the adapters read: states [n, L, C] and, if the denoiser has
such an input, pooled [n, P]. The encoders are loaded for the first text that is not in the cache. Each function
raises UserError if the folder has encoders of another class.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder import files, weights
from threedgen.guidance.priors.folder.clip_text import WEIGHTS, ClipText
from threedgen.guidance.priors.folder.parts import PipelineParts
from threedgen.guidance.priors.folder.text import (
    UNREAD,
    Encode,
    TextEmbedder,
    clip_or_t5_states,
    lower_case,
    tokens_of,
)
from threedgen.guidance.priors.folder.text_cache import cache_folder
from threedgen.guidance.priors.folder.text_tokens import byte_pairs, has_byte_pairs, word_pieces

_CLIP_LENGTH = (
    77  # tokens that CLIP and DeepFloyd IF were trained with; a tiny encoder may have fewer positions
)
_T5_LENGTH = {"sd3": 256, "flux": 512}
_WORTH_STORING = (
    50_000_000  # number of weights above which loading the encoders takes longer than reading rows
)
_ONE_ENCODER = ("CLIPTextModel", "T5EncoderModel")


def one_encoder(parts: PipelineParts, pixels: bool) -> TextEmbedder:
    """The last states of CLIP or T5. pixels: as for DeepFloyd IF, with masked padding and in lower case."""
    _require(parts, {"text_encoder": _ONE_ENCODER})
    length = _length(parts, "text_encoder")
    masked = pixels or bool(parts.folder.config("text_encoder").get("use_attention_mask"))

    def load() -> Encode:
        if _is_plain(parts, length):
            return _plain_clip(parts, pixels, masked)
        tokenizer, encoder = parts.text_encoder()

        def encode(texts: list[str]) -> dict[str, Tensor]:
            words = lower_case(texts) if pixels else texts
            return clip_or_t5_states(tokenizer, encoder, words, length, masked)

        return encode

    return _embedder(parts, load, ["text_encoder", "tokenizer"], length, masked, pixels)


def _is_plain(parts: PipelineParts, length: int) -> bool:
    """Whether the encoder of a folder is read without transformers: one that `threedgen train prior` writes."""
    folder = parts.folder
    return (
        parts.lora is None
        and parts.folder.class_of("text_encoder") == "CLIPTextModel"
        and parts.folder.config("text_encoder").get("max_position_embeddings") == length
        and (folder.part("text_encoder") / WEIGHTS).is_file()
        and has_byte_pairs(folder.part("tokenizer"))
    )


def _plain_clip(parts: PipelineParts, pixels: bool, masked: bool) -> Encode:
    folder = parts.folder
    encoder = ClipText(folder.part("text_encoder"), parts.plan.encoder_device(parts.device), parts.dtype)
    tokens_of_texts = byte_pairs(folder.part("tokenizer"), encoder.length, encoder.words)

    def encode(texts: list[str]) -> dict[str, Tensor]:
        tokens = tokens_of_texts(lower_case(texts) if pixels else texts)
        read = tokens.read if masked else torch.ones_like(tokens.read)
        return {"states": encoder(tokens.ids, read)[0], UNREAD: tokens.unread}

    return encode


def picture_encoder(parts: PipelineParts, part: str, width: int | None) -> Any:
    """A CLIP image encoder with a projection to `width` numbers. Raises UserError if the part is another one."""
    _require(parts, {part: ("CLIPVisionModelWithProjection",)})
    found = parts.folder.config(part).get("projection_dim", 512)
    if found != width:
        raise UserError(
            f"prior '{parts.folder.path}' has an embedding of pictures of {found} numbers ({part}), and its UNet "
            f"reads {width}: they are of two models"
        )
    return parts.encoder(part)


def picture_states(parts: PipelineParts, part: str) -> Any:
    """A CLIP image encoder whose states are read. Raises UserError if the part is another one."""
    _require(parts, {part: ("CLIPVisionModel", "CLIPVisionModelWithProjection")})
    return parts.encoder(part)


def pooled_clip(parts: PipelineParts) -> TextEmbedder:
    """The last states of a CLIP with masked padding, and the state of its end token: states, pooled.

    Its tokens are those of a BertTokenizer.
    """
    if parts.lora is not None:
        raise UserError(
            f"prior '{parts.folder.path}' takes no low-rank changes, which are for Stable Diffusion and its "
            "family: leave lora out"
        )
    _require(parts, {"text_encoder": ("CLIPTextModel",), "tokenizer": ("BertTokenizer",)})

    def load() -> Encode:
        folder = parts.folder.path
        encoder = ClipText(folder / "text_encoder", parts.plan.encoder_device(parts.device), parts.dtype)
        tokens_of_texts = word_pieces(folder / "tokenizer", encoder.length, encoder.words)

        def encode(texts: list[str]) -> dict[str, Tensor]:
            tokens = tokens_of_texts(texts)
            states, pooled = encoder(tokens.ids, tokens.read)
            return {"states": states, "pooled": pooled, UNREAD: tokens.unread}

        return encode

    return _embedder(parts, load, ["text_encoder", "tokenizer"])


def long_t5(parts: PipelineParts, name: str, length: int, masked: bool = False) -> TextEmbedder:
    """CogVideoX and Wan: the last states of T5 or UMT5 (the class `name`) for texts padded to `length` tokens.

    masked: as for Wan, the padding is hidden from the encoder and zero in the rows, HTML entities are replaced by
    their characters, and repeated spaces are removed.
    """
    _require(parts, {"text_encoder": (name,)})

    def load() -> Encode:
        tokenizer, encoder = parts.text_encoder()

        def encode(texts: list[str]) -> dict[str, Tensor]:
            words = [" ".join(html.unescape(text).split()) for text in texts] if masked else texts
            answer = clip_or_t5_states(tokenizer, encoder, words, length, masked)
            if masked:
                read = tokens_of(tokenizer, words, length)[0].attention_mask.to(encoder.device)
                answer["states"] = answer["states"] * read[..., None]
            return answer

        return encode

    return _embedder(parts, load, ["text_encoder", "tokenizer"], length, masked)


def two_clips(parts: PipelineParts) -> TextEmbedder:
    """Stable Diffusion XL: the last states but one of both encoders, joined, and the projection of the second.

    With force_zeros_for_empty_prompt in the folder the rows of the empty text are zeros, as in the training.
    """
    _require(parts, {"text_encoder": ("CLIPTextModel",), "text_encoder_2": ("CLIPTextModelWithProjection",)})
    zeros = bool(parts.folder.index.get("force_zeros_for_empty_prompt"))

    def load() -> Encode:
        clips = _clips(parts)

        def encode(texts: list[str]) -> dict[str, Tensor]:
            results = clips(texts)
            if zeros:
                kept = torch.tensor([bool(text) for text in texts], device=results["states"].device)
                results["states"] = results["states"] * kept[:, None, None]
                results["pooled"] = results["pooled"] * kept[:, None]
            return results

        return encode

    return _embedder(parts, load, ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"], zeros)


def two_clips_and_t5(parts: PipelineParts, width: int) -> TextEmbedder:
    """Stable Diffusion 3: the last states but one of both CLIPs, padded to `width` channels, then those of T5
    (zeros if the folder has none).

    pooled: both projections, joined.
    """
    clip = ("CLIPTextModelWithProjection",)
    _require(parts, {"text_encoder": clip, "text_encoder_2": clip})
    has_t5 = parts.folder.class_of("text_encoder_3") is not None
    length = _T5_LENGTH["sd3"]

    def load() -> Encode:
        clips = _clips(parts, both_pooled=True)
        t5 = parts.text_encoder("_3") if has_t5 else None

        def encode(texts: list[str]) -> dict[str, Tensor]:
            results = clips(texts)
            states = F.pad(results["states"], (0, width - results["states"].shape[-1]))
            if t5 is None:
                last = states.new_zeros(len(texts), length, width)
            else:
                answer = clip_or_t5_states(*t5, texts, length, masked=False)
                last, results[UNREAD] = answer["states"].to(states), answer[UNREAD]
            return {**results, "states": torch.cat([states, last], dim=1)}

        return encode

    names = [name + end for name in ("text_encoder", "tokenizer") for end in ("", "_2", "_3")]
    return _embedder(parts, load, names, width, length)


def clip_and_t5(parts: PipelineParts) -> TextEmbedder:
    """FLUX: the last states of T5, and the pooled state of CLIP."""
    _require(parts, {"text_encoder": ("CLIPTextModel",), "text_encoder_2": ("T5EncoderModel",)})
    length = _T5_LENGTH["flux"]

    def load() -> Encode:
        clip, t5 = parts.text_encoder(), parts.text_encoder("_2")
        short = _length(parts, "text_encoder")

        def encode(texts: list[str]) -> dict[str, Tensor]:
            tokens, _ = tokens_of(clip[0], texts, short)
            pooled = clip[1](tokens.input_ids.to(clip[1].device)).pooler_output
            return {**clip_or_t5_states(*t5, texts, length, masked=False), "pooled": pooled}

        return encode

    return _embedder(parts, load, ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"], length)


def _clips(parts: PipelineParts, both_pooled: bool = False) -> Callable[[list[str]], dict[str, Tensor]]:
    """Two CLIP encoders in the way that SDXL and SD3 use them."""
    pairs = [(*parts.text_encoder(end), _length(parts, f"text_encoder{end}")) for end in ("", "_2")]

    def encode(texts: list[str]) -> dict[str, Tensor]:
        answers, unread = [], []
        for tokenizer, encoder, length in pairs:
            tokens, cut = tokens_of(tokenizer, texts, length)
            answers.append(encoder(tokens.input_ids.to(encoder.device), output_hidden_states=True))
            unread.append(cut)
        pooled = answers if both_pooled else answers[1:]
        return {
            "states": torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1),
            "pooled": torch.cat([answer.text_embeds for answer in pooled], dim=-1),
            UNREAD: torch.stack(unread).amin(dim=0),
        }

    return encode


def _embedder(
    parts: PipelineParts, load: Callable[[], Encode], names: list[str], *decisions: object
) -> TextEmbedder:
    """decisions: all values beside the files of the parts `names` that change the rows."""
    folders = [parts.folder.part(name) for name in names]
    lora = () if parts.lora is None else (*parts.lora.identity(),)
    name = files.fingerprint(folders, parts.dtype, *decisions, *lora)
    large = sum(weights.elements_of(folder) for folder in folders) >= _WORTH_STORING
    return TextEmbedder(load, name, cache_folder() if large else None, parts.device)


def _require(parts: PipelineParts, wanted: dict[str, tuple[str, ...]]) -> None:
    """Raises UserError unless the encoders are of the classes of this family."""
    for part, classes in wanted.items():
        found = parts.folder.class_of(part)
        if found not in classes:
            what = part.replace("_", " ")
            raise UserError(
                f"prior '{parts.folder.path}' is not supported, its {what} is {found}, not {' or '.join(classes)}"
            )


def _length(parts: PipelineParts, part: str) -> int:
    """The longest text in tokens: the number of positions of the encoder, whatever the tokenizer says."""
    config: dict[str, Any] = parts.folder.config(part)
    return min(_CLIP_LENGTH, config.get("max_position_embeddings") or _CLIP_LENGTH)
