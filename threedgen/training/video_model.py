"""The networks of the embedded video prior, for clips of a few frames that are one after the other as channels.

At eight frames of 32 x 32 pixels, a two-dimensional UNet over the channels of all frames costs as much as one
picture. The factorized space-time networks of large video models (UNet3D, motion modules) cost eight times that.
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
from threedgen.datasets.world import FIXED_LIGHT
from threedgen.training.prior_model import PriorArchitecture, make_text_encoder, make_unet, write_pipeline
from threedgen.training.tokenizer import vocabulary, write_tokenizer


@dataclass(frozen=True)
class VideoArchitecture(PriorArchitecture):
    """Sizes of the networks of a video prior. The finest level is wide, because it holds all frames.

    Attributes:
        frames: Number of frames of a clip.
    """

    channels: tuple[int, ...] = (64, 80, 96, 128)
    frames: int = 8


class VideoModel(nn.Module):
    """UNet and text encoder, trained together. Predicts v (Salimans and Ho 2022) of clips in [-1, 1]."""

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
        views_and_times: Float[Tensor, "B 24"],
    ) -> Float[Tensor, "B F*3 H W"]:
        """The predicted v.

        mask: 0 at padding. views_and_times: `view_features`, zeros for any camera, and `time_features`.
        """
        states = self.text_encoder(tokens, attention_mask=mask).last_hidden_state
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return self.unet(noisy, timesteps, states, class_labels=views_and_times).sample


def start_from_text_prior(model: VideoModel, still: Mapping[str, Tensor]) -> None:
    """Takes over the weights of a text prior that fit: the embeddings of its words, and the levels of its UNet that
    have the same width. The inputs for times have no effect at the start."""
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
    """Writes `model` as a pipeline folder of diffusers (safetensors in `dtype`), replacing `folder` in one step."""
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
        folder,
        networks,
        "ThreedgenVideoPipeline",
        index,
        lambda at: write_tokenizer(at, MORE_WORDS),
        FIXED_LIGHT,
    )
