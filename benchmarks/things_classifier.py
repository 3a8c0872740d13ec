"""Text-image scores of benchmarks/things.py, by a classifier that never saw this world.

The scorer is in threedgen/metrics/efficientnet.py. Its words are those of all prompts. Beside each asset, the true
thing of its word, in the colour of its prompt, is scored with the same cameras. The classifier recognises only a
part of these: the score of an asset says something beside theirs alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threedgen.datasets.things.thing_set import ThingSet
from threedgen.datasets.things.thing_views import true_views
from threedgen.metrics.efficientnet import SIDE, EfficientNet, TextImageScorer
from threedgen.metrics.named_things import VIEWS
from threedgen.metrics.shape_world import ELEVATION
from threedgen.training.sentence_model import SentenceModel

_SCORED = ("text_image", "true_text_image")  # keys of a row: of its asset, and of the true thing


def make_scorer(weights: Path, rows: Sequence[dict[str, Any]]) -> TextImageScorer:
    """The scorer over the words of rows. Raises UserError for a file of other weights, and without MiniLM."""
    words = list(dict.fromkeys(row["thing"] for row in rows if "thing" in row))
    return TextImageScorer(EfficientNet(weights).logits, SentenceModel().sentence_vectors, words)


def add_scores(
    scorer: TextImageScorer,
    rows: Sequence[dict[str, Any]],
    things: ThingSet,
    asset: Callable[[str, int], Float[Tensor, "V 4 H W"]],
) -> None:
    """Scores the asset of each row that has a thing, and the true thing. asset: premultiplied pictures of the asset
    of a prompt, with a number of pixels."""
    azimuths = [index * 360.0 / VIEWS for index in range(VIEWS)]
    for row in rows:
        if "thing" not in row:
            continue
        rgba = asset(row["prompt"], SIDE)
        white = (rgba[:, :3] + 1.0 - rgba[:, 3:]).permute(0, 2, 3, 1)
        source = things.canonical(row["thing"])
        true = true_views(source, azimuths, ELEVATION, SIDE, row.get("color")).images
        for key, images in zip(_SCORED, (white, true), strict=True):
            row[key] = asdict(scorer.score(images, row["thing"]))


def text_image_figures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a table says of the rows of one kind; nothing if they have no such scores."""
    found = []
    for key, whose in zip(_SCORED, ("", " of true pictures"), strict=True):
        scores = [row[key] for row in rows if key in row]
        if scores:
            first, five = (statistics.mean(score["rank"] < k for score in scores) for k in (1, 5))
            mean = statistics.mean(score["similarity"] for score in scores)
            found.append(f"text-image R@1{whose} {first:.3f}, R@5 {five:.3f}, cosine {mean:.3f}")
    return found
