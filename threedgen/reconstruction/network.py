"""The reconstructor: a U-Net that turns views with known cameras into 3D Gaussians, one for each pixel.

As in LGM (Tang et al. 2024, arXiv:2402.05054), the pixels of all views have the Pluecker coordinates of their rays
beside their colours, attention runs over all views of an object, and each pixel becomes a Gaussian near its ray. As
in Gen-3Diffusion (Xue et al. 2024, arXiv:2412.06698), the network is told the noise level of a trajectory and sees
the noisy views beside the estimates of clean ones, so it works inside a sampler as well as after it. The picture
that was given may be a further view, whose camera need not be known.

The network is also told where along each ray the outlines of all views allow the object to be (`hull`), and a
Gaussian begins where its ray enters that hull.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.spherical_harmonics import dc_from_rgb
from threedgen.core.types import Cameras, GaussianCloud
from threedgen.reconstruction.hull import DEPTH, visual_hull
from threedgen.reconstruction.rays import pixel_rays, pluecker

FOLD = 4
"""Pixels along each side of a block whose values are channels of one pixel of the U-Net."""
_RAYS = 6
_FLAGS = 2  # numbers that say of a view whether it is the given picture, and whether its camera is known
_HULL = 3  # numbers that say of a ray where the outlines of all views allow the object to be
_COARSE = 2  # pixels along each side of a block for which that is found
_NUMBERS = 15  # of a Gaussian: depth, offset (3), scale (3), rotation (4), opacity, colour (3)
_NEAREST = -0.9  # of DEPTH, the least depth relative to the origin at which the surface is looked for first
_OFFSET = 0.1  # world units by which a Gaussian leaves its ray at most
_SIZE = 0.6  # standard deviation of a Gaussian at first, in widths of its pixel
_GROWTH = 3.0  # largest logarithm of the factor on that
_OPACITY = -1.0  # logit at first
SEEN = 1.0 / 255.0
"""Opacity below which a Gaussian is not drawn, and so is none."""


@dataclass(frozen=True)
class ReconstructorArchitecture:
    """Sizes of a Reconstructor.

    Attributes:
        size (pixels): Width and height of the views.
        channels: Number of channels of each level of the U-Net, the finest level first.
        attention: Whether each level attends to all views, the finest level first.
        heads: Channels of each head of attention.
    """

    size: int = 64
    channels: tuple[int, ...] = (64, 96, 128)
    attention: tuple[bool, ...] = (False, True, True)
    heads: int = 32


@dataclass(frozen=True)
class GivenViews:
    """The views of B objects, V of each, from which Gaussians are made.

    estimates: of the clean views, in [-1, 1] on white. noisy: what they were estimated from, alpha x + sigma eps;
    of clean views the same as `estimates`. timesteps: 0 to 999, the noise level of each object; 0 is clean.
    cameras: B V of them, those of an object one after the other. picture: the given one, in [-1, 1] on white, or
    None. picture_cameras: B of them. known: 1 where the camera of the picture is told, else 0.
    """

    estimates: Float[Tensor, "B V 3 H W"]
    noisy: Float[Tensor, "B V 3 H W"]
    timesteps: Int[Tensor, " B"]
    cameras: Cameras
    picture: Float[Tensor, "B 3 H W"] | None = None
    picture_cameras: Cameras | None = None
    known: Float[Tensor, " B"] | None = None


class AcrossViews:
    """An attention processor that gives `inner` the pixels of all views of an object as one picture."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.views = inner, 1

    def __call__(
        self, attn: Any, hidden_states: Float[Tensor, "B C h w"], temb: Any = None, **others: Any
    ) -> Tensor:
        views = self.views
        batch, channels, height, width = hidden_states.shape
        tall = hidden_states.reshape(batch // views, views, channels, height, width).transpose(1, 2)
        tall = tall.reshape(batch // views, channels, views * height, width)
        seen = self.inner(attn, tall, temb=temb, **others).reshape(
            batch // views, channels, views, height, width
        )
        return seen.transpose(1, 2).reshape(batch, channels, height, width)


class Reconstructor(nn.Module):
    """See the module."""

    def __init__(self, architecture: ReconstructorArchitecture) -> None:
        from diffusers.models.attention_processor import Attention, AttnProcessor
        from diffusers.models.unets.unet_2d import UNet2DModel

        super().__init__()
        self.architecture = architecture
        down = ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in architecture.attention]
        up = ["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(architecture.attention)]
        self.unet: Any = UNet2DModel(
            sample_size=architecture.size // FOLD,
            in_channels=6 * FOLD**2 + _RAYS + _HULL * (FOLD // _COARSE) ** 2,
            out_channels=_NUMBERS * FOLD**2,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            block_out_channels=architecture.channels,
            layers_per_block=1,
            attention_head_dim=architecture.heads,
            norm_num_groups=8,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )
        width = 4 * architecture.channels[0]
        self.role = nn.Linear(_FLAGS, width)
        self._processors: list[AcrossViews] = []
        for module in self.unet.modules():
            if isinstance(module, Attention):
                self._processors.append(AcrossViews(AttnProcessor()))
                module.set_processor(self._processors[-1])  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    @property
    def size(self) -> int:
        """Width and height of the views, in pixels."""
        return self.architecture.size

    def forward(self, given: GivenViews) -> list[GaussianCloud]:
        """The Gaussians of each object, at most one for each pixel of a view."""
        count, views = given.estimates.shape[:2]
        seen = [torch.cat([given.noisy, given.estimates], dim=2)]
        rays = [pluecker(given.cameras, self.size // FOLD).unflatten(0, (count, views))]
        hull = visual_hull(given.estimates, given.cameras, self.size // _COARSE)
        around = [F.pixel_unshuffle(hull.flatten(0, 1), FOLD // _COARSE).unflatten(0, (count, views))]
        flags = [given.estimates.new_tensor([0.0, 1.0]).expand(count, views, -1)]
        if given.picture is not None:
            assert given.picture_cameras is not None
            assert given.known is not None
            known = given.known.to(given.picture)
            seen.append(torch.cat([given.picture, given.picture], dim=1)[:, None])
            told = pluecker(given.picture_cameras, self.size // FOLD) * known[:, None, None, None]
            rays.append(told[:, None])
            around.append(torch.zeros_like(around[0][:, :1]))
            flags.append(torch.stack([torch.ones_like(known), known], dim=1)[:, None])
        pixels, directions, depths, roles = (torch.cat(parts, dim=1) for parts in (seen, rays, around, flags))
        every = pixels.shape[1]
        for processor in self._processors:
            processor.views = every
        times = given.timesteps[:, None].repeat(1, every)
        times[:, views:] = 0  # the picture is clean
        seen = [F.pixel_unshuffle(pixels.flatten(0, 1), FOLD), directions.flatten(0, 1), depths.flatten(0, 1)]
        inputs = torch.cat(seen, dim=1)
        output = self.unet(inputs, times.flatten(), class_labels=self.role(roles.flatten(0, 1))).sample
        maps = F.pixel_shuffle(output.float(), FOLD).unflatten(0, (count, every))[:, :views]
        enters = hull[:, :, 0].repeat_interleave(_COARSE, 2).repeat_interleave(_COARSE, 3)
        return self._gaussians(maps, enters.clamp_min(_NEAREST), given)

    def _gaussians(
        self, maps: Float[Tensor, "B V 15 H W"], enters: Float[Tensor, "B V H W"], given: GivenViews
    ) -> list[GaussianCloud]:
        count, views = maps.shape[:2]
        origins, directions, pixel = pixel_rays(given.cameras, self.size)
        values = maps.flatten(0, 1).flatten(2).transpose(1, 2)  # B V, pixels, numbers
        depth, offset, scale, turn, opacity, color = values.split([1, 3, 3, 4, 1, 3], dim=2)
        begins = enters.flatten(0, 1).flatten(1)[:, :, None]
        away = origins.norm(dim=1)[:, None, None] + DEPTH * (begins + depth.tanh())
        means = origins[:, None] + directions * away + _OFFSET * offset.tanh()
        scales = _SIZE * pixel[:, None, None] * away * (_GROWTH * (scale / _GROWTH).tanh()).exp()
        quats = turn + turn.new_tensor([1.0, 0.0, 0.0, 0.0])
        opacities = torch.sigmoid(opacity + _OPACITY).squeeze(2)
        own = given.estimates.flatten(0, 1).flatten(2).transpose(1, 2)
        sh = dc_from_rgb(0.5 + 0.5 * own + color)
        parts = [
            part.unflatten(0, (count, views)).flatten(1, 2) for part in (means, quats, scales, opacities, sh)
        ]
        clouds = []
        for one in zip(*parts, strict=True):
            drawn = one[3].detach() > SEEN
            mean, quat, size, alpha, colors = (part[drawn] for part in one)
            clouds.append(GaussianCloud(mean, quat, size, alpha, colors[:, None]))
        return clouds
