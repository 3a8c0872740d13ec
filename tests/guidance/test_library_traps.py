"""What version 5 of transformers does without a word, seen from the folders that people have."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_weight_sets import only
from tiny_pipelines import transformers

from threedgen.guidance.priors.load import load_folder

TEXTS = ["a red cube, on grass", "Blue", ""]


def states(folder: Path) -> torch.Tensor:
    prior: Any = load_folder(folder)
    return prior.text(TEXTS)["states"]


def test_a_tokenizer_of_two_files_reads_as_that_of_one(pipelines, folder):
    """The layout of Stable Diffusion 1.5; its vocabulary given by keyword makes a tokenizer with other numbers."""
    place = folder / "tokenizer"
    vocabulary = json.loads((place / "tokenizer.json").read_text())["model"]["vocab"]
    for file in place.iterdir():
        file.unlink()
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    (place / "merges.txt").write_text("#version: 0.2\n")
    mark = {
        "__type": "AddedToken",
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
    }
    start, end = ({**mark, "content": text} for text in ("<|startoftext|>", "<|endoftext|>"))
    config = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": "<|endoftext|>"}
    config |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    torch.testing.assert_close(states(folder), states(pipelines["sd1"]))


@pytest.mark.parametrize("outer", [True, False])
def test_the_names_of_a_text_encoder_with_and_without_the_outer_one(pipelines, folder, outer):
    """Newer versions save without the name of the inner model, all published folders have it."""
    file = folder / "text_encoder" / "model.safetensors"
    short = {name.removeprefix("text_model."): value for name, value in load_file(file).items()}
    ids = {"embeddings.position_ids": torch.arange(77)[None]} if outer else {}  # of older versions
    start = "text_model." if outer else ""
    save_file({start + name: value for name, value in (short | ids).items()}, file, {"format": "pt"})
    torch.testing.assert_close(states(folder), states(pipelines["sd1"]))


def test_both_libraries_load_in_the_precision_that_is_asked_for(folder, monkeypatch):
    """By default one takes float32, the other that of the file."""
    only(folder, "fp16")
    seen = []
    real = transformers().CLIPTextModel.from_pretrained.__func__

    def watched(cls, *arguments, **options):
        loaded = real(cls, *arguments, **options)
        seen.append(loaded[0].dtype)
        return loaded

    monkeypatch.setattr(transformers().CLIPTextModel, "from_pretrained", classmethod(watched))
    prior: Any = load_folder(folder)
    assert prior.network.dtype == prior.codec.vae.dtype == torch.float32
    assert set(seen) == {torch.float32}


def test_nothing_is_said_about_names_of_arguments(folder, caplog, recwarn):
    with caplog.at_level(logging.WARNING):
        load_folder(folder)
    said = [record.getMessage() for record in caplog.records] + [str(warning.message) for warning in recwarn]
    assert not [text for text in said if "dtype" in text]
