"""What a single file lacks, found in pipeline folders: a named one, those beside the file, the hub's cache."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.files import PipelineFolder, read_json

OPTION = "--tokenizer"
_FAMILY = ("cross_attention_dim", "joint_attention_dim", "in_channels")
_CLIP_VOCABULARY = "models--openai--clip-vit-large-patch14"
_MARKS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
_FILLER = "!"  # what OpenCLIP fills a text up with


@dataclass
class Companions:
    """file: that lacks something. named: the folder that the user names for it, or "". made: the configs of the
    parts that the file has, by their names. Raises UserError if `named` is no folder."""

    file: Path
    named: str
    made: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if self.named and not Path(self.named).expanduser().is_dir():
            raise UserError(
                f"there is no folder '{self.named}' of a tokenizer: name a pipeline folder or one with vocab.json"
            )

    def parts(self, wanted: Sequence[str], index: dict[str, Any], family: str) -> dict[str, Path]:
        """The folder of each wanted part that is neither in `index` nor a tokenizer of CLIP that can be made.

        Their classes are added to `index`. Raises UserError, with their names, if some are nowhere.
        """
        places: dict[str, Path] = {}
        absent = []
        for name in wanted:
            if name in index or (name.startswith("tokenizer") and self.vocabulary(name, index) is not None):
                continue
            found = next(self._relatives_with(name), None)
            if found is None:
                absent.append(name)
                continue
            index[name], places[name] = found.index[name], found.part(name)
        if absent:
            raise UserError(
                f"prior file '{self.file}' is {family} and lacks {', '.join(absent)}: name a pipeline folder of "
                f"this family that has it with {OPTION} FOLDER, or put one beside the file"
            )
        return places

    def vocabulary(self, name: str, index: Mapping[str, Any]) -> Path | None:
        """The folder with the vocabulary of the tokenizer `name` if that is one of CLIP, which is the same for all
        models: only what fills a text up differs, and follows from the encoder."""
        encoder = name.replace("tokenizer", "text_encoder")
        words = self.made.get(encoder, {}).get("vocab_size")
        if words is None or not str(index[encoder][1]).startswith("CLIP"):
            return None
        return next((place for place in self._vocabularies if _most(place) + 1 == words), None)

    def tokenizer(self, name: str, index: Mapping[str, Any]) -> dict[str, str] | None:
        """The files of the tokenizer `name` by their names, made of its vocabulary; None if it is not made."""
        place = self.vocabulary(name, index)
        if place is None:
            return None
        words, merges = _words(place)
        encoder = self.made[name.replace("tokenizer", "text_encoder")]
        filler = _FILLER if encoder["hidden_act"] == "gelu" and _FILLER in words else _MARKS["eos_token"]
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": encoder["max_position_embeddings"],
            **_MARKS,
            "pad_token": filler,
        }
        return {
            "tokenizer_config.json": json.dumps(config, indent=1),
            "vocab.json": json.dumps(words, ensure_ascii=False),
            "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        }

    def _relatives_with(self, name: str) -> Iterator[PipelineFolder]:
        """The pipeline folders that have a part which fits the denoiser of the file."""
        for folder in self._pipelines:
            denoiser = "unet" if "unet" in self.made else "transformer"
            ours = self.made[denoiser]
            if folder.class_of(denoiser) != ours["_class_name"] or folder.class_of(name) is None:
                continue
            theirs = folder.config(denoiser)
            if all(theirs.get(key) == ours.get(key) for key in _FAMILY) and folder.part(name).is_dir():
                yield folder

    @cached_property
    def _pipelines(self) -> list[PipelineFolder]:
        return [PipelineFolder(place) for place in self._places if (place / "model_index.json").is_file()]

    @cached_property
    def _vocabularies(self) -> list[Path]:
        """Folders with the vocabulary of a tokenizer of CLIP: the first ones are those that the user means."""
        cached = (_hub_cache() / _CLIP_VOCABULARY / "snapshots").glob("[!.]*")
        inner = [place / name for place in self._places for name in ("tokenizer", "tokenizer_2")]
        return [place for place in (*self._places, *inner, *sorted(cached)) if _has_words(place)]

    @cached_property
    def _places(self) -> list[Path]:
        named = [Path(self.named).expanduser()] if self.named else []
        here = self.file.resolve().parent
        beside = sorted(place for place in here.glob("[!.]*") if place.is_dir())
        return [*named, here, *beside, *sorted(_hub_cache().glob("models--*/snapshots/[!.]*"))]


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _has_words(place: Path) -> bool:
    if (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
        return True
    if not (place / "tokenizer.json").is_file():
        return False
    model = read_json(place / "tokenizer.json").get("model")
    return isinstance(model, dict) and model.get("type") == "BPE" and isinstance(model.get("vocab"), dict)


def _words(place: Path) -> tuple[dict[str, int], list[str]]:
    """The words with their numbers, and the merges. Raises UserError for a damaged file."""
    if (place / "vocab.json").is_file():
        lines = (place / "merges.txt").read_text(encoding="utf-8").splitlines()
        return read_json(place / "vocab.json"), [
            line for line in lines if line and not line.startswith("#version")
        ]
    model = read_json(place / "tokenizer.json")["model"]
    merges = model.get("merges") or []
    return model["vocab"], [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _most(place: Path) -> int:
    return max((number for number in _words(place)[0].values() if isinstance(number, int)), default=0)
