"""Trains the embedded video prior on the shape world in motion."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from threedgen.datasets.motions import MORE_WORDS
from threedgen.training.clip_bank import ClipBatch
from threedgen.training.config import VideoTrainingConfig
from threedgen.training.prior_model import load_pipeline
from threedgen.training.prior_trainer import CaptionTrainer
from threedgen.training.tokenizer import make_tokenizer
from threedgen.training.video_model import VideoArchitecture, VideoModel, start_from_text_prior


class VideoTrainer(CaptionTrainer):
    """The trainer of the video prior, whose conditions are a caption, a camera, and the times of the first and the
    last frame."""

    config: VideoTrainingConfig

    def __init__(self, config: VideoTrainingConfig, architecture: VideoArchitecture, folder: Path) -> None:
        super().__init__(config, lambda: VideoModel(architecture), folder)
        self.tokenizer = make_tokenizer(MORE_WORDS)

    def conditions(self, batch: ClipBatch, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Token ids, their mask, and view and time features. Some captions and some cameras are withheld at
        random."""
        tokens, mask, views = super().conditions(batch, rng)
        return tokens, mask, torch.cat([views, batch.times.to(views)], dim=1)

    def timesteps(self, count: int, rng: torch.Generator) -> Int[Tensor, " B"]:
        """The random time steps of a picture, shifted to more noise: F frames show the same object, so it takes
        sqrt(F) times the noise to hide side, place and motion (the shift of simple diffusion, Hoogeboom et al.
        2023, section 3.1)."""
        still = 0.5 * math.pi * (super().timesteps(count, rng).float() / 1000.0)
        shifted = torch.atan(math.sqrt(self.model.architecture.frames) * torch.tan(still))
        return (shifted * 2000.0 / math.pi).long().clamp(0, 999)

    def start_from(self, folder: Path) -> None:
        """Takes over the words and the coarse levels of the UNet of a text prior from its folder. Raises
        UserError."""
        start_from_text_prior(self.model, load_pipeline(folder).state_dict())
        self.begin_with(self.model.state_dict(), folder)
