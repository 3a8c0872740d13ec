"""What a field of pictures in training knows: other sides of objects that it was not trained on, beside the
truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.pictures import psnr, silhouette_iou
from threedgen.core.png import to_uint8, write_png
from threedgen.core.random import derive_seed
from threedgen.datasets.assemblies import render_assembly, sample_assembly
from threedgen.datasets.things.thing_set import ThingSet
from threedgen.datasets.things.thing_views import DISTANCE, GIVEN, SIDES, unseen_sides
from threedgen.training.card_values import add_errors
from threedgen.training.picture_trainer import PictureFieldTrainer
from threedgen.training.things_store import cameras_of

OBJECTS = 24  # at most, in a report
TURN = 60.0  # degrees, of the cameras of the second row of figures
_ROWS = 12  # objects in the grid


@dataclass(frozen=True)
class HeldOutViews:
    """Views of N objects that no training shows. images: on white, the given picture first. alpha: of all."""

    images: Float[Tensor, "N 9 H W 3"]
    alpha: Float[Tensor, "N 9 H W 1"]


def held_out_views(things: ThingSet | None, size: int, most: int = OBJECTS) -> HeldOutViews:
    """The objects of the catalogue that are held out, spread evenly over them if there are more than `most`;
    without a catalogue random assemblies of another seed than that of trainings."""
    sources = (
        [] if things is None else [s for word in things.words for s in things.objects(word, held_out=True)]
    )
    count = min(len(sources), most)
    seen = [unseen_sides(sources[index * len(sources) // count], size) for index in range(count)]
    pictures = [(views.images, views.alpha) for views in seen]
    if not pictures:
        angles = torch.tensor([[azimuth, GIVEN[1], DISTANCE] for azimuth in (GIVEN[0], *SIDES)])
        cameras = cameras_of(angles, size)
        for index in range(min(8, most)):
            rng = np.random.default_rng(derive_seed(0, "picture-report", index))
            pictures.append(render_assembly(sample_assembly(rng), cameras))
    images, alpha = (torch.stack(parts) for parts in zip(*pictures, strict=True))
    return HeldOutViews(images.clamp(0.0, 1.0), alpha.clamp(0.0, 1.0))


def shown(
    trainer: PictureFieldTrainer, held_out: HeldOutViews, turn: float = 0.0
) -> tuple[Float[Tensor, "N 8 H W 3"], Float[Tensor, "N 8 H W 1"]]:
    """What the field shows on white, and its alphas, of each object from the sides that it is not given; turn: from
    cameras that are off by so many degrees."""
    known = torch.tensor([GIVEN[1], DISTANCE])
    views = torch.tensor([[azimuth - GIVEN[0] + turn, GIVEN[1], DISTANCE] for azimuth in SIDES])
    rgba = torch.stack([trainer.views_of(images[0], known, views) for images in held_out.images])
    return (rgba[..., :3] + 1.0 - rgba[..., 3:]).clamp(0.0, 1.0), rgba[..., 3:]


def figures(trainer: PictureFieldTrainer, held_out: HeldOutViews) -> dict[str, float]:
    """Mean PSNR in dB and IoU of silhouettes of the sides that are not given, and the squared error with cameras
    that are TURN degrees off over that with the true ones."""
    images, alpha = shown(trainer, held_out)
    true, silhouettes = held_out.images[:, 1:], held_out.alpha[:, 1:]
    off = shown(trainer, held_out, TURN)[0]
    errors = [float((one - true).square().mean()) for one in (images, off)]
    return {
        "psnr": float(psnr(images.flatten(0, 1), true.flatten(0, 1)).mean()),
        "iou": float(silhouette_iou(alpha.flatten(0, 1), silhouettes.flatten(0, 1)).mean()),
        "ratio": errors[1] / errors[0],
    }


def write_picture_report(trainer: PictureFieldTrainer, held_out: HeldOutViews) -> None:
    """Writes samples.png (of each object the given picture, the true sides, and below them the field's) and adds
    a line to errors.jsonl, in the folder of the training."""
    add_errors(trainer, {name: round(value, 4) for name, value in figures(trainer, held_out).items()})
    part = HeldOutViews(held_out.images[:_ROWS], held_out.alpha[:_ROWS])
    write_grid(part.images, [shown(trainer, part)[0]], trainer.folder / "samples.png")


def write_grid(
    true: Float[Tensor, "N 9 H W 3"], ours: Sequence[Float[Tensor, "N 8 H W 3"]], path: Path
) -> None:
    """A picture with rows for each object: the given picture and the true sides, then each of `ours`."""
    given = torch.ones_like(true[:, :1])
    rows = torch.stack([true, *(torch.cat([given, views], dim=1) for views in ours)], dim=1).flatten(0, 1)
    picture = torch.cat([torch.cat(list(row), dim=1) for row in rows])
    write_png(path, to_uint8(picture))
