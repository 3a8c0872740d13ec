"""Rectified-flow transformers: Stable Diffusion 3 (Esser et al. 2024) and FLUX. They predict eps - x."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.settings import finite, settings
from threedgen.guidance.priors.adapters.base import SCALE_LATENT, DiffusersPrior
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.parts import PipelineParts


class DiffusersSD3Prior(DiffusersPrior):
    """SD3Transformer2DModel; its time input is num_train_timesteps times the noise level, as in its scheduler."""

    parts = ("transformer", "text_encoder", "text_encoder_2")
    half = torch.bfloat16

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersSD3Prior:
        if parts.folder.class_of("vae") is None:
            raise UserError(f"prior folder '{parts.folder.path}' lacks the part vae: copy it again")
        side = parts.side("transformer", 128)
        network = parts.network("SD3Transformer2DModel", "transformer")
        codec = parts.codec("transformer", 128)
        text = encoders.two_clips_and_t5(parts, network.config.joint_attention_dim)
        tokens = (side // network.config.patch_size) ** 2
        process = parts.flow(tokens, scale=_timesteps(parts))
        return cls(network, codec, text, process, "flow", SCALE_LATENT)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        rows = self.text(condition.prompts)
        return {
            "hidden_states": z.to(self.dtype),
            "timestep": self.process.timestep(t),
            "encoder_hidden_states": rows["states"].to(device=z.device, dtype=self.dtype),
            "pooled_projections": rows["pooled"].to(device=z.device, dtype=self.dtype),
        }


class DiffusersFluxPrior(DiffusersPrior):
    """FluxTransformer2DModel: tokens of 2 x 2 latents; its inputs are the noise level and an embedded guidance
    scale.

    FLUX.1-dev is distilled from guided predictions, and `guidance` is the scale that it imitates. The scale of the
    objective is applied in addition, by a second pass with the negative text.
    """

    @settings
    class Config:
        """Options of FLUX.

        Attributes:
            guidance: Embedded guidance scale, for models that have one (FLUX.1-dev); null is 3.5.
        """

        guidance: Annotated[float | None, finite] = None

    parts = ("transformer", "text_encoder", "text_encoder_2")
    half = torch.bfloat16
    guidance = 3.5

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersFluxPrior:
        channels = parts.folder.config("vae").get("latent_channels", 4)
        inputs = parts.folder.config("transformer").get("in_channels", 64)
        if inputs != 4 * channels:
            raise UserError(
                f"prior '{parts.folder.path}' is not supported, its transformer takes {inputs} channels, not "
                f"{4 * channels} (it is a fill, depth or canny model): take FLUX.1-dev or FLUX.1-schnell"
            )
        if options.guidance is not None and not parts.folder.config("transformer").get("guidance_embeds"):
            raise UserError(
                f"options.guidance has no effect on prior '{parts.folder.path}', which has no embedded guidance "
                "(FLUX.1-schnell): leave it out"
            )
        network = parts.network("FluxTransformer2DModel", "transformer")
        codec = parts.latents()
        tokens = (codec.size // codec.reduction // 2) ** 2
        process = parts.flow(tokens, scale=_timesteps(parts) / 1000.0)
        prior = cls(network, codec, encoders.clip_and_t5(parts), process, "flow", SCALE_LATENT)
        if options.guidance is not None:
            prior.guidance = options.guidance
        return prior

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        rows = self.text(condition.prompts)
        states = rows["states"].to(device=z.device, dtype=self.dtype)
        guided = self.network_config.guidance_embeds
        return {
            "hidden_states": packed(z).to(self.dtype),
            "timestep": self.process.timestep(t).to(self.dtype),
            "guidance": torch.full((len(z),), self.guidance, device=z.device) if guided else None,
            "pooled_projections": rows["pooled"].to(device=z.device, dtype=self.dtype),
            "encoder_hidden_states": states,
            # Positions of the tokens: zeros for texts, (0, row, column) for latents.
            "txt_ids": z.new_zeros(states.shape[1], 3, dtype=self.dtype),
            "img_ids": _grid(z.shape[2] // 2, z.shape[3] // 2).to(device=z.device, dtype=self.dtype),
        }

    def answer(self, network: Any, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        with torch.no_grad():
            arguments = self.arguments(z, t, condition)
        return unpacked(network(**arguments, return_dict=False)[0], *z.shape[2:]).to(z.dtype)


def packed(z: Float[Tensor, "B C h w"]) -> Float[Tensor, "B hw/4 4C"]:
    """One token for each 2 x 2 latents, with the channels as the slowest index inside it."""
    batch, channels, height, width = z.shape
    blocks = z.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, 4 * channels)


def unpacked(tokens: Float[Tensor, "B hw/4 4C"], height: int, width: int) -> Float[Tensor, "B C h w"]:
    """The inverse of `packed`."""
    batch, _, depth = tokens.shape
    blocks = tokens.reshape(batch, height // 2, width // 2, depth // 4, 2, 2)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, depth // 4, height, width)


def _grid(height: int, width: int) -> Float[Tensor, "hw 3"]:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def _timesteps(parts: PipelineParts) -> float:
    return float(parts.folder.config("scheduler").get("num_train_timesteps", 1000))
