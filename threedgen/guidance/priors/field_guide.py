"""What a field of a picture shows from the cameras of other views, as a guide of a model that draws these views.

The field is one object, seen from everywhere, but a mean of what it might be. A denoiser of views that sees it only
has to learn what the mean lacks, and its views agree where the field is sure (SyncDreamer, Liu et al. 2023,
arXiv:2309.03453, has features of a volume for that).
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.pictures import resize
from threedgen.core.types import Cameras
from threedgen.guidance.priors.picture_field import DecodedPictures, PictureField, seen_from
from threedgen.guidance.priors.radiance_field import as_pictures

CHANNELS = 4
FOLDER = "guide"
"""Of the field, in the folder of a model that has its own."""
_SHIPPED = Path("picture_weights", "field")


def folder_of(model: Path) -> Path:
    """The folder of the field of a model. The one that ships has none of its own: that of the prior of pictures
    lies beside it."""
    own, shipped = model / FOLDER, model.parent / _SHIPPED
    return shipped if shipped.is_dir() and not own.is_dir() else own


@torch.no_grad()
def decoded_guide(
    field: PictureField,
    pictures: Float[Tensor, "B 3 H W"],
    known: Float[Tensor, "B 2"],
    azimuth: Float[Tensor, " B"] | None = None,
) -> DecodedPictures:
    """The fields of pictures in [-1, 1] on white, of any size. known: elevation in degrees and distance of their
    cameras. azimuth: see `PictureField.decode`."""
    side = field.architecture.size
    resized = resize(pictures.permute(0, 2, 3, 1).float(), side, side).permute(0, 3, 1, 2)
    return field.with_occupancy(field.decode(resized, known, azimuth))


@torch.no_grad()
def guide_views(field: PictureField, decoded: DecodedPictures, cameras: Cameras) -> Float[Tensor, "N 4 H W"]:
    """What the fields show, each from as many of the cameras, one object after the other: RGB on white in [-1, 1],
    and alpha in [0, 1]. cameras: of the size of the pictures, with azimuths relative to the picture's."""
    count = len(decoded.planes)
    owner = torch.arange(count).repeat_interleave(len(cameras) // count)
    shown = as_pictures(field.render(decoded, seen_from(decoded, cameras, owner), owner), cameras)
    rgb, alpha = shown.split([3, 1], dim=1)
    return torch.cat([2.0 * (rgb + 1.0 - alpha) - 1.0, alpha], dim=1)
