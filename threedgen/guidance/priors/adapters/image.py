"""The plain text-to-image UNet: Stable Diffusion 1.x/2.x, DeepFloyd IF stage I, and the embedded model.

Their differences are read from their configs, never from their names: latents if there is an autoencoder, learned
variances if the UNet has twice as many outputs as inputs, the prediction type of the scheduler, and a camera vector
if the class embedding of the UNet is a projection.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.guidance.priors.adapters.base import (
    SCALE_LATENT,
    SCALE_PIXELS,
    DiffusersPrior,
    unet_arguments,
)
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.codec import Codec
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.control import Control
from threedgen.guidance.priors.folder.parts import PipelineParts
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.priors.processes import Process

_SCALE_CAMERAS = 4.0  # measured, for the small camera-conditioned prior


class DiffusersImagePrior(DiffusersPrior):
    """A text-to-image UNet2DConditionModel, with a ControlNet beside it if one is given."""

    def __init__(
        self,
        network: Any,
        codec: Codec,
        text: TextEmbedder,
        process: Process,
        form: str,
        scale: float,
        control: Control | None = None,
    ) -> None:
        super().__init__(network, codec, text, process, form, scale)
        self.camera_conditioned = network.config.class_embed_type == "projection"
        self.control = control
        if control is not None:
            self.image_condition = "pictures"

    @classmethod
    def load(cls, parts: PipelineParts, options: Any, control: Control | None = None) -> DiffusersImagePrior:
        """From a folder for which `adapter_of` chose this class."""
        network = parts.network("UNet2DConditionModel", "unet")
        codec = parts.codec()
        process, form = parts.noise_table()
        text = encoders.one_encoder(parts, pixels=not codec.latent)
        pixels = _SCALE_CAMERAS if network.config.class_embed_type == "projection" else SCALE_PIXELS
        return cls(network, codec, text, process, form, SCALE_LATENT if codec.latent else pixels, control)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        states = self.text(condition.prompts)["states"]
        arguments = unet_arguments(self.dtype, z, self.process.timestep(t), states)
        if self.camera_conditioned:
            arguments["class_labels"] = self.camera_vectors(condition, z).to(self.dtype)
        if self.control is not None:
            arguments |= self.control.residuals(arguments, condition, self.image_size)
        return arguments

    def camera_vectors(self, condition: Condition, z: Tensor) -> Float[Tensor, "B 16"]:
        """The input of the class embedding: view_features of the cameras, as in the training of the embedded
        prior."""
        from threedgen.cameras.orbit import VIEW_FEATURES, view_features

        if condition.cameras is None:  # zeros mean any camera, see view_features
            return torch.zeros(len(z), VIEW_FEATURES, device=z.device)
        return view_features(condition.cameras).to(z.device)
