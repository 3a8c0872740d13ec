"""The model card of a multi-view prior."""

from __future__ import annotations

from pathlib import Path

from threedgen.training.card_values import card_values
from threedgen.training.multiview_trainer import MultiViewTrainer
from threedgen.training.ring_bank import GROUP_SIZES
from threedgen.training.view_bank import SHARES
from threedgen.training.view_scenes import SOURCE_ELEVATION

_CARD = """# A multi-view prior

Written by `threedgen train prior --kind multiview`. {groups} views of an object, evenly spaced around it, are
denoised together: the self-attention of the UNet runs over all of them. A field of the picture shows each view what
may be seen there (guide/, a prior of `--kind picture`). A text, a picture, both or none of them may be given
({parameters:.1f} million parameters, half precision, safetensors only). With a picture the azimuths of the cameras
are relative to it, without one to the front of the object. {shows} Licence: Apache-2.0, like the project that
trained it.

- pictures: {size} x {size} pixels; {pictures} of them in {steps} steps of {batch} groups, {minutes:.0f} minutes on
  {machine}
- last mean loss: {loss:.5f}; started from: {origin}
- last line of the table of errors (PSNR of three sides of objects that were not trained on, of samples, of one step
  from pure noise, and of the field alone, see threedgen/training/ring_report.py): {errors}

## What it was trained on

Shares of a batch: {shares}.

Objects are those of Sweet Home 3D's furniture libraries, if these were installed: 175 of them are in the public
domain (CC0), 645 are under CC-BY 3.0. ATTRIBUTION.md in the repository names their creators. Whether weights that
were trained on works under CC-BY are bound by its terms is not settled; no mesh and no texture is part of these
weights. Classes, assemblies of random solids and shapes are procedural. Light comes from any direction above;
colour channels are exchanged where no caption names them, and scenes are mirrored at random. Pictures are from
elevations of {low:.0f} to {high:.0f} degrees, framed as cut-outs are; most groups are level.

## Limits

Details are those of {size} pixels. Sides that the picture does not show are invented, in the style of the things of
the training.
"""

_SHOWS = {
    "colors": "It draws colours on white.",
    "normals": "It draws normals: rgb = (n + 1) / 2 on mid grey, in the frame in which that azimuth is 0 "
    "(+X right, +Y up, +Z towards the camera), for the recipe direct2.5.",
}


def write_multiview_card(trainer: MultiViewTrainer, folder: Path, loss: float, machine: str) -> None:
    """Writes README.md into `folder`. loss: the last mean loss. machine: where the training ran."""
    values = card_values(trainer, loss, machine)
    values |= {
        "shows": _SHOWS[trainer.config.shows],
        "groups": GROUP_SIZES,
        "size": trainer.average.size,
        "shares": ", ".join(f"{kind} {share:g}" for kind, share in SHARES.items()),
        "low": SOURCE_ELEVATION[0],
        "high": SOURCE_ELEVATION[1],
    }
    (folder / "README.md").write_text(_CARD.format(**values), encoding="utf-8")
