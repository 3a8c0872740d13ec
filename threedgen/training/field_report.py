"""What a field in training knows: a grid of pictures beside the true ones, and a table of errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.png import write_png
from threedgen.datasets.things import captions
from threedgen.datasets.things.thing_set import ThingSet
from threedgen.datasets.things.thing_views import DISTANCE, true_views
from threedgen.training.card_values import add_errors
from threedgen.training.field_trainer import FieldTrainer

AZIMUTHS = (20.0, 110.0, 200.0, 290.0)  # degrees
ELEVATION = 20.0  # degrees
TURN = 45.0  # degrees, of the camera that the second row of the table is told
WORDS = 60  # at most, in a report
_COLUMNS = 3  # words beside one another in the grid


@dataclass(frozen=True)
class Examples:
    """True pictures of a thing of each of W words.

    words: W words. images: [W, 4, H, W, 3] in [0, 1] on white. fronts: whether each looks different from the front
    and from the back.
    """

    words: tuple[str, ...]
    images: Float[Tensor, "W 4 H W 3"]
    fronts: tuple[bool, ...]


def make_examples(things: ThingSet, size: int) -> Examples:
    """The canonical thing of the first class, or the first object of the catalogue, of each word, or of WORDS words
    spread evenly over the alphabet if there are more."""
    count = min(len(things.words), WORDS)
    words = tuple(things.words[index * len(things.words) // count] for index in range(count))
    images, fronts = [], []
    for word in words:
        source = (*things.classes(word), *things.objects(word))[0]
        images.append(true_views(source, AZIMUTHS, ELEVATION, size).images)
        fronts.append(source.front)
    return Examples(words, torch.stack(images), tuple(fronts))


def field_errors(trainer: FieldTrainer, examples: Examples) -> dict[str, float]:
    """Mean squared errors of pictures in [-1, 1] on white, over words with a front: told the truth, a camera that
    is TURN degrees off, and the next word; ratio is the second over the first."""
    chosen = [index for index, front in enumerate(examples.fronts) if front]
    words = [examples.words[index] for index in chosen]
    true = examples.images[chosen]
    rows = {
        "true": _shown(trainer, words, 0.0),
        "camera_off": _shown(trainer, words, TURN),
        "other_text": _shown(trainer, [*words[1:], words[0]], 0.0),
    }
    errors = {name: float(4.0 * (shown - true).square().mean()) for name, shown in rows.items()}
    errors["ratio"] = errors["camera_off"] / errors["true"]
    return errors


def write_field_report(trainer: FieldTrainer, examples: Examples) -> None:
    """Writes samples.png (of each word the field above the truth) and adds a line to errors.jsonl, in the folder of
    the training."""
    add_errors(trainer, {name: round(value, 5) for name, value in field_errors(trainer, examples).items()})
    _write_grid(_shown(trainer, examples.words, 0.0), examples, trainer.folder / "samples.png")


def _shown(trainer: FieldTrainer, words: Sequence[str], turn: float) -> Float[Tensor, "W 4 H W 3"]:
    azimuths = torch.tensor(AZIMUTHS) + turn
    full = torch.ones_like(azimuths)
    cameras = torch.stack([azimuths, ELEVATION * full, DISTANCE * full], dim=1)
    shown = []
    for word in words:
        layers = trainer.pictures_of([captions.phrase(word)] * len(azimuths), cameras).cpu()
        shown.append((layers[:, :3] + 1.0 - layers[:, 3:]).permute(0, 2, 3, 1).clamp(0.0, 1.0))
    return torch.stack(shown)


def _write_grid(shown: Float[Tensor, "W 4 H W 3"], examples: Examples, path: Path) -> None:
    from PIL import Image, ImageDraw

    size = shown.shape[2]
    rows = -(-len(shown) // _COLUMNS)
    grid = Image.new("RGB", (_COLUMNS * 4 * size, rows * 2 * size), "white")
    draw = ImageDraw.Draw(grid)
    for index, (word, ours, true) in enumerate(zip(examples.words, shown, examples.images, strict=True)):
        x, y = index // rows * 4 * size, index % rows * 2 * size
        for line, views in enumerate((ours, true)):
            picture = torch.cat(list(views), dim=1)
            grid.paste(
                Image.fromarray((picture * 255.0).round().to(torch.uint8).numpy()), (x, y + line * size)
            )
        draw.text((x + 2, y + 2), word, fill="black")
    write_png(path, np.asarray(grid))
