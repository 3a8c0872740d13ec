"""The embedded video prior's networks: clips of a few frames whose frames lie side by side as channels.

At eight frames of 32 x 32 pixels one two-dimensional UNet over all frames' channels costs as much as one picture;
the factorized space-time networks of large video models (UNet3D, motion modules) cost eight times that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.cameras.clips import TIME_FEATURES
from threedgen.cameras.orbit import VIEW_FEATURES
from threedgen.datasets.motions import MORE_WORDS
from threedgen.training.prior_model import PriorArchitecture, make_text_encoder, make_unet, write_pipeline
from threedgen.training.tokenizer import vocabulary, write_tokenizer


@dataclass(frozen=True)
class VideoArchitecture(PriorArchitecture):
    """frames: of a clip. The finest level is wide: it holds all frames."""

    channels: tuple[int, ...] = (64, 80, 96, 128)
    frames: int = 8


class VideoModel(nn.Module):
    """UNet and text encoder, trained together. Predicts v (METHODS 0.2) of clips scaled to [-1, 1]."""

    def __init__(self, architecture: VideoArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.text_encoder = make_text_encoder(architecture, MORE_WORDS)
        channels = 3 * architecture.frames
        self.unet = make_unet(architecture, channels, channels, VIEW_FEATURES + TIME_FEATURES)
        self.unet.to(memory_format=torch.channels_last)

    def forward(
        self,
        noisy: Float[Tensor, "B F*3 H W"],
        timesteps: Int[Tensor, " B"],
        tokens: Int[Tensor, "B L"],
        mask: Int[Tensor, "B L"],
        told: Float[Tensor, "B 24"],
    ) -> Float[Tensor, "B F*3 H W"]:
        """The predicted v. told: `view_features`, zeros for any camera, and `time_features`."""
        states = self.text_encoder(tokens, attention_mask=mask).last_hidden_state
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return self.unet(noisy, timesteps, states, class_labels=told).sample


def start_from_text_prior(model: VideoModel, still: Mapping[str, Tensor]) -> None:
    """Takes over what fits of a text prior's weights: the meaning of its words, and the levels of its UNet that are
    as wide. What it is told of times begins without effect."""
    weights, known = model.state_dict(), vocabulary()[0]
    rows = {token: index for token, index in vocabulary(MORE_WORDS)[0].items() if token in known}
    for name, value in still.items():
        if name.endswith("token_embedding.weight"):
            weights[name][list(rows.values())] = value[[known[token] for token in rows]]
        elif name == "unet.class_embedding.linear_1.weight":
            weights[name].zero_()
            weights[name][:, : value.shape[1]] = value
        elif weights[name].shape == value.shape:
            weights[name] = value
    model.load_state_dict(weights)


def save_video_pipeline(model: VideoModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes `model` as a folder of diffusers parts (safetensors in `dtype`), replacing `folder` in one step."""
    copy = VideoModel(model.architecture)
    copy.load_state_dict(model.state_dict())
    copy.to(dtype)
    index = {
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    networks = {"unet": copy.unet, "text_encoder": copy.text_encoder}
    write_pipeline(
        folder, networks, "ThreedgenVideoPipeline", index, lambda at: write_tokenizer(at, MORE_WORDS)
    )
