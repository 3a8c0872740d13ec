"""Where does a prior's list of things end? False alarms and misses of `KnownWords` for a range of thresholds.

    python benchmarks/known_words.py runs/text_encoder

The words are in words.yaml: a false alarm is a word that has an acceptable answer among the known things and is
reported, a miss is a word without one that is not. The chosen threshold has the fewest of both, a miss counting as
much as a false alarm; it goes into threedgen/guidance/priors/known_words.py by hand, and into --out as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import yaml
from torch import Tensor

from threedgen.guidance.priors.known_words import KnownWords
from threedgen.training.word_pieces import encode_words, pooled, read_word_encoder

WORDS = Path(__file__).with_name("words.yaml")
TEMPLATES = ("a {}", "a red {} on a wooden table", "Two small {}s next to the sofa")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with text_encoder/ and tokenizer/")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(arguments.folder / "tokenizer"), local_files_only=True)
    encoder = read_word_encoder(arguments.folder / "text_encoder")

    @torch.no_grad()
    def encode(texts: list[str]) -> Tensor:
        return pooled(encoder, *encode_words(tokenizer, texts))

    words = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    good, bad = [*words["same"], *words["accepted"]], words["unknown"]
    best = KnownWords(words["known"], encode).cosines([*good, *bad]).amax(1)
    rows = []
    for step in range(40, 91, 2):
        threshold = step / 100
        check = KnownWords(words["known"], encode, threshold).check
        alarms = [word for word in good if check(f"a {word}")]
        misses = [word for word in bad if not check(f"a {word}")]
        rows.append({"threshold": threshold, "false_alarms": alarms, "misses": misses})
        print(
            f"{threshold:.2f}: {len(alarms)} false alarms of {len(good)}, {len(misses)} misses of {len(bad)}"
        )
    chosen = min(rows, key=lambda row: len(row["false_alarms"]) + len(row["misses"]))
    print(f"chosen: {chosen['threshold']:.2f}")
    print(f"false alarms: {', '.join(chosen['false_alarms'])}\nmisses: {', '.join(chosen['misses'])}")
    area = (best[: len(good)][:, None] > best[None, len(good) :]).float().mean()
    print(f"a word with an answer is nearer than one without in {100 * area:.1f} % of the pairs")
    check = KnownWords(words["known"], encode, chosen["threshold"]).check
    for template in TEMPLATES:
        alarms = sum(bool(check(template.format(word))) for word in good)
        misses = sum(not check(template.format(word)) for word in bad)
        print(f"'{template}': {alarms} false alarms, {misses} misses")
    if arguments.out is not None:
        arguments.out.write_text(
            json.dumps({"chosen": chosen["threshold"], "thresholds": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
