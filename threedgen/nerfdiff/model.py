"""The two networks of NerfDiff (Gu et al. 2023): a UNet that turns a picture into a triplane, and a denoiser of
other views.

In both, blocks of 2 x 2 pixels are folded into channels, so that a picture of 64 pixels costs as much as one of 32.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.settings import SettingError, at_least, between, settings
from threedgen.core.types import RadianceField
from threedgen.nerfdiff.field import SourceFrame, camera_field

DECODER_LAYERS = 3
_FOLD = 2
_GROUPS = 8  # of the group norms, which every width is a multiple of


@settings
class NerfDiffArchitecture:
    """Sizes of the networks of a NerfDiff.

    Attributes:
        size (pixels): Width and height of the pictures, and of the planes in texels.
        features: Number of features of a texel.
        hidden: Width of the two hidden layers of the decoder.
        planes: Number of channels of each level of the UNet that makes triplanes, the finest level first. The
            finest level has half the size, and the two coarsest levels attend to themselves.
        denoiser: The same for the UNet that denoises views.
    """

    size: Annotated[int, between(2, 1024)] = 64
    features: Annotated[int, at_least(1)] = 8
    hidden: Annotated[int, at_least(1)] = 32
    planes: tuple[Annotated[int, at_least(1)], ...] = (32, 48, 64, 96)
    denoiser: tuple[Annotated[int, at_least(1)], ...] = (32, 48, 64, 96)

    def __post_init__(self) -> None:
        for name, widths in (("planes", self.planes), ("denoiser", self.denoiser)):
            if not widths or any(width % _GROUPS for width in widths):
                raise SettingError(name, f"is {list(widths)}; it must hold multiples of {_GROUPS}")
        levels = _FOLD ** max(len(self.planes), len(self.denoiser))
        if self.size % levels:
            raise SettingError(
                "size", f"is {self.size}; with so many levels it must be a multiple of {levels}"
            )


class NerfDiffModel(nn.Module):
    """Makes a triplane of a picture (`planes`), and predicts v of a noisy view from render and picture
    (`denoise`)."""

    def __init__(self, architecture: NerfDiffArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        pixel = 3 * _FOLD**2
        self.encoder = _unet(architecture, architecture.planes, pixel, 3 * architecture.features * _FOLD**2)
        self.denoiser = _unet(architecture, architecture.denoiser, 3 * pixel, pixel)
        widths = (3 * architecture.features, *(architecture.hidden,) * (DECODER_LAYERS - 1), 4)
        layers = [nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)]
        self.decoder = nn.ModuleList(layers)
        with torch.no_grad():
            layers[-1].bias[0] = -2.0  # the scene starts as thin fog, which can be seen through
            for network in (self.encoder, self.denoiser):
                network.conv_out.weight.mul_(0.1 if network is self.encoder else 0.0)

    def planes(self, pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S C"]:
        """The triplanes of pictures in [-1, 1]."""
        size, features = self.architecture.size, self.architecture.features
        folded = F.pixel_unshuffle(pictures, _FOLD)
        texels = self.encoder(folded, torch.zeros(len(pictures), device=pictures.device)).sample
        texels = F.pixel_shuffle(texels.float(), _FOLD)
        return texels.reshape(-1, 3, features, size, size).permute(0, 1, 3, 4, 2).contiguous()

    def field(self, planes: Float[Tensor, "3 S S C"], frame: SourceFrame) -> RadianceField:
        """The radiance field of one triplane."""
        return camera_field(planes, *self.decoder_parameters(), frame)

    def decoder_parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases of the layers of the decoder."""
        layers: Any = self.decoder
        return [layer.weight for layer in layers], [layer.bias for layer in layers]

    def denoise(
        self,
        noisy: Float[Tensor, "B 3 S S"],
        timesteps: Int[Tensor, " B"],
        renders: Float[Tensor, "B 3 S S"],
        pictures: Float[Tensor, "B 3 S S"],
    ) -> Float[Tensor, "B 3 S S"]:
        """The predicted v of views (NerfDiff, Gu et al. 2023, section 3.2; v as in Salimans and Ho 2022).

        All pictures are in [-1, 1]. renders: of the single-image NeRF from each view. pictures: the source of each.
        """
        folded = F.pixel_unshuffle(torch.cat([noisy, renders, pictures], dim=1), _FOLD)
        return F.pixel_shuffle(self.denoiser(folded, timesteps).sample, _FOLD)


def _unet(architecture: NerfDiffArchitecture, widths: tuple[int, ...], inputs: int, outputs: int) -> Any:
    from diffusers.models.unets.unet_2d import UNet2DModel

    attends = [level >= len(widths) - 2 for level in range(len(widths))]
    return UNet2DModel(
        sample_size=architecture.size // _FOLD,
        in_channels=inputs,
        out_channels=outputs,
        block_out_channels=widths,
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        layers_per_block=1,
        attention_head_dim=math.gcd(*widths[-2:]),
        norm_num_groups=_GROUPS,
        resnet_time_scale_shift="scale_shift",
    )
