"""Trains the embedded video prior on the shape world in motion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from threedgen.datasets.motions import MORE_WORDS
from threedgen.training.clip_bank import ClipBatch
from threedgen.training.denoiser_trainer import DenoiserTrainer, TrainingConfig
from threedgen.training.prior_model import load_pipeline
from threedgen.training.tokenizer import encode, make_tokenizer
from threedgen.training.video_model import VideoArchitecture, VideoModel, start_from_text_prior


@dataclass(frozen=True)
class VideoTrainingConfig(TrainingConfig):
    """text_dropout, view_dropout: how often the prompt and the camera are withheld (for guidance). bank_views: how
    many clips are rendered."""

    steps: int = 9000
    batch: int = 32
    learning_rate: float = 1.2e-3
    decay: float = 0.5
    text_dropout: float = 0.1
    view_dropout: float = 0.1
    bank_views: int = 10000


class VideoTrainer(DenoiserTrainer):
    """Of a model that is told a caption, a camera and the times of the first and the last frame."""

    config: VideoTrainingConfig

    def __init__(self, config: VideoTrainingConfig, architecture: VideoArchitecture, folder: Path) -> None:
        super().__init__(config, lambda: VideoModel(architecture), folder)
        self.tokenizer = make_tokenizer(MORE_WORDS)

    def tokens(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """[B, 77] token ids, padded, and their mask, on the training's device."""
        return encode(self.tokenizer, captions, self.config.device)

    def told(self, batch: ClipBatch, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Token ids, their mask, view and time features; captions and cameras are withheld now and then."""
        count = len(batch.captions)
        no_text = torch.rand(count, generator=rng) < self.config.text_dropout
        no_view = torch.rand(count, generator=rng) < self.config.view_dropout
        captions = ["" if drop else text for drop, text in zip(no_text.tolist(), batch.captions, strict=True)]
        views = torch.where(no_view.unsqueeze(1), 0.0, batch.views)
        return *self.tokens(captions), torch.cat([views, batch.times], dim=1).to(self.config.device)

    def start_from(self, folder: Path) -> None:
        """Takes over what fits of a text prior's folder: its words, and the coarse levels of its UNet."""
        start_from_text_prior(self.model, load_pipeline(folder).state_dict())
        self.average.load_state_dict(self.model.state_dict())
        self.origin = str(folder)
