"""The denoiser of a text prior with a field: the closed-form answer for its rendered picture, and what a UNet adds.

If pictures were normal about the rendered mean m with the standard deviation s, the best prediction of a clean one
would be (sigma^2 m + alpha s^2 z) / (sigma^2 + alpha^2 s^2). The UNet predicts what is missing to v (Salimans and
Ho 2022, arXiv:2202.00512): which of the things that the text may mean this is, its details, and the background.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.guidance.priors.processes import per_sample

SPREAD = 0.2  # s, of pictures in [-1, 1]
INPUTS = 7  # channels of a pixel that the UNet sees: z, the mean picture, and the rendered alpha


def mean_picture(
    rendered: Float[Tensor, "B 4 H W"], background: Float[Tensor, "B 3"] | None
) -> Float[Tensor, "B 3 H W"]:
    """The rendered picture in [-1, 1] before a background, white if it is not known.

    rendered: premultiplied RGB and alpha. background: colours. Both in [0, 1].
    """
    behind = rendered.new_ones(1, 3) if background is None else background.to(rendered)
    return 2.0 * (rendered[:, :3] + (1.0 - rendered[:, 3:]) * behind[:, :, None, None]) - 1.0


def field_answer(
    z: Float[Tensor, "B 3 H W"],
    mean: Float[Tensor, "B 3 H W"],
    alpha: Float[Tensor, " B"],
    sigma: Float[Tensor, " B"],
) -> Float[Tensor, "B 3 H W"]:
    """v of the closed-form answer for the mean picture."""
    a, s = per_sample(alpha, z), per_sample(sigma, z)
    return s * (a * (1.0 - SPREAD**2) * z - mean) / (s**2 + a**2 * SPREAD**2)


def unet_inputs(
    z: Float[Tensor, "B 3 H W"],
    mean: Float[Tensor, "B 3 H W"],
    rendered: Float[Tensor, "B 4 H W"],
    patch: int,
) -> Float[Tensor, "B C h w"]:
    """What the UNet sees: z, the mean picture and the rendered alpha, with blocks of patch x patch pixels as
    channels."""
    return F.pixel_unshuffle(torch.cat([z, mean, 2.0 * rendered[:, 3:] - 1.0], dim=1), patch)


def correction(output: Float[Tensor, "B C h w"], patch: int) -> Float[Tensor, "B 3 H W"]:
    """The v that the UNet adds, from its output for blocks of patch x patch pixels."""
    return F.pixel_shuffle(output, patch)


def patch_of(unet: Any) -> int:
    """The side of the blocks of pixels that a UNet sees, from the number of its outputs. Raises ValueError for
    numbers of channels that no block has."""
    patch = round((unet.config.out_channels / 3) ** 0.5)
    if (unet.config.in_channels, unet.config.out_channels) != (INPUTS * patch**2, 3 * patch**2):
        raise ValueError(
            f"it has {unet.config.in_channels} inputs and {unet.config.out_channels} outputs, which no blocks of "
            "pixels have"
        )
    return patch
