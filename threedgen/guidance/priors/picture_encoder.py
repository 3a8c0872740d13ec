"""The encoder of pictures that are decoded to fields, and the sizes of both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_POSE = 4  # numbers that say how a picture was taken
_COARSE = 8  # pixels along each side at which a picture is seen as a whole


@dataclass(frozen=True)
class PictureArchitecture:
    """Sizes of a PictureField.

    Attributes:
        size: Width and height in pixels of the picture: 64 times a power of 2.
        fine: Channels of the encoder at half of the picture's width.
        middle: Channels at a quarter of the width.
        coarse: Channels at 8 x 8.
        seen: Length of the vector of what was seen.
        rank: Number of learnt sets of planes that a picture combines.
        side: Texels along each side of a learnt plane, which is then doubled.
        channels: Features of each texel of a plane.
        features: Features of each pixel.
        hidden: Width of the network between features and colours.
        samples: Points on each ray.
    """

    size: int = 64
    fine: int = 32
    middle: int = 64
    coarse: int = 128
    seen: int = 384
    rank: int = 384
    side: int = 16
    channels: int = 16
    features: int = 24
    hidden: int = 64
    samples: int = 16


class _Block(nn.Module):
    """Two convolutions that add to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        norms = (nn.GroupNorm(8, width), nn.GroupNorm(8, width))
        self.inner = nn.Sequential(
            norms[0], nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), norms[1], nn.SiLU(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class PictureEncoder(nn.Module):
    """Pictures of C channels and P numbers that say how they were taken -> vectors of what was seen, and features
    of pixels. It is small: what is learnt depends on how many pictures it has seen in the time there is."""

    def __init__(self, a: PictureArchitecture, channels: int = 3, pose: int = _POSE) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(channels + 2, a.fine, 3, 2, 1), nn.SiLU())
        self.middle = nn.Sequential(
            nn.Conv2d(a.fine, a.middle, 3, 2, 1), nn.GroupNorm(8, a.middle), nn.SiLU(), _Block(a.middle)
        )
        steps = a.size // 4 // _COARSE  # between the middle and the coarse pixels
        self.coarse = nn.Sequential(
            nn.Conv2d(a.middle, a.coarse, steps + 1, steps, steps // 2),
            nn.GroupNorm(8, a.coarse),
            nn.SiLU(),
            _Block(a.coarse),
        )
        self.narrow = nn.Conv2d(a.coarse, a.coarse // 4, 1)
        self.seen = nn.Sequential(nn.Linear(a.coarse // 4 * _COARSE**2 + pose, a.seen), nn.SiLU())
        self.up = nn.Sequential(nn.Conv2d(a.coarse, steps * steps * a.middle, 1), nn.PixelShuffle(steps))
        self.mixed = _Block(a.middle)
        self.finer = nn.Sequential(nn.Conv2d(a.middle, 4 * a.fine, 1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(a.fine, a.features, 3, padding=1)

    def forward(
        self, pictures: Float[Tensor, "B C H W"], pose: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B F h w"]]:
        count, _, height, width = pictures.shape
        across = torch.linspace(-1.0, 1.0, width, device=pictures.device).expand(count, 1, height, width)
        down = torch.linspace(-1.0, 1.0, height, device=pictures.device)[:, None].expand_as(across)
        fine = self.fine(torch.cat([pictures, across, down], dim=1))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        seen = self.seen(torch.cat([self.narrow(coarse).flatten(1), pose.to(coarse)], dim=1))
        middle = self.mixed(middle + self.up(coarse))
        return seen, self.last(F.silu(fine + self.finer(middle)))
