"""The decoder that all objects share (SSDNeRF, Chen, Gu et al. 2023, section 4 and its code)."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.spherical_harmonics import basis
from threedgen.core.types import RadianceField
from threedgen.kernels.plane_sampling import sample_planes
from threedgen.ssdnerf.config import Codes, Decoder, Rendering

_LARGEST_EXPONENT = 15.0
# The range of colours exceeds [0, 1] by this much, so that black and white are inside of it.
_SATURATION = 1e-3
_DEGREE = 3  # degree of the spherical harmonics of a direction
# Density at the start, as a multiple of the threshold of occupied cells: thin fog that is not taken for empty
# space.
_FOG = 2.0
LIMIT = 2.0  # the values of a code lie between minus and plus this number


def activate(parameters: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The codes 2 tanh(c) of parameters c."""
    return LIMIT * torch.tanh(parameters)


def deactivate(codes: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The parameters of codes, which are first clipped to just inside of +-2."""
    inside = 1.0 - 1e-4
    return torch.atanh((codes / LIMIT).clamp(-inside, inside))


def as_pictures(codes: Float[Tensor, "B P C R R"]) -> Float[Tensor, "B P*C R R"]:
    """Codes as the denoiser takes them, with the channels of the planes one after the other."""
    return codes.flatten(1, 2)


class TriplaneDecoder(nn.Module):
    """Density and colour of a point from its features on three planes. `sample_planes` says where a texel lies."""

    def __init__(self, codes: Codes, decoder: Decoder, rendering: Rendering) -> None:
        super().__init__()
        self.extent = rendering.extent
        self.base = nn.Linear(3 * codes.channels, decoder.hidden)
        self.density = nn.Linear(decoder.hidden, 1)
        self.color = nn.Linear(decoder.hidden, 3)
        self.directions = nn.Linear((_DEGREE + 1) ** 2, decoder.hidden) if decoder.directions else None
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    layer.bias.zero_()
            self.density.bias.fill_(math.log(_FOG * rendering.threshold))

    def field(
        self, code: Float[Tensor, "3 C R R"], occupied: Bool[Tensor, "G G G"] | None = None
    ) -> RadianceField:
        """The radiance field of one activated code, differentiable in code and decoder.

        occupied: the cells that may hold something; None for all of them.
        """
        planes = code.permute(0, 2, 3, 1).contiguous()

        def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            return self(planes, points, directions)

        corner = code.new_full((3,), self.extent)
        return RadianceField(query, torch.stack([-corner, corner]), occupied)

    def forward(
        self,
        planes: Float[Tensor, "3 R R C"],
        points: Float[Tensor, "M 3"],
        directions: Float[Tensor, "M 3"],
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, "M 3"]]:
        """Density per world unit and colour in [0, 1] of world points."""
        base = self.base(sample_planes(planes, points / self.extent).flatten(1))
        hidden = F.silu(base)
        density = truncated_exp(self.density(hidden)[:, 0])
        if self.directions is not None:
            hidden = F.silu(base + self.directions(basis(directions, _DEGREE)))
        color = torch.sigmoid(self.color(hidden))
        return density, color * (1.0 + 2.0 * _SATURATION) - _SATURATION


def truncated_exp(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp of values that are clipped at 15. Its gradient is that of the clipped value everywhere, so that values
    beyond the clip can come back (Müller et al. 2022)."""
    return _TruncatedExp.apply(values)


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        result = values.clamp(max=_LARGEST_EXPONENT).exp()
        ctx.save_for_backward(result, values)
        return result

    @staticmethod
    def backward(ctx: Any, d_result: Tensor) -> Tensor:
        result, values = ctx.saved_tensors
        # Far below, the slope of exp is nearly 0, and a density could not come back from there.
        return d_result * torch.where(
            values < -_LARGEST_EXPONENT, torch.exp(values.new_tensor(-15.0)), result
        )
