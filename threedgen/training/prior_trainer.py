"""Trains the embedded text prior on the shape world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.training.config import CaptionTrainingConfig, PriorTrainingConfig
from threedgen.training.denoiser_trainer import DenoiserTrainer
from threedgen.training.prior_model import PriorArchitecture, PriorModel, grow, load_pipeline
from threedgen.training.tokenizer import encode, make_tokenizer


class CaptionTrainer(DenoiserTrainer):
    """The trainer of a model with captions and cameras as conditions. A subclass makes the tokenizer."""

    config: CaptionTrainingConfig
    tokenizer: Any

    def tokens(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Padded token ids [B, 77] and their mask, on the device of the training."""
        return encode(self.tokenizer, captions, self.config.device)

    def conditions(self, batch: Any, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Token ids, their mask and view features. Some captions and some cameras are withheld at random."""
        count = len(batch.captions)
        no_text = torch.rand(count, generator=rng) < self.config.text_dropout
        no_view = torch.rand(count, generator=rng) < self.config.view_dropout
        captions = ["" if drop else text for drop, text in zip(no_text.tolist(), batch.captions, strict=True)]
        views = torch.where(no_view.unsqueeze(1), 0.0, batch.views)
        return *self.tokens(captions), views.to(self.config.device)


class PriorTrainer(CaptionTrainer):
    """The trainer of the text prior."""

    config: PriorTrainingConfig

    def __init__(self, config: PriorTrainingConfig, architecture: PriorArchitecture, folder: Path) -> None:
        super().__init__(config, lambda: PriorModel(architecture), folder)
        self.tokenizer = make_tokenizer()

    def start_from(self, folder: Path) -> None:
        """Takes over the weights of a pipeline folder of this size, or of half of it (see `grow`). Raises
        UserError."""
        other = load_pipeline(folder)
        if 2 * other.architecture.size == self.model.architecture.size:
            other = grow(other)
        if other.architecture != self.model.architecture:
            raise UserError(
                f"{folder} is a prior of {other.architecture.size} pixels: choose --size {other.architecture.size} "
                f"or --size {2 * other.architecture.size}"
            )
        self.begin_with(other.state_dict(), folder)
