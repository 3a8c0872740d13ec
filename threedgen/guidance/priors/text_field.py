"""A radiance field that a text decodes to: what a text prior remembers of the shape and the paints of a thing.

A denoiser of pictures with the camera as a vector has to learn from pictures alone that they show one object from
many sides, which takes it thousands of pictures per object. Here the text is decoded to three feature planes (EG3D,
Chan et al. 2022, arXiv:2112.07945), and these are rendered from the camera (NeRF, Mildenhall et al. 2020,
arXiv:2003.08934, eq. 3). The rendered picture, the mean of what the text may show from there, is an input of the
denoiser, so that all views agree by construction. ATT3D (Lorraine et al. 2023, arXiv:2306.07349) decodes texts to
fields too, as the result of distillation and not as an input of its prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.types import Cameras
from threedgen.guidance.priors import radiance_field
from threedgen.guidance.priors.radiance_field import (
    DENSITY,
    EXTENT,
    RadianceField,
    as_pictures,
    at_least_float32,
    doubled_planes,
    premultiplied,
)
from threedgen.kernels.field_rendering import FieldLayers
from threedgen.kernels.plane_sampling import sample_planes

_HIDDEN = 384  # width between a text and the shares of the learnt planes


@dataclass(frozen=True)
class FieldArchitecture:
    """Sizes of a TextField.

    Attributes:
        width: Length of the vector of a text.
        code: Length of the code of an instance.
        rank: Number of learnt sets of planes that a text and an instance combine.
        side: Texels along each side of a learnt plane, which is then doubled.
        channels: Features of each texel.
        hidden: Width of the network between features and colours.
        samples: Points on each ray.
    """

    width: int = 96
    code: int = 16
    rank: int = 512
    side: int = 16
    channels: int = 12
    hidden: int = 32
    samples: int = 16


class DecodedText(NamedTuple):
    """One text, decoded; see Decoded."""

    planes: Float[Tensor, "3 P P C"]
    scale: Float[Tensor, " H"]
    offset: Float[Tensor, " H"]
    occupied: Bool[Tensor, "G G G"] | None


@dataclass(frozen=True)
class Decoded:
    """T texts, decoded.

    planes: see `TextField.planes`. scale, offset: of the hidden layer. occupied: which cells of a grid over the
    ball, in the order x, y, z, are not empty, or None if that was not asked for.
    """

    planes: Float[Tensor, "T 3 P P C"]
    scale: Float[Tensor, "T H"]
    offset: Float[Tensor, "T H"]
    occupied: Bool[Tensor, "T G G G"] | None = None

    def each(self) -> list[DecodedText]:
        """The texts one by one."""
        occupied = [None] * len(self.planes) if self.occupied is None else self.occupied.unbind()
        parts = (self.planes.unbind(), self.scale.unbind(), self.offset.unbind(), occupied)
        return [DecodedText(*values) for values in zip(*parts, strict=True)]


class TextField(RadianceField):
    """Vectors of texts -> premultiplied colours and alphas from any camera."""

    architecture: FieldArchitecture
    blob = (1.0, 2.0)

    def __init__(self, architecture: FieldArchitecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.mix = nn.Sequential(
            nn.Linear(a.width + a.code, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, a.rank), nn.SiLU()
        )
        self.texels = nn.Linear(a.rank, 3 * a.channels * a.side * a.side)
        # Sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158): the work is done before the texels are doubled.
        last = nn.Conv2d(a.channels, 4 * a.channels, 3, padding=1)
        first = nn.Conv2d(a.channels, a.channels, 3, padding=1)
        self.refine = nn.Sequential(first, nn.SiLU(), last, nn.PixelShuffle(2))
        self.modulation = nn.Linear(a.rank, 2 * a.hidden)
        self.inner = nn.Linear(3 * a.channels, a.hidden)
        self.outer = nn.Linear(a.hidden, 4)
        nn.init.normal_(self.texels.weight, std=0.3 / a.rank**0.5)
        nn.init.normal_(self.texels.bias, std=0.1)
        for zero in (*self.modulation.parameters(), *last.parameters()):
            nn.init.zeros_(zero)

    def planes(self, mixed: Float[Tensor, "T R"]) -> Float[Tensor, "T 3 P P C"]:
        """The feature planes of shares of the learnt sets, in the layout of `sample_planes`; P is twice the
        side."""
        a = self.architecture
        return doubled_planes(self.texels(mixed).view(-1, 3 * a.channels, a.side, a.side), self.refine)

    def forward(
        self,
        vectors: Float[Tensor, "T D"],
        cameras: Cameras,
        text: Int[Tensor, " B"] | None = None,
        pixels: Int[Tensor, "B N"] | None = None,
        shift: Float[Tensor, "B N S"] | None = None,
        codes: Float[Tensor, "T K"] | None = None,
    ) -> Float[Tensor, "B N 4"]:
        """Premultiplied RGB and alpha, in [0, 1], of N pixels of B views of texts; see `decode` and `render`."""
        return self.render(self.decode(vectors, codes), cameras, text, pixels, shift)

    def decode(self, vectors: Float[Tensor, "T D"], codes: Float[Tensor, "T K"] | None = None) -> Decoded:
        """The planes of texts. codes: which of the things of that name is meant (see `instances`); None: zeros,
        their mean."""
        if codes is None:
            codes = vectors.new_zeros(len(vectors), self.architecture.code)
        mixed = self.mix(torch.cat([vectors, codes], dim=1))
        scale, offset = at_least_float32(self.modulation(mixed)).chunk(2, dim=1)
        return Decoded(self.planes(mixed), scale, offset)

    def raw(self, one: DecodedText, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M 4"]:
        features = sample_planes(one.planes, points / EXTENT).flatten(1)
        hidden = self.inner(features) * (1.0 + one.scale) + one.offset
        return self.outer(F.silu(hidden))

    def layers(self, decoded: Decoded | DecodedText) -> FieldLayers:
        factor = 1.0 + decoded.scale
        weight = (self.inner.weight * factor.unsqueeze(-1)).unflatten(-1, (3, -1))  # [*T, H, 3, C]
        return FieldLayers(
            planes=premultiplied(decoded.planes, weight.movedim(-3, -1)),
            first=self.inner.bias * factor + decoded.offset,
            outer=self.outer.weight,
            last=self.outer.bias,
            blob=(*self.blob, DENSITY),
        )

    def pictures(
        self,
        vectors: Float[Tensor, "T D"],
        cameras: Cameras,
        text: Int[Tensor, " B"] | None = None,
        codes: Float[Tensor, "T K"] | None = None,
    ) -> Float[Tensor, "B 4 H W"]:
        """Whole pictures of the size of the cameras, channels first."""
        return as_pictures(self(vectors, cameras, text, codes=codes), cameras)


def load_text_field(folder: Path) -> TextField:
    """See `radiance_field.load_field`."""
    return radiance_field.load_field(folder, TextField, FieldArchitecture)
