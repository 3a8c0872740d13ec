"""CogVideoX (Yang et al. 2024): a transformer over the tokens of a text and of a clip that is compressed in time
too."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.guidance.priors.adapters.base import SCALE_LATENT
from threedgen.guidance.priors.adapters.video import (
    DiffusersVideoPrior,
    divisible,
    packed_frames,
)
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.clip_codec import VideoLatents
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.parts import PipelineParts, pixels_per_latent

_LARGEST = 768  # the config of CogVideoX 1.5 has the end of its position grid in place of a size


class DiffusersCogVideoXPrior(DiffusersVideoPrior):
    """CogVideoXTransformer3DModel: 2B (position embeddings added to the tokens), 5B and 1.5 (rotary embeddings).

    The positions are those that its pipeline gives to a square picture: the middle of its wide grid.
    """

    parts = ("transformer", "text_encoder")
    autoencoder = "AutoencoderKLCogVideoX"
    frames_first = True
    half = torch.bfloat16

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        own = folder.config("transformer").get("sample_frames", 49)
        return packed_frames(folder, options.frames, own, _ratio(folder))

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersCogVideoXPrior:
        folder = parts.folder
        config, latents = folder.config("transformer"), folder.config("vae")
        frames = cls.clip_frames(folder, options)
        reduction, patch = pixels_per_latent(folder, 4), config.get("patch_size", 2)
        own = min(min(config.get("sample_height", 60), config.get("sample_width", 90)) * reduction, _LARGEST)
        size = divisible(folder, options.size, own, reduction * patch)
        network = parts.network("CogVideoXTransformer3DModel", "transformer")
        process, form = parts.noise_table()
        std = 1.0 / latents.get("scaling_factor", 1.15258426)
        together = config.get("patch_size_t") or 1
        vae = parts.autoencoder(cls.autoencoder)
        codec = VideoLatents(vae, size, frames, _ratio(folder), reduction, 0.0, std, together)
        parts.plan.place_codec(codec)
        text = encoders.long_t5(parts, "T5EncoderModel", config.get("max_text_seq_length", 226))
        return cls(network, codec, text, process, form, SCALE_LATENT)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        states = self.text(condition.prompts)["states"]
        rotary = self.network_config.use_rotary_positional_embeddings
        return {
            "hidden_states": self.volume(z),
            "timestep": self.process.timestep(t),
            "encoder_hidden_states": states.to(device=z.device, dtype=self.dtype),
            "image_rotary_emb": self._rotary(z.shape[-1], z.device) if rotary else None,
        }

    def _rotary(self, side: int, device: torch.device) -> tuple[Float[Tensor, "n D"], Float[Tensor, "n D"]]:
        """Cosines and sines of the rotary embeddings of the n tokens of a clip `side` latents wide, as in the
        pipeline."""
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        config = self.network_config
        grid, packed = side // config.patch_size, config.patch_size_t
        high, wide = config.sample_height // config.patch_size, config.sample_width // config.patch_size
        length = {"embed_dim": config.attention_head_dim, "grid_size": (grid, grid), "device": device}
        if packed is not None:  # CogVideoX 1.5: the first corner of a larger grid
            frames = self.latent_frames // packed
            options = {"crops_coords": None, "grid_type": "slice", "max_size": (high, wide)}
        else:  # the largest square in the middle of the grid of the training, for any number of tokens
            frames, largest = self.latent_frames, min(high, wide)
            top, left = round((high - largest) / 2.0), round((wide - largest) / 2.0)
            options = {"crops_coords": ((top, left), (top + largest, left + largest))}
        embeddings: Any = get_3d_rotary_pos_embed(temporal_size=frames, **length, **options)  # type: ignore[arg-type]
        return embeddings


def _ratio(folder: PipelineFolder) -> int:
    """Frames per latent frame."""
    return int(folder.config("vae").get("temporal_compression_ratio", 4))
