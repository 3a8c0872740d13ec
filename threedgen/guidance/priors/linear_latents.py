"""Latents of renders without their autoencoder: the linear map from colours to latents that errs least.

An autoencoder for latent diffusion keeps the layout of a picture, and the mean colour of a block of pixels
explains much of the block's latent. Early in a run, while noise levels are high and the scene has no detail yet, a
linear map of these colours takes the place of the encoder, whose forward and backward pass cost more than the
denoiser. Latent-NeRF (Metzer et al. 2023, arXiv:2211.07600) has such a map between latents and colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.random import generator
from threedgen.guidance.priors.base import Prior, roles_of

STREAM = "priors/linear-latents"
_PICTURES = 8  # encoded to fit the map: each has thousands of latent pixels for four numbers a channel
_DISCS = 24  # in each picture
_SEED = 0  # the map belongs to the prior, not to a run


@dataclass(frozen=True)
class LinearLatents:
    """x = weight^T (r, g, b, 1) of the mean colour of the block of pixels that a latent pixel stands for.

    weight: [4, C]. size: height and width of the latents.
    """

    weight: Float[Tensor, "4 C"]
    size: int

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C size size"]:
        """Latents of pictures in [0, 1] of any size; differentiable."""
        blocks = resize_images(images, self.size)
        return (blocks @ self.weight[:3] + self.weight[3]).permute(0, 3, 1, 2)


def require_picture_latents(prior: Prior) -> None:
    """Raises UserError for a prior that has no latents, or whose samples are clips or several views in one
    picture."""
    roles = roles_of(prior)
    if not prior.latent or roles.frames > 1 or roles.layout is not None:
        what = "works on pixels" if not prior.latent else "takes clips or several views in one picture"
        raise UserError(f"linear_until needs a prior that has latents of single pictures: this one {what}")


@torch.no_grad()
def fit_linear_latents(prior: Prior, device: torch.device | str) -> LinearLatents:
    """The least-squares map over random pictures of discs before smooth backgrounds; the same in each run."""
    pictures = random_pictures(_PICTURES, prior.image_size).to(device)
    latents = torch.cat([prior.encode(one) for one in pictures.split(1)])
    size = latents.shape[-1]
    blocks = resize_images(pictures, size).flatten(0, 2).double()
    colours = torch.cat([blocks, torch.ones_like(blocks[:, :1])], dim=1)
    targets = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
    weight = torch.linalg.solve(colours.T @ colours, colours.T @ targets)
    return LinearLatents(weight.to(latents.dtype), size)


def random_pictures(count: int, size: int) -> Float[Tensor, "count size size 3"]:
    """Discs of random colours, places and sizes before backgrounds that run from one colour to another."""
    draw = generator(_SEED, STREAM, 0)
    across = torch.linspace(0.0, 1.0, size)
    y, x = torch.meshgrid(across, across, indexing="ij")
    ends = torch.rand(count, 2, 3, generator=draw)
    slope = torch.rand(count, 1, 1, 1, generator=draw)
    ramp = (slope * x[..., None] + (1.0 - slope) * y[..., None]).expand(count, size, size, 1)
    pictures = ends[:, 0, None, None] * (1.0 - ramp) + ends[:, 1, None, None] * ramp
    for _ in range(_DISCS):
        centre = torch.rand(count, 2, 1, 1, generator=draw)
        radius = 0.03 + 0.2 * torch.rand(count, 1, 1, generator=draw)
        inside = ((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2 < radius**2)[..., None]
        pictures = torch.where(inside, torch.rand(count, 1, 1, 3, generator=draw), pictures)
    return pictures
