"""One prior for every image UNet of diffusers: Stable Diffusion 1.x/2.x, DeepFloyd IF, and our embedded one.

What differs between them is read from their configs, never from their names: latents when there is a VAE,
learned variances when the UNet has twice as many outputs as inputs, the prediction type of the scheduler,
a camera vector when the UNet's class embedding is a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.guidance.priors.base import Condition, NoiseSchedule, Prediction, resize_images

_FORMS = {
    "epsilon": Prediction.from_eps,
    "v_prediction": Prediction.from_v,
    "sample": Prediction.from_x0,
}
PREDICTION_TYPES = tuple(_FORMS)

# Guidance scales (uncond + s (cond - uncond)) that the field, and our own measurements, settled on for
# latents (DreamFusion and its descendants), pixels (DeepFloyd IF), and small camera-conditioned priors.
_SCALE_LATENT, _SCALE_PIXELS, _SCALE_CAMERAS = 100.0, 20.0, 4.0


class TextEmbedder:
    """Text -> encoder states, each distinct text encoded once.

    The encoder can be far larger than the UNet (T5-XXL: 4.8 billion parameters), so it is loaded when a
    new text comes and may be released once every text of a run is known.

    load:       () -> (tokenizer, encoder) of transformers. length: tokens every text is padded or cut to.
    masked:     hide the padding from the encoder, as IF does and Stable Diffusion does not.
    lower_case: normalise the text as IF does.
    """

    def __init__(
        self, load: Callable[[], tuple[Any, Any]], length: int, masked: bool, lower_case: bool
    ) -> None:
        self._load = load
        self._loaded: tuple[Any, Any] | None = None
        self._length = length
        self._masked = masked
        self._lower_case = lower_case
        self._states: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "B L C"]:
        new = [text for text in dict.fromkeys(texts) if text not in self._states]
        if new:
            if self._loaded is None:
                self._loaded = self._load()
            tokenizer, encoder = self._loaded
            words = [text.lower().strip() for text in new] if self._lower_case else new
            tokens = tokenizer(
                words, padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
            ).to(encoder.device)
            mask = tokens.attention_mask if self._masked else None
            states = encoder(tokens.input_ids, attention_mask=mask)[0]
            self._states.update(zip(new, states, strict=True))
        return torch.stack([self._states[text] for text in texts])

    def release(self) -> None:
        """Drop the encoder from memory; it is loaded again if another text comes."""
        self._loaded = None


class DiffusersImagePrior:
    """A frozen text-to-image UNet of diffusers behind the Prior contract.

    unet:  UNet2DConditionModel. vae: AutoencoderKL in float32 (in float16 it overflows), or None for pixels.
    text:  the texts' encoder. schedule: alpha and sigma. prediction_type: one of PREDICTION_TYPES.
    """

    def __init__(
        self, unet: Any, vae: Any | None, text: TextEmbedder, schedule: NoiseSchedule, prediction_type: str
    ) -> None:
        # channels_last: 6% faster on a CPU for the embedded UNet, and what tensor cores want.
        self.unet = unet.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.vae = vae if vae is None else vae.requires_grad_(False).eval()
        self.text = text
        self.schedule = schedule
        self.latent = vae is not None
        self.camera_conditioned = unet.config.class_embed_type == "projection"
        pixels = _SCALE_CAMERAS if self.camera_conditioned else _SCALE_PIXELS
        self.default_scale = _SCALE_LATENT if self.latent else pixels
        self._form = _FORMS[prediction_type]
        self._reduction = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 1
        self.image_size = unet.config.sample_size * self._reduction

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        pixels = resize_images(images, self.image_size).permute(0, 3, 1, 2) * 2.0 - 1.0
        if self.vae is None:
            return pixels
        # The mode, not a draw: the encoder's spread is far below the noise added next, and a Prior owns no
        # random stream.
        latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        return latents * self.vae.config.scaling_factor

    def decode(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        if self.vae is not None:
            x = self.vae.decode(x.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return (x.permute(0, 2, 3, 1) + 1.0) / 2.0

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.schedule.alpha(t)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.schedule.sigma(t)

    def add_noise(self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
        return self.schedule.add_noise(x, eps, t)

    def prepare(self, prompts: Sequence[str]) -> None:
        self.text(prompts)
        self.text.release()

    @torch.no_grad()
    def predict(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        dtype = self.unet.dtype
        output = self.unet(
            z.to(dtype=dtype, memory_format=torch.channels_last),
            self.schedule.timestep(t),
            encoder_hidden_states=self.text(condition.prompts).to(dtype),
            class_labels=self._camera_vectors(condition, z),
        ).sample
        # Twice the channels means a learned variance in the second half, which distillation has no use for.
        output = output[:, : z.shape[1]].to(z.dtype)
        return self._form(z, output, self.alpha(t), self.sigma(t))

    def _camera_vectors(self, condition: Condition, z: Tensor) -> Float[Tensor, "B 16"] | None:
        if not self.camera_conditioned:
            return None
        from threedgen.cameras import view_features

        if condition.cameras is None:  # zeros stand for "any camera", see view_features
            width = self.unet.config.projection_class_embeddings_input_dim
            return torch.zeros(len(z), width, device=z.device, dtype=self.unet.dtype)
        return view_features(condition.cameras).to(device=z.device, dtype=self.unet.dtype)
