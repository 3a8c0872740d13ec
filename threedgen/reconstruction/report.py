"""What a reconstructor in training makes of true views of objects that are new to it, and its model card."""

from __future__ import annotations

from pathlib import Path

import torch

from threedgen.core.pictures import psnr, silhouette_iou
from threedgen.reconstruction.network import GivenViews
from threedgen.reconstruction.trainer import ReconstructorTrainer, signed
from threedgen.training.card_values import add_errors, card_values
from threedgen.training.ring_bank import RingBatch
from threedgen.training.ring_report import write_rows
from threedgen.training.things_store import cameras_of
from threedgen.training.view_bank import on_white


@torch.no_grad()
def write_report(trainer: ReconstructorTrainer, held_out: RingBatch) -> None:
    """Writes samples.png (of each object the given picture, its true other views, and what the Gaussians show
    there) and adds a line to errors.jsonl, in the folder of the training: PSNR in dB and IoU of views that are not
    given, from the true views of a group, and the mean number of Gaussians."""
    count, size = len(held_out.views), trainer.size
    clean = signed(held_out.views)
    cameras = cameras_of(held_out.angles.flatten(0, 1), size)
    given = GivenViews(clean, clean, torch.zeros(count, dtype=torch.long), cameras)
    clouds = trainer.average(given)
    pictures, alphas = [], []
    for cloud, angles in zip(clouds, held_out.other_angles, strict=True):
        seen = trainer.renderer(cloud, cameras_of(angles, size), torch.ones(3))
        pictures.append(seen.rgb.clamp(0.0, 1.0))
        alphas.append(seen.alpha)
    shown, alpha = torch.stack(pictures), torch.stack(alphas)
    true, silhouettes = on_white(held_out.others), held_out.others[..., 3:]
    errors = {
        "psnr": round(float(psnr(shown.flatten(0, 1), true.flatten(0, 1)).mean()), 3),
        "iou": round(float(silhouette_iou(alpha.flatten(0, 1), silhouettes.flatten(0, 1)).mean()), 4),
        "gaussians": round(sum(map(len, clouds)) / count),
    }
    add_errors(trainer, errors)
    part = slice(0, None, max(1, true.shape[1] // 5))
    write_rows(trainer.folder / "samples.png", on_white(held_out.picture), true[:, part], [shown[:, part]])


_CARD = """# A reconstructor

Written by `threedgen train reconstructor`. Views of an object with known cameras become 3D Gaussians in one pass of
a U-Net whose attention runs over all views ({parameters:.1f} million parameters, half precision, safetensors and
JSON only). It takes 1 to 8 views, clean ones or the estimates of a sampler with the noise level of its trajectory,
and the given picture as a further view. Licence: Apache-2.0, like the project that trained it.

- views: {size} x {size} pixels; {pictures} of them in {steps} steps of {batch} objects, {minutes:.0f} minutes on
  {machine}
- last mean loss: {loss:.5f}
- last line of the table of errors (from four true views of objects that were not trained on, seen from elsewhere,
  see threedgen/reconstruction/report.py): {errors}

The data are those of the multi-view prior (`threedgen train prior --kind multiview`): objects of Sweet Home 3D's
furniture libraries (ATTRIBUTION.md names their creators; no mesh and no texture is part of these weights),
procedural things, random assemblies, and the shape world.

Details are those of {size} pixels. Cameras in the training are at one distance and look at the object.
"""


def write_card(trainer: ReconstructorTrainer, folder: Path, loss: float, machine: str) -> None:
    """Writes README.md into `folder`. loss: the last mean loss. machine: where the training ran."""
    values = card_values(trainer, loss, machine)
    values["size"] = trainer.size
    (folder / "README.md").write_text(_CARD.format(**values), encoding="utf-8")
