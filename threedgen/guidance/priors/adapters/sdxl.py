"""Stable Diffusion XL (Podell et al. 2023): a UNet with the states of two encoders, a pooled state and sizes as
input."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from threedgen.guidance.priors.adapters.base import SCALE_LATENT, unet_arguments
from threedgen.guidance.priors.adapters.image import DiffusersImagePrior
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.control import Control
from threedgen.guidance.priors.folder.parts import PipelineParts


class DiffusersSDXLPrior(DiffusersImagePrior):
    """A DiffusersImagePrior with the conditions that SDXL adds to the time embedding."""

    parts = ("unet", "text_encoder", "text_encoder_2")

    @classmethod
    def load(cls, parts: PipelineParts, options: Any, control: Control | None = None) -> DiffusersSDXLPrior:
        network = parts.network("UNet2DConditionModel", "unet")
        codec = parts.codec()
        process, form = parts.noise_table()
        return cls(network, codec, encoders.two_clips(parts), process, form, SCALE_LATENT, control)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        rows = self.text(condition.prompts)
        arguments = unet_arguments(self.dtype, z, self.process.timestep(t), rows["states"])
        # Height and width of the original, corner of the crop, target height and width: an uncropped picture.
        side = float(self.image_size)
        sizes = z.new_tensor([side, side, 0.0, 0.0, side, side]).repeat(len(z), 1)
        arguments["added_cond_kwargs"] = {
            "text_embeds": rows["pooled"].to(device=z.device, dtype=self.dtype),
            "time_ids": sizes.to(self.dtype),
        }
        if self.control is not None:
            arguments |= self.control.residuals(arguments, condition, self.image_size)
        return arguments
