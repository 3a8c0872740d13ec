"""Prompt debiasing: words that contradict a view are removed from the text of that view.

For the text "a smiling dog, back view" a prior paints a smile, and so a second face. Removing such words view by
view is the prompt debiasing of Hong et al. 2023, "Debiasing Scores and Prompts of 2D Diffusion for View-consistent
Text-to-3D Generation" (D-SDS).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder import libraries
from threedgen.guidance.prompting.prompts import SIDES

Span = tuple[int, int]

# Phrases that fit only some views, and these views. Whole words in upper or lower case; of two phrases with the
# same beginning the longer is matched. No phrase names a thing or a place ("front", "on its back", "top hat"),
# because removing it would break the sentence.
_FACE = ("front", "side")
PHRASES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("front view of", "front view", "frontal view of", "frontal view", "frontal"), ("front",)
    ),
    **dict.fromkeys(("seen from the front", "viewed from the front", "from the front"), ("front",)),
    **dict.fromkeys(("facing the camera", "facing the viewer", "facing forward", "front-facing"), ("front",)),
    **dict.fromkeys(("looking at the camera", "looking at the viewer", "looking at you"), ("front",)),
    **dict.fromkeys(("smiling", "grinning", "smirking", "frowning", "winking", "pouting", "laughing"), _FACE),
    **dict.fromkeys(
        ("with a smile", "with a big smile", "with a grin", "with a big grin", "with a frown"), _FACE
    ),
    **dict.fromkeys(("a portrait of", "portrait of", "a headshot of", "headshot of", "headshot"), _FACE),
    **dict.fromkeys(("side view of", "side view", "profile view of", "profile view"), ("side",)),
    **dict.fromkeys(("seen from the side", "viewed from the side", "from the side"), ("side",)),
    **dict.fromkeys(("side profile", "in profile"), ("side",)),
    **dict.fromkeys(("back view of", "back view", "rear view of", "rear view"), ("back",)),
    **dict.fromkeys(("seen from behind", "viewed from behind", "from behind"), ("back",)),
    **dict.fromkeys(("seen from the back", "viewed from the back", "from the back"), ("back",)),
    **dict.fromkeys(("facing away from the camera", "facing away"), ("back",)),
    **dict.fromkeys(
        ("top view of", "top view", "top-down view of", "top-down view", "top-down"), ("overhead",)
    ),
    **dict.fromkeys(("overhead view of", "overhead view", "aerial view of", "aerial view"), ("overhead",)),
    **dict.fromkeys(("bird's-eye view of", "bird's-eye view", "bird's eye view of"), ("overhead",)),
    **dict.fromkeys(("bird's eye view", "seen from above", "viewed from above"), ("overhead",)),
}
_PHRASE = re.compile(
    r"(?<![\w-])(?:" + "|".join(map(re.escape, sorted(PHRASES, key=len, reverse=True))) + r")(?![\w-])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Debiased:
    """A prompt for each of prompts.SIDES, and the words that were removed from it (only for sides with such
    words)."""

    prompts: Mapping[str, str]
    dropped: Mapping[str, tuple[str, ...]]

    def report(self) -> str:
        """The removed words and their views, in one line."""
        sides: dict[str, list[str]] = {}
        for side, words in self.dropped.items():
            for word in dict.fromkeys(words):
                sides.setdefault(word, []).append(side)
        removed = [
            f"{json.dumps(word, ensure_ascii=False)} ({', '.join(views)})" for word, views in sides.items()
        ]
        return f"debias removes words from the prompt for some views: {'; '.join(removed)}"


def debiaser(how: str) -> Callable[[str], Debiased]:
    """The rule that `debias` names in a recipe: "" (nothing is removed), words, or the folder of a model.

    Raises UserError for anything else.
    """
    if not how:
        return lambda prompt: without(prompt, {})
    if how == "words":
        return by_words
    folder = Path(how).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"debias '{how}' is neither 'words' nor a folder with a masked language model (config.json, "
            "model.safetensors and tokenizer files, as save_pretrained of transformers writes them)"
        )
    return MaskedLanguageModel(folder)


def by_words(prompt: str) -> Debiased:
    """Removes from the text of each side those of PHRASES that fit only other sides."""
    found = [(match.span(), PHRASES[match[0].lower()]) for match in _PHRASE.finditer(prompt)]
    return without(prompt, {side: [span for span, fits in found if side not in fits] for side in SIDES})


class MaskedLanguageModel:
    """Debiasing by a BertForMaskedLM: a word is removed if the name of the view is more probable without it.

    The rule of `use_prompt_debiasing` in threestudio: p(view | prompt) is the probability that the model gives to
    the name of the view at [MASK] in "This image is depicting a [MASK] view of PROMPT", among the four names. A
    word is removed from the text of a view if p(view | prompt) < 0.95 (p(view | prompt) + p(view | prompt without
    it)) / 2.

    folder: as save_pretrained writes it, with safetensors. The model is loaded for each prompt and then released.
    """

    _THRESHOLD = 0.95
    _BATCH = 16  # sentences per pass

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, prompt: str) -> Debiased:
        words = [match.span() for match in re.finditer(r"\S+", prompt)]
        variants = [prompt, *(_cut(prompt, [span]) for span in words)]
        whole, *shorter = self._views_named(variants)
        spans = {
            side: [
                span
                for span, without_it in zip(words, shorter, strict=True)
                if whole[i] < self._THRESHOLD * (whole[i] + without_it[i]) / 2.0
            ]
            for i, side in enumerate(SIDES)
        }
        return without(prompt, spans)

    def _views_named(self, texts: list[str]) -> list[list[float]]:
        """For each text the probabilities of SIDES at [MASK], which sum to 1."""
        import torch

        tokenizer, model = self._load()
        names = tokenizer.convert_tokens_to_ids(list(SIDES))
        mask = tokenizer.mask_token_id
        unknown = [side for side, name in zip(SIDES, names, strict=True) if name == tokenizer.unk_token_id]
        if unknown or mask is None:
            raise UserError(
                f"the debias model '{self._folder}' cannot name views, because it does not know "
                f"{repr(unknown[0]) if unknown else 'a [MASK] token'}: use an English BertForMaskedLM"
            )
        sentences = [f"This image is depicting a {tokenizer.mask_token} view of {text}" for text in texts]
        result: list[list[float]] = []
        with torch.no_grad():
            for start in range(0, len(sentences), self._BATCH):
                batch = sentences[start : start + self._BATCH]
                length = model.config.max_position_embeddings
                tokens = tokenizer(
                    batch, padding=True, truncation=True, max_length=length, return_tensors="pt"
                )
                logits = model(**tokens).logits.float()
                # The first mask, because a prompt may contain the word [MASK] itself.
                first = (tokens.input_ids == mask).int().argmax(dim=1)
                chosen = logits[torch.arange(len(batch)), first][:, names]
                result += torch.softmax(chosen, dim=1).tolist()
        return result

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoTokenizer, BertForMaskedLM

        if not list(self._folder.glob("*.safetensors")):
            raise UserError(
                f"the debias model '{self._folder}' has no safetensors weights: convert it with "
                "save_pretrained(..., safe_serialization=True)"
            )

        def load_tokenizer() -> Any:
            return AutoTokenizer.from_pretrained(
                str(self._folder), local_files_only=True, trust_remote_code=False
            )

        try:
            with libraries.quiet():
                tokenizer = libraries.or_user_error(load_tokenizer, self._folder)
            model = libraries.load_model(BertForMaskedLM, self._folder, "dtype", torch.float32)
        except UserError as error:
            raise UserError(f"debias model: {error}") from error
        return tokenizer, model.eval()


def without(prompt: str, spans: Mapping[str, Iterable[Span]]) -> Debiased:
    """The prompt for each side without some spans. A side that would lose all its words keeps them all."""
    prompts, dropped = {}, {}
    for side in SIDES:
        gone = list(spans.get(side, ()))
        shorter = _cut(prompt, gone)
        if gone and any(character.isalnum() for character in shorter):
            dropped[side] = tuple(prompt[start:end] for start, end in gone)
            prompts[side] = shorter
        else:
            prompts[side] = prompt
    return Debiased(prompts, dropped)


def _cut(text: str, spans: Iterable[Span]) -> str:
    """`text` without the spans, and without the space and the comma that each would leave behind."""
    for start, end in sorted(spans, reverse=True):
        left, right = text[:start].rstrip(), text[end:].lstrip()
        if left.endswith(",") and (not right or right[0] in ",.;:!?"):
            left = left[:-1].rstrip()
        elif not left:
            right = right.lstrip(",").lstrip()
        glue = " " if left and right and right[0] not in ",.;:!?" else ""
        text = left + glue + right
    return text
