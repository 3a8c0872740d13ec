"""Wan 2.1 and the 5B model of 2.2 (Wan Team 2025): a rectified-flow transformer over clips compressed in time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from threedgen.guidance.priors.adapters.base import SCALE_LATENT
from threedgen.guidance.priors.adapters.video import DiffusersVideoPrior, divisible, packed_frames
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.clip_codec import VideoLatents
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.config_keys import damaged_key
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.parts import PipelineParts

_SIDE = 480  # pixels; the shorter side of the training pictures of the small models, which no config contains
_TOKENS = 512  # per text


class DiffusersWanPrior(DiffusersVideoPrior):
    """WanTransformer3DModel; its time input is num_train_timesteps times the noise level.

    Wan 2.2 5B takes a level for every token, because its first frame may be given; here all tokens have the same.
    """

    parts = ("transformer", "text_encoder")
    autoencoder = "AutoencoderKLWan"
    made_for = 81
    half = torch.bfloat16

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        return packed_frames(folder, options.frames, cls.made_for, _ratio(folder))

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersWanPrior:
        folder = parts.folder
        frames = cls.clip_frames(folder, options)
        patch = folder.config("transformer").get("patch_size", [1, 2, 2])
        reduction = folder.config("vae").get("scale_factor_spatial", 8)
        if not isinstance(patch, list) or len(patch) != 3:
            raise damaged_key(folder.path / "transformer/config.json", "patch_size", patch, "a list of three")
        size = divisible(folder, options.size, _SIDE, reduction * patch[1])
        process = parts.flow(
            tokens=0, scale=float(folder.config("scheduler").get("num_train_timesteps", 1000))
        )
        network = parts.network("WanTransformer3DModel", "transformer")
        vae = parts.autoencoder(cls.autoencoder)
        mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
        for key, values in (("latents_mean", mean), ("latents_std", std)):
            if values.shape != (vae.config.z_dim,):
                wanted = f"{vae.config.z_dim} numbers"
                raise damaged_key(folder.path / "vae/config.json", key, values.tolist(), wanted)
        codec = VideoLatents(vae, size, frames, _ratio(folder), reduction, mean, std)
        parts.plan.place_codec(codec)
        text = encoders.long_t5(parts, "UMT5EncoderModel", _TOKENS, masked=True)
        return cls(network, codec, text, process, "flow", SCALE_LATENT)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        states = self.text(condition.prompts)["states"]
        return {
            "hidden_states": self.volume(z),
            "timestep": self.process.timestep(t),
            "encoder_hidden_states": states.to(device=z.device, dtype=self.dtype),
        }


def _ratio(folder: PipelineFolder) -> int:
    """Frames per latent frame."""
    return int(folder.config("vae").get("scale_factor_temporal", 4))
