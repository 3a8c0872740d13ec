"""From which side of its object a picture was taken: the side for which the field of the picture is the surest.

A field whose side is guessed wrongly has to explain the picture by an object that it has never seen, and shows
mist.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import FOV, orbit
from threedgen.guidance.priors.picture_field import PictureField, seen_from, soft_bins

_SIDES = 12  # azimuths that are tried beside the one that the encoder guesses
_VIEWS, _PIXELS = 8, 32  # from which each field is looked at, and the width of these views
_MIST = 80.0  # units of log probability, of the share of a field that is half transparent


@torch.no_grad()
def settled_azimuth(
    field: PictureField, picture: Float[Tensor, "1 3 H W"], known: Float[Tensor, "1 2"]
) -> Float[Tensor, " 1"]:
    """The azimuth in degrees that a picture in [-1, 1] on white was most likely taken from, by what the encoder of
    the field says and by how sure the fields of all azimuths are.

    known: the elevation in degrees and the distance of its camera.
    """
    guess = field.decode(picture, known)
    around = torch.arange(_SIDES, device=picture.device) * (360.0 / _SIDES)
    azimuths = torch.cat([guess.azimuth, around])
    count = len(azimuths)
    decoded = field.decode(picture.expand(count, -1, -1, -1), known.expand(count, -1), azimuths)
    decoded = field.with_occupancy(decoded)
    turns = (torch.arange(_VIEWS) * (360.0 / _VIEWS)).repeat(count)
    elevation, distance = (value.cpu().expand(len(turns)) for value in known[0])
    cameras = orbit(turns, elevation, distance, FOV, _PIXELS, _PIXELS).to(picture.device)
    owner = torch.arange(count).repeat_interleave(_VIEWS)
    alpha = field.render(decoded, seen_from(decoded, cameras, owner), owner)[..., 3].unflatten(
        0, (count, _VIEWS)
    )
    mist = (alpha * (1.0 - alpha)).mean((1, 2)) / alpha.mean((1, 2)).clamp_min(1e-6)
    chances = (soft_bins(azimuths) * guess.sides.log_softmax(1)).sum(1)
    return azimuths[(chances - _MIST * mist).argmax()][None]
