"""Trains the embedded view-conditioned prior on pairs of views."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from threedgen.training.config import ViewTrainingConfig
from threedgen.training.denoiser_trainer import DenoiserTrainer
from threedgen.training.prior_model import PriorArchitecture, load_pipeline
from threedgen.training.view_bank import ViewBatch
from threedgen.training.view_model import ViewModel, start_from_text_prior


class ViewTrainer(DenoiserTrainer):
    """The trainer of the view prior, whose conditions are a picture and a relative pose."""

    config: ViewTrainingConfig

    def __init__(self, config: ViewTrainingConfig, architecture: PriorArchitecture, folder: Path) -> None:
        super().__init__(config, lambda: ViewModel(architecture), folder)

    def conditions(self, batch: ViewBatch, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Pictures in [-1, 1], 1 or 0 for whether each is kept, and relative poses."""
        kept = (torch.rand(len(batch.images), generator=rng) >= self.config.picture_dropout).float()
        pictures = batch.pictures.permute(0, 3, 1, 2) * 2.0 - 1.0
        return tuple(value.to(self.config.device) for value in (pictures, kept, batch.poses))

    def start_from(self, folder: Path) -> None:
        """Takes over the UNet of a text prior of this size from its folder. Raises UserError."""
        start_from_text_prior(self.model, load_pipeline(folder).unet.state_dict())
        self.begin_with(self.model.state_dict(), folder)
