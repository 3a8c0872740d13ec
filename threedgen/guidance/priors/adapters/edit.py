"""InstructPix2Pix (Brooks et al. 2023): a Stable Diffusion UNet that receives the picture to edit beside z."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.settings import at_least, settings
from threedgen.guidance.priors.adapters.base import DiffusersPrior, unet_arguments
from threedgen.guidance.priors.base import Condition, Prediction
from threedgen.guidance.priors.codec import Latents
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.parts import PipelineParts

_SCALE = 7.5  # the paper's text scale


class DiffusersEditPrior(DiffusersPrior):
    """An 8-channel UNet2DConditionModel: z and the unscaled latent of Condition.pictures.

    The guidance of the paper has three branches (equation 3, e(picture, text)):
    e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0)). Here predict(T) is
    e(I, T) + (s_I - 1)(e(I, 0) - e(0, 0)), where 0 is the negative text, so that classifier-free guidance on it,
    predict(0) + s_T (predict(T) - predict(0)), is exactly that of the paper.
    """

    @settings
    class Config:
        """Options of InstructPix2Pix.

        Attributes:
            image: Scale s_I, the larger the closer the result stays to the picture; 1 saves two passes of the
            network.
        """

        image: Annotated[float, at_least(0.0)] = 1.5

    image_condition = "pictures"
    image_scale = 1.5
    codec: Latents

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersEditPrior:
        network = parts.network("UNet2DConditionModel", "unet")
        process, form = parts.noise_table()
        text = encoders.one_encoder(parts, pixels=False)
        prior = cls(network, parts.codec(), text, process, form, _SCALE)
        prior.image_scale = options.image
        return prior

    @torch.no_grad()
    def predict(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        shown = self._latents(condition)
        output = self._output(z, t, condition.prompts, shown)
        if self.image_scale != 1.0:
            # The branches of a batch repeat z, so what does not depend on the text is computed once.
            rows, where = torch.cat([z, t[:, None, None, None].to(z).expand_as(z), shown.to(z)], 1).unique(
                dim=0, return_inverse=True
            )
            first = torch.stack([(where == row).nonzero()[0, 0] for row in range(len(rows))])
            silent = (condition.negative,) * len(rows)
            kept = self._output(z[first], t[first], silent, shown[first])
            free = self._output(z[first], t[first], silent, torch.zeros_like(shown[first]))
            output = output + (self.image_scale - 1.0) * (kept - free)[where]
        return self.read(z, t, output)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        return self._inputs(z, t, condition.prompts, self._latents(condition))

    def _output(self, z: Tensor, t: Tensor, prompts: Any, shown: Tensor) -> Tensor:
        return self.executor(**self._inputs(z, t, prompts, shown), return_dict=False)[0].to(z.dtype)

    def _inputs(self, z: Tensor, t: Tensor, prompts: Any, shown: Tensor) -> dict[str, Any]:
        states = self.text(prompts)["states"]
        both = torch.cat([z, shown.to(z)], dim=1)
        return unet_arguments(self.dtype, both, self.process.timestep(t), states)

    def _latents(self, condition: Condition) -> Float[Tensor, "B C h w"]:
        if condition.pictures is None:
            raise UserError(
                "this prior edits pictures (InstructPix2Pix) and is given none: set `pictures` to the views to edit"
            )
        return self.codec.unscaled(condition.pictures)
