"""What all denoisers of diffusers behind the Prior contract have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.settings import settings
from threedgen.guidance.priors.base import Condition, ParticleModel, Prediction, PriorRoles, Text
from threedgen.guidance.priors.clip_codec import ClipCodec
from threedgen.guidance.priors.codec import Codec
from threedgen.guidance.priors.executors.deferred import loaded
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.priors.processes import Process, add_noise, per_sample

# Usual guidance scales (uncond + s (cond - uncond)) for latents (DreamFusion and its descendants) and for pixels
# (DeepFloyd IF).
SCALE_LATENT, SCALE_PIXELS = 100.0, 20.0


class Form(NamedTuple):
    """The meaning of the output of a network: how it is read, and its training target."""

    read: Callable[[Tensor, Tensor, Tensor, Tensor], Prediction]
    """(z, output, alpha, sigma), the last two [B]."""
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(x, eps, alpha, sigma), the last two [B, 1, 1, 1]."""


FORMS = {
    "epsilon": Form(Prediction.from_eps, lambda x, eps, alpha, sigma: eps),
    "v_prediction": Form(Prediction.from_v, lambda x, eps, alpha, sigma: alpha * eps - sigma * x),
    "sample": Form(Prediction.from_x0, lambda x, eps, alpha, sigma: x),
    "flow": Form(Prediction.from_flow, lambda x, eps, alpha, sigma: eps - x),
}


class DiffusersPrior(PriorRoles):
    """A frozen denoiser of diffusers; a subclass provides the arguments of its network.

    network: a frozen model of diffusers, or what stands for one. codec: pictures to samples. text: texts to
    tensors. process: alpha and sigma. form: a key of FORMS. scale: the default guidance scale.
    """

    @settings
    class Config:
        """This kind of model has no options."""

    parts: ClassVar[tuple[str, ...]] = ("unet", "text_encoder")
    """Parts of the folder whose weights it needs, beside those of an autoencoder."""
    camera_conditioned = False
    video: ClassVar[bool] = False
    """True if a sample is a clip: `encode` takes `frames` pictures for each sample."""
    half: ClassVar[torch.dtype] = torch.float16
    """Its default precision on CUDA."""

    def __init__(
        self,
        network: Any,
        codec: Codec | ClipCodec,
        text: TextEmbedder,
        process: Process,
        form: str,
        scale: float,
    ) -> None:
        self._network = network
        self.codec, self.text, self.process = codec, text, process
        self.form = FORMS[form]
        self.default_scale = scale
        self.latent = codec.latent
        self.image_size = codec.size
        # Not the type of the first weight: some networks keep that one in float32 when they compute in half.
        self.dtype: torch.dtype = network.dtype
        self.executor: Callable[..., Any] = network
        """What `predict` calls in place of the network."""

    @property
    def network(self) -> Any:
        """The network, which is loaded now if it was not yet."""
        return loaded(self._network)

    @property
    def network_config(self) -> Any:
        """The config of the network, which is not loaded for that."""
        return self._network.config

    def fresh(self) -> Self:
        """The same networks, for one more run: what was remembered of texts is forgotten, because how many texts
        are encoded at a time may decide their last bits."""
        other = copy.copy(self)
        other.text = self.text.fresh()
        return other

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        """Pictures per sample of the model of a folder. Raises UserError for options that do not fit."""
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
        return self.read(z, t, self.answer(self.executor, z, t, condition))

    def read(self, z: Tensor, t: Float[Tensor, " B"], output: Tensor) -> Prediction:
        """The raw output of the network in all forms."""
        return self.form.read(z, output, self.alpha(t), self.sigma(t))

    def target(self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
        """The training target of the network for the noise eps on x."""
        return self.form.target(x, eps, per_sample(self.alpha(t), x), per_sample(self.sigma(t), x))

    def answer(
        self, network: Any, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        """The raw output of `network`, that of this prior or one of its kind; differentiable in its parameters.

        If it has twice the channels of z, the second half is a learned variance, which distillation does not use.
        """
        with torch.no_grad():
            arguments = self.arguments(z, t, condition)
        output = network(**arguments, return_dict=False)[0]
        return output[:, : z.shape[1]].to(z.dtype)

    def arguments(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> dict[str, Any]:
        """The arguments of the network. Raises UserError if the condition lacks something that it needs."""
        raise NotImplementedError

    def particle_model(self, kind: str, rank: int, seed: int) -> ParticleModel:
        """A particles.ParticleNetwork: kind auto is copy below 20 million weights, else lora."""
        from threedgen.guidance.priors.particles import ParticleNetwork

        return ParticleNetwork(self, kind, rank, seed)


def unet_arguments(dtype: torch.dtype, z: Tensor, timestep: Tensor, states: Tensor) -> dict[str, Any]:
    """The common arguments of UNet2DConditionModel: the sample, the time, the states for cross-attention."""
    return {
        "sample": z.to(dtype=dtype, memory_format=torch.channels_last),
        "timestep": timestep,
        "encoder_hidden_states": states.to(device=z.device, dtype=dtype),
    }
