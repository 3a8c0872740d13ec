"""DeepFloyd IF stage II: a pixel UNet that receives beside z a copy of the picture that is 4 times smaller.

For distillation the small copy is made from the render itself (Condition.pictures, which the guidance fills in).
Such a prior sharpens a render and adds no colours and shapes: use it after stage I.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.settings import between, settings
from threedgen.guidance.priors.adapters.base import SCALE_PIXELS, DiffusersPrior, unet_arguments
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.codec import signed
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.files import read_config
from threedgen.guidance.priors.folder.parts import PipelineParts, read_noise_table
from threedgen.guidance.priors.processes import NoiseSchedule

_FACTOR = 4  # 64 -> 256


class DiffusersSuperResolutionPrior(DiffusersPrior):
    """A 6-channel UNet2DConditionModel: z, and the small copy, enlarged to the size of z, with some noise on it.

    The noise on the copy is one fixed draw, the same for all samples and steps, because a Prior has no random
    stream of its own.
    """

    @settings
    class Config:
        """Options of DeepFloyd IF stage II.

        Attributes:
            noise_level: Noise on the small copy, as a step of the noise table of image_noising_scheduler, which is
                an input of the network too. The higher it is, the less the network relies on the copy. 250 is the
                value of the pipeline of diffusers.
        """

        noise_level: Annotated[int, between(0, 999)] = 250

    image_condition = "render"
    noise_level = 250
    noising: NoiseSchedule

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersSuperResolutionPrior:
        network = parts.network("UNet2DConditionModel", "unet")
        process, form = parts.noise_table()
        text = encoders.one_encoder(parts, pixels=True)
        codec = parts.codec()
        prior = cls(network, codec, text, process, form, SCALE_PIXELS)
        prior.noise_level = options.noise_level
        file = parts.folder.path / "image_noising_scheduler" / "scheduler_config.json"
        prior.noising = read_noise_table(parts.folder.path, read_config(file))
        return prior

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        if condition.pictures is None:
            raise UserError(
                "this prior enlarges pictures (DeepFloyd IF stage II) and is given none: set `pictures: render`"
            )
        states = self.text(condition.prompts)["states"]
        both = torch.cat([z, self.blurred(condition.pictures).to(z)], dim=1)
        arguments = unet_arguments(self.dtype, both, self.process.timestep(t), states)
        arguments["class_labels"] = torch.full((len(z),), self.noise_level, device=z.device)
        return arguments

    def blurred(self, pictures: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 size size"]:
        """The small copy as the network receives it."""
        size = self.image_size
        small = signed(pictures, size // _FACTOR)
        enlarged = F.interpolate(small, (size, size), mode="bilinear", align_corners=True)
        noise = torch.randn(1, 3, size, size, generator=generator(0, "prior/super-resolution", 0))
        level = self.noising.alphas_cumprod[self.noise_level].to(enlarged)
        return level.sqrt() * enlarged + (1.0 - level).sqrt() * noise.to(enlarged)
