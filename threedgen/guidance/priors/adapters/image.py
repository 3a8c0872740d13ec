"""The plain text-to-image UNet: Stable Diffusion 1.x/2.x, DeepFloyd IF stage I, and our embedded one.

What differs between these three is read from their configs, never from their names: latents when there is a VAE,
learned variances when the UNet has twice as many outputs as inputs, the prediction type of the scheduler,
a camera vector when the UNet's class embedding is a projection.
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
from threedgen.guidance.priors.folder.parts import Parts
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.priors.processes import Process

_SCALE_CAMERAS = 4.0  # measured, for the small camera-conditioned prior


class DiffusersImagePrior(DiffusersPrior):
    """A text-to-image UNet2DConditionModel, with a ControlNet beside it when one is given."""

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
    def load(cls, parts: Parts, options: Any, control: Control | None = None) -> DiffusersImagePrior:
        """From a folder that `kinds` has found to be one of these."""
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
        """The class embedding's input: cameras.view_features, as the embedded prior was trained."""
        from threedgen.cameras.orbit import VIEW_FEATURES, view_features

        if condition.cameras is None:  # zeros stand for "any camera", see view_features
            return torch.zeros(len(z), VIEW_FEATURES, device=z.device)
        return view_features(condition.cameras).to(z.device)
