"""The model card of a field of pictures."""

from __future__ import annotations

from pathlib import Path

from threedgen.training.card_values import card_values
from threedgen.training.picture_trainer import PictureFieldTrainer
from threedgen.training.view_bank import SHARES
from threedgen.training.view_scenes import SOURCE_ELEVATION

_CARD = """# A field of pictures

A view-conditioned prior, written by `threedgen train prior --kind picture`. A picture of an object on white, and
the elevation and distance of its camera, are decoded to a radiance field that is rendered from any camera: three
feature planes, and features of the pixel at which the picture shows a point ({parameters:.1f} million parameters,
half precision, safetensors only). The field stands in the frame of the object, and the encoder guesses from which
side the picture was taken. Noisy views are denoised by the closed-form answer for the rendered view. Licence:
Apache-2.0, like the project that trained it.

- pictures: {size} x {size} pixels; {pictures} pictures with {views} views each in {steps} steps of
  {batch} pictures, {minutes:.0f} minutes on {machine}
- last mean loss: {loss:.5f}; started from: {origin}
- last line of the table of errors (PSNR and IoU of sides of objects that were not trained on, see
  threedgen/training/picture_report.py): {errors}

## What it was trained on

Shares of a batch: {shares}.

Objects are those of Sweet Home 3D's furniture libraries, if these were installed: 175 of them are in the public
domain (CC0), 645 are under CC-BY 3.0. ATTRIBUTION.md in the repository names their creators. Whether weights that
were trained on works under CC-BY are bound by its terms is not settled; no mesh and no texture is part of these
weights. Classes, assemblies of random solids and shapes are procedural. Light comes from any direction above;
colour channels are exchanged and scenes mirrored at random. Pictures are from elevations of {low:.0f} to
{high:.0f} degrees.

## Limits

What the picture does not show is the mean of what it might be: grey where colours are unknown, and thin mist
where the shape is. Details are those of {size} pixels.
"""


def write_picture_card(trainer: PictureFieldTrainer, folder: Path, loss: float, machine: str) -> None:
    """Writes README.md into `folder`. loss: the last mean loss. machine: where the training ran."""
    values = card_values(trainer, loss, machine)
    values |= {
        "size": trainer.size,
        "views": trainer.config.views,
        "shares": ", ".join(f"{kind} {share:g}" for kind, share in SHARES.items()),
        "low": SOURCE_ELEVATION[0],
        "high": SOURCE_ELEVATION[1],
    }
    (folder / "README.md").write_text(_CARD.format(**values), encoding="utf-8")
