"""A pictured object from all around, drawn by the view-conditioned prior alone: no 3D, so nothing makes views
agree.

    python examples/turn_a_picture.py OUT.png [PICTURE]

Without a picture it turns a mug. Put the folder of another view-conditioned model into PriorConfig(path=...).
"""

import itertools
import sys

import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.png import to_uint8
from threedgen.core.random import generator
from threedgen.datasets import world
from threedgen.datasets.cut_outs import cut_out_of
from threedgen.export.video import write_contact_sheet
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.load import PriorConfig, load_prior

ELEVATION, DISTANCE, FOV = 15.0, 2.85, 40.0


def ring(azimuths: torch.Tensor, size: int):
    full = torch.ones_like(azimuths)
    return orbit(azimuths, ELEVATION * full, DISTANCE * full, FOV, size, size)


def picture_of(path: str | None) -> torch.Tensor:
    """[H, W, 3] in [0, 1] on white."""
    if path is None:
        return world.render(world.canonical("mug", "red"), ring(torch.zeros(1), 64))[0][0]
    rgba = torch.from_numpy(cut_out_of(path).rgba / 255.0).float()
    return rgba[..., :3] * rgba[..., 3:] + 1.0 - rgba[..., 3:]


def main(out: str, path: str | None = None, views: int = 8, steps: int = 16, scale: float = 2.0):
    prior = load_prior(PriorConfig(name="embedded-view"))
    azimuths = torch.arange(views) * (360.0 / views)
    told = Condition(
        prompts=("",) * views,
        cameras=ring(azimuths, prior.image_size),
        reference=ReferenceView(picture_of(path), azimuth=0.0, elevation=ELEVATION, distance=DISTANCE),
    )
    z = torch.randn(views, 3, prior.image_size, prior.image_size, generator=generator(0, "turn", 0))
    for now, after in itertools.pairwise(torch.linspace(0.999, 0.0, steps + 1)):
        t, next_t = now.expand(views), after.expand(views)
        seen, unseen = prior.predict(z, t, told).x0, prior.predict(z, t, told.unconditional()).x0
        clean = (unseen + scale * (seen - unseen)).clamp(-1.0, 1.0)
        alpha, sigma = prior.alpha(t)[:, None, None, None], prior.sigma(t)[:, None, None, None]
        z = prior.add_noise(clean, (z - alpha * clean) / sigma, next_t)
    pictures = prior.decode(z).clamp(0.0, 1.0)
    write_contact_sheet(out, [to_uint8(picture) for picture in pictures])
    return pictures


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
