"""Do prompts survive? Every prompt of a file through view prompts, Perp-Neg, text cache and a run's recipe.yaml.

    python benchmarks/prompts.py PROMPTS.json        # a list of texts, or an object of such lists

The encoder here writes a text's characters into its row, so that what reaches a prior can be read back: a prompt is
lost when any text is not the prompt followed by a side's words, when a second process would read other rows from
the cache, or when the recipe that a run keeps gives another prompt or negative prompt.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.guidance.priors.base import Blend, Text
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.prompting.conditioning import Prompting, ViewConditions
from threedgen.guidance.prompting.debiasing import by_words
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.load import load_recipe, read_resolved

SIDES = ("front", "side", "back", "overhead")
NEGATIVE = "ugly, blurry"
LENGTH = 512


class Reader:
    """As much of a prior as prompts meet. encoded: how many texts the encoder saw."""

    camera_conditioned = False

    def __init__(self, cache: Path) -> None:
        self.encoded = 0
        self.text = TextEmbedder(lambda: self._encode, "characters", cache)

    def prepare(self, texts: Sequence[Text]) -> None:
        self.text(texts)

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        self.encoded += len(texts)
        codes = [[float(ord(letter)) for letter in text[:LENGTH]] for text in texts]
        return {"states": torch.tensor([row + [-1.0] * (LENGTH - len(row)) for row in codes])}


def spelt(row: Tensor) -> str:
    return "".join(chr(int(code)) for code in row.tolist() if code >= 0)


def parts(text: Text) -> tuple[str, ...]:
    return text.texts if isinstance(text, Blend) else (text,)


def survives_views(prompt: str, reader: Reader) -> bool:
    """Whether what 8 views are told is the prompt and the side, letter by letter, through encoder and cache."""
    azimuth = torch.arange(8) * 45.0
    cameras = orbit(azimuth, torch.full((8,), 20.0), torch.full((8,), 2.85), 40.0, 8, 8)
    config = Prompting(negative=NEGATIVE, perp_neg=1.0)
    condition = ViewConditions(reader, config)(prompt, cameras, 0, 10)  # pyright: ignore[reportArgumentType]
    told = [*condition.prompts, *(text for opposed in condition.opposed for text, _ in opposed)]
    words = sorted({word for text in told for word in parts(text)} | {NEGATIVE, ""})
    allowed = {f"{prompt}, {side} view" for side in SIDES} | {NEGATIVE, ""}
    rows = reader.text(words)["states"]
    return set(words) <= allowed and all(
        spelt(row) == word[:LENGTH] for row, word in zip(rows, words, strict=True)
    )


def survives_recipe(prompt: str, folder: Path) -> bool:
    recipe = load_recipe("sds", [f"guidance.0.negative={prompt}"], prompt=prompt)
    back = read_resolved(RunDirectory.create(folder, recipe.resolved).recipe)
    return back.prompt == prompt == back.guidance[0].config.negative


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="PROMPTS.json")
    content = json.loads(parser.parse_args().file.read_text(encoding="utf-8"))
    lists = list(content.values()) if isinstance(content, dict) else [content]
    prompts = [text for items in lists for text in items]
    print("| step | prompts | lost | texts encoded | s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        for name in ("views, Perp-Neg, empty cache", "the same, from the cache"):
            reader, began = Reader(cache), time.perf_counter()
            lost = sum(not survives_views(prompt, reader) for prompt in prompts)
            print(
                f"| {name} | {len(prompts)} | {lost} | {reader.encoded} | {time.perf_counter() - began:.1f} |"
            )
        began = time.perf_counter()
        lost = sum(not survives_recipe(text, Path(folder) / str(i)) for i, text in enumerate(prompts))
        print(f"| recipe.yaml and back | {len(prompts)} | {lost} | - | {time.perf_counter() - began:.1f} |")
    changed = sum(bool(by_words(prompt).dropped) for prompt in prompts)
    print(f"\n`debias: words` would drop words of {changed} of them.")


if __name__ == "__main__":
    main()
