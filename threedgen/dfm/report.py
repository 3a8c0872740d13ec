"""What a diffusion model of scenes in training makes of pictures of objects that are new to it, and its model card.

Four samples of an object must agree where the picture shows it, and differ where it does not.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.pictures import psnr
from threedgen.datasets.things.thing_views import DISTANCE, GIVEN, SIDES
from threedgen.dfm.sampling import TOGETHER, sampled_scenes, shown
from threedgen.dfm.scene_field import signed
from threedgen.dfm.trainer import SceneTrainer
from threedgen.training.card_values import add_errors, card_values
from threedgen.training.picture_report import HeldOutViews
from threedgen.training.ring_report import write_rows
from threedgen.training.view_bank import SHARES, on_white

OBJECTS = 6  # in a report
_STEPS = 12  # of a sample
_UNSEEN = slice(2, 6)  # of SIDES: those that are more than a quarter turn from the picture


def spread(shown: Float[Tensor, "S ..."]) -> float:
    """How much what S samples show differs: the root of the mean variance of their numbers."""
    return float(shown.var(0).mean().sqrt())


@torch.no_grad()
def write_scene_report(trainer: SceneTrainer, held_out: HeldOutViews) -> None:
    """Writes samples.png (of each object the given picture, its true back, what the context alone shows there, and
    four samples) and adds a line to errors.jsonl, in the folder of the training.

    The line has PSNR in dB, of the sides that are not given, of samples and of what the context alone shows; and
    the spread of four samples in the given view and on the sides that are more than a quarter turn from it, and the
    second over the first.
    """
    model, device = trainer.average, trainer.config.device
    angles = [[azimuth - GIVEN[0], GIVEN[1], DISTANCE] for azimuth in (GIVEN[0], *SIDES)]
    views, known = torch.tensor(angles), torch.tensor([GIVEN[1], DISTANCE])
    given, count = held_out.images[:, 0], len(held_out.images)
    found, alone = [], []
    for picture in signed(given.permute(0, 3, 1, 2)).to(device):
        scenes = sampled_scenes(model, picture, known.to(device), range(TOGETHER), _STEPS)
        found.append(on_white(shown(model, scenes, views)).cpu())
        context = model.decode(picture[None], known[None].to(device))
        alone.append(on_white(shown(model, context, views))[0].cpu())
    samples, means, true = torch.stack(found), torch.stack(alone), held_out.images
    sides = true[:, None, 1:].expand(-1, TOGETHER, -1, -1, -1, -1)
    seen = sum(spread(one[:, 0]) for one in samples) / count
    unseen = sum(spread(one[:, 1:][:, _UNSEEN]) for one in samples) / count
    errors = {
        "sample_psnr": round(float(psnr(samples[:, :, 1:].flatten(0, 2), sides.flatten(0, 2)).mean()), 3),
        "context_psnr": round(float(psnr(means[:, 1:].flatten(0, 1), true[:, 1:].flatten(0, 1)).mean()), 3),
        "spread_seen": round(seen, 5),
        "spread_unseen": round(unseen, 5),
        "spread_ratio": round(unseen / max(seen, 1e-9), 3),
    }
    add_errors(trainer, errors)
    back = 1 + len(SIDES) // 2
    ours = [means[:, back : back + 1], samples[:, :, back]]
    write_rows(trainer.folder / "samples.png", given, true[:, back : back + 1], ours)


_CARD = """# A diffusion model of scenes

Written by `threedgen train dfm`. A view of an object that nobody has seen is denoised through a radiance field,
which a given picture and the noisy view decode to; the field of the last step is a sample of what the picture may
show (diffusion with forward models, Tewari et al. 2023, arXiv:2306.11719; {parameters:.1f} million parameters, half
precision, safetensors and JSON only). Licence: Apache-2.0, like the project that trained it.

- pictures: {size} x {size} pixels; {pictures} objects, each with a picture, a target and a novel view, in {steps}
  steps of {batch}, {minutes:.0f} minutes on {machine}
- last mean loss: {loss:.5f}; started from: {origin}
- last line of the table of errors (of objects that were not trained on, see threedgen/dfm/report.py): {errors}

Shares of a batch: {shares}. The data are those of the multi-view prior (`threedgen train prior --kind multiview`):
objects of Sweet Home 3D's furniture libraries (ATTRIBUTION.md names their creators; no mesh and no texture is part
of these weights), procedural things, random assemblies, and the shape world.

Details are those of {size} pixels. What a sample shows on the sides is settled by its back alone.
"""


def write_card(trainer: SceneTrainer, folder: Path, loss: float, machine: str) -> None:
    """Writes README.md into `folder`. loss: the last mean loss. machine: where the training ran."""
    values = card_values(trainer, loss, machine)
    values |= {
        "size": trainer.size,
        "shares": ", ".join(f"{kind} {share:g}" for kind, share in SHARES.items()),
    }
    (folder / "README.md").write_text(_CARD.format(**values), encoding="utf-8")
