"""What every diffusers denoiser behind the Prior contract has in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.guidance.priors.base import Condition, Prediction, Text
from threedgen.guidance.priors.clip_codec import ClipCodec
from threedgen.guidance.priors.codec import Codec
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.priors.processes import Process, add_noise, per_sample

# Guidance scales (uncond + s (cond - uncond)) that the field settled on for latents (DreamFusion and its
# descendants) and pixels (DeepFloyd IF).
SCALE_LATENT, SCALE_PIXELS = 100.0, 20.0


class Form(NamedTuple):
    """What a network predicts: how its answer is read, and what it is trained to answer."""

    read: Callable[[Tensor, Tensor, Tensor, Tensor], Prediction]
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(x, eps, alpha, sigma), the last two shaped to multiply."""


FORMS = {
    "epsilon": Form(Prediction.from_eps, lambda x, eps, alpha, sigma: eps),
    "v_prediction": Form(Prediction.from_v, lambda x, eps, alpha, sigma: alpha * eps - sigma * x),
    "sample": Form(Prediction.from_x0, lambda x, eps, alpha, sigma: x),
    "flow": Form(Prediction.from_flow, lambda x, eps, alpha, sigma: eps - x),
}


class DiffusersPrior:
    """A frozen denoiser of diffusers; a subclass says what its network is called with.

    network: of diffusers, frozen. codec: pictures to samples. text: rows of the texts. process: alpha and sigma.
    form: a key of FORMS. Everything but the network's arguments is the same for all of them.
    """

    @dataclass(frozen=True)
    class Config:
        """No options of its own."""

    parts: ClassVar[tuple[str, ...]] = ("unet", "text_encoder")
    """Folders whose weights it needs, beside an autoencoder's."""
    image_condition: Literal["none", "reference", "pictures", "render"] = "none"
    """What it needs beside text: Condition.reference, Condition.pictures (a picture for each view, whatever it
    shows), or Condition.pictures holding the renders themselves."""
    camera_conditioned = False
    reads_text: ClassVar[bool] = True
    """False where only pictures and cameras say what to show."""
    needs_cameras: ClassVar[bool] = False
    """True when "any camera" is nothing it knows: a condition without cameras is an error."""
    video: ClassVar[bool] = False
    """True where a sample is a clip: `encode` takes `frames` pictures for each."""
    half: ClassVar[torch.dtype] = torch.float16
    """What it computes in on CUDA unless told."""

    def __init__(
        self,
        network: Any,
        codec: Codec | ClipCodec,
        text: TextEmbedder,
        process: Process,
        form: str,
        scale: float,
    ) -> None:
        self.network, self.codec, self.text, self.process = network, codec, text, process
        self.form = FORMS[form]
        self.default_scale = scale
        self.latent = codec.latent
        self.image_size = codec.size
        self.dtype = next(network.parameters()).dtype

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        """How many pictures a sample of the folder's model shows. Raises UserError for options that do not fit."""
        return 1

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        return self.codec.encode(images)

    def decode(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        return self.codec.decode(x)

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.process.alpha(t)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.process.sigma(t)

    def add_noise(self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
        return add_noise(self.process, x, eps, t)

    def prepare(self, prompts: Sequence[Text]) -> None:
        self.text(prompts)
        self.text.release()

    @torch.no_grad()
    def predict(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        return self.read(z, t, self.answer(self.network, z, t, condition))

    def read(self, z: Tensor, t: Float[Tensor, " B"], output: Tensor) -> Prediction:
        """What the network's raw output says, in all forms."""
        return self.form.read(z, output, self.alpha(t), self.sigma(t))

    def target(self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
        """What the network's raw output should have been for the noise eps on x."""
        return self.form.target(x, eps, per_sample(self.alpha(t), x), per_sample(self.sigma(t), x))

    def answer(
        self, network: Any, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        """The raw output of `network`, this prior's own or one of its shape; differentiable in its parameters.

        Twice the channels means a learned variance in the second half, which distillation has no use for.
        """
        with torch.no_grad():
            arguments = self.arguments(z, t, condition)
        output = network(**arguments, return_dict=False)[0]
        return output[:, : z.shape[1]].to(z.dtype)

    def arguments(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> dict[str, Any]:
        """What the network is called with."""
        raise NotImplementedError

    def particle_model(self, kind: str, rank: int, seed: int) -> torch.nn.Module:
        """A second denoiser that starts as this one and learns the renders of one scene (METHODS 1.7).

        kind: lora (low-rank changes of the attention), copy (every weight), auto (copy below 20 million weights).
        See particles.ParticleNetwork. Raises UserError.
        """
        from threedgen.guidance.priors.particles import ParticleNetwork

        return ParticleNetwork(self, kind, rank, seed)


def unet_arguments(dtype: torch.dtype, z: Tensor, timestep: Tensor, states: Tensor) -> dict[str, Any]:
    """What every UNet2DConditionModel is called with: the sample, the time, the states it attends to."""
    return {
        "sample": z.to(dtype=dtype, memory_format=torch.channels_last),
        "timestep": timestep,
        "encoder_hidden_states": states.to(device=z.device, dtype=dtype),
    }
