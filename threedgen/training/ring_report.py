"""What a multi-view prior in training knows: views of objects that it was not trained on, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.pictures import psnr
from threedgen.core.png import to_uint8, write_png
from threedgen.core.random import derive_seed, generator
from threedgen.datasets.cut_outs import DISTANCE
from threedgen.datasets.things.thing_set import ThingSet
from threedgen.training.card_values import add_errors
from threedgen.training.multiview_trainer import MultiViewTrainer, group_guides, group_poses
from threedgen.training.ring_bank import RingBatch
from threedgen.training.ring_rig import FIRST, OTHER, OTHERS, RING, RingRig
from threedgen.training.samples import ddim
from threedgen.training.tokenizer import encode
from threedgen.training.view_bank import on_white
from threedgen.training.view_scenes import AssemblyScenes, ObjectScenes, ScenePiece

OBJECTS = 24  # at most, in a report
PICTURE = (30.0, 15.0)  # azimuth and elevation of the given picture, in degrees
_STEPS = 16  # of a sample
_ROWS = 12  # objects in the grid


class HeldOutRig(RingRig):
    """The picture from PICTURE, a level ring around it, and others from above and below."""

    stretches = False

    def angles(self, rng: np.random.Generator) -> Float[Tensor, "V 3"]:
        azimuth = PICTURE[0] + torch.tensor(
            [0.0, *(360.0 / RING * view for view in range(RING)), 45.0, 165.0, 285.0]
        )
        elevation = torch.tensor([PICTURE[1], *[0.0] * RING, 45.0, -20.0, 20.0])
        return torch.stack([azimuth, elevation, torch.full_like(azimuth, DISTANCE)], dim=1)


def held_out_rings(things: ThingSet | None, size: int, most: int = OBJECTS, views: int = 4) -> RingBatch:
    """Groups around the objects of the catalogue that are held out, spread evenly over them if there are more than
    `most`; without a catalogue around random assemblies of another seed than that of trainings.

    The other views are those of the ring between the group's, and those of the rig.
    """
    rig = HeldOutRig()
    sources = (
        [] if things is None else [s for word in things.words for s in things.objects(word, held_out=True)]
    )
    count = min(len(sources), most)
    pieces: list[ScenePiece] = [
        ObjectScenes(sources[index * len(sources) // count], 1, rig) for index in range(count)
    ]
    if not pieces:
        pieces = [AssemblyScenes(0, min(8, most), rig)]
    drawn = [piece.render(size, derive_seed(0, "ring-report", 0) % 2**31) for piece in pieces]
    layers = torch.cat([piece.layers for piece in drawn]).unflatten(0, (-1, rig.count)).float() / 255.0
    angles = torch.cat([piece.cameras for piece in drawn]).unflatten(0, (-1, rig.count))
    group = list(range(FIRST, FIRST + RING, RING // views))
    rest = [view for view in range(FIRST, OTHER + OTHERS) if view not in group]
    captions = tuple(text for piece in drawn for text in piece.captions)
    return RingBatch(
        layers[:, 0],
        angles[:, 0],
        layers[:, group],
        angles[:, group],
        layers[:, rest],
        angles[:, rest],
        captions,
    )


@torch.no_grad()
def sampled(
    trainer: MultiViewTrainer, held_out: RingBatch, steps: int = _STEPS, scale: float = 1.0, seed: int = 0
) -> Float[Tensor, "B V H W 3"]:
    """DDIM samples of the averaged model in [0, 1], from the pictures alone. scale: of the guidance."""
    model, device = trainer.average, trainer.config.device
    count, views = held_out.angles.shape[:2]
    ids, mask = encode(trainer.tokenizer, [""] * count, device)
    pictures = (2.0 * on_white(held_out.picture).permute(0, 3, 1, 2) - 1.0).to(device)
    shape = (count, views, 3, model.size, model.size)
    z = torch.randn(shape, generator=generator(seed, "ring-report", 0)).to(device)
    guides = group_guides(model, pictures, held_out.angles, held_out.picture_angles)

    def predict(flat: Tensor, now: Tensor) -> Tensor:
        z, found = flat.unflatten(0, (count, views)), []
        for kept in (1.0, 0.0)[: 1 if scale == 1.0 else 2]:
            given = torch.full((count,), kept)
            poses = group_poses(held_out.angles, held_out.picture_angles, given)
            times = now.expand(count).to(device)
            found.append(model(z, times, pictures, given.to(device), guides, poses.to(device), ids, mask))
        clean = (found[-1] + scale * (found[0] - found[-1])).flatten(0, 1)
        alpha, sigma = (float(table[now]) for table in (trainer.alpha, trainer.sigma))
        return (alpha * flat - clean) / sigma  # v

    made = ddim(predict, z.flatten(0, 1), trainer.alpha, trainer.sigma, steps)
    return made.unflatten(0, (count, views))


def write_ring_report(trainer: MultiViewTrainer, held_out: RingBatch) -> None:
    """Writes samples.png (of each object the given picture, the true views, samples, one step from pure noise, and
    what the field shows) and adds a line to errors.jsonl, in the folder of the training: PSNR in dB of samples, of
    that step, which is the mean of what the model holds for possible, and of the field, over the views that the
    picture does not show."""
    true = on_white(held_out.views)
    samples, means = sampled(trainer, held_out), sampled(trainer, held_out, 1)
    pictures = 2.0 * on_white(held_out.picture).permute(0, 3, 1, 2) - 1.0
    guides = group_guides(trainer.average, pictures, held_out.angles, held_out.picture_angles)
    field = 0.5 + 0.5 * guides[:, :, :3].permute(0, 1, 3, 4, 2).cpu()
    errors = {}
    for name, views in (("sample_psnr", samples), ("mean_psnr", means), ("field_psnr", field)):
        errors[name] = round(float(psnr(views[:, 1:].flatten(0, 1), true[:, 1:].flatten(0, 1)).mean()), 3)
    add_errors(trainer, errors)
    write_rows(trainer.folder / "samples.png", on_white(held_out.picture), true, [samples, means, field])


def write_rows(
    path: Path,
    given: Float[Tensor, "B H W 3"],
    true: Float[Tensor, "B V H W 3"],
    ours: Sequence[Float[Tensor, "B V H W 3"]],
) -> None:
    """A picture with a row for each of the first objects: the given picture, the true views, each of `ours`."""
    rows = []
    for index in range(min(len(given), _ROWS)):
        views = [given[index], *true[index], *(view for part in ours for view in part[index])]
        rows.append(torch.cat(views, dim=1))
    write_png(path, to_uint8(torch.cat(rows).clamp(0.0, 1.0)))
