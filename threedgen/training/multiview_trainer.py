"""Trains the embedded multi-view prior on groups of views of objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import VIEW_FEATURES, relative_view_features
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.datasets.normal_maps import into_frame, vectors
from threedgen.guidance.priors.adapters.pixel_multiview import FOLD
from threedgen.guidance.priors.picture_field import PictureField
from threedgen.training.caption_words import caption_words
from threedgen.training.config import MultiViewTrainingConfig
from threedgen.training.denoiser_trainer import DenoiserTrainer
from threedgen.training.multiview_model import MultiViewModel, start_from_text_prior
from threedgen.training.prior_model import for_size, load_pipeline
from threedgen.training.ring_bank import GROUPS, RingBatch
from threedgen.training.things_store import cameras_of
from threedgen.training.tokenizer import encode, make_tokenizer
from threedgen.training.view_bank import on_white

MOST_WEIGHT = 4.0
"""Of an example with little noise, relative to one of pure noise."""


class MultiViewTrainer(DenoiserTrainer):
    """The trainer of a MultiViewModel. size: pixels of the pictures. field: see there. Raises UserError as
    `for_size` does."""

    config: MultiViewTrainingConfig

    def __init__(self, config: MultiViewTrainingConfig, size: int, folder: Path, field: PictureField) -> None:
        architecture = for_size(size // FOLD)
        super().__init__(config, lambda: MultiViewModel(architecture, field, config.shows), folder)
        self.tokenizer = make_tokenizer(caption_words())

    def next_batch(self, bank: Any) -> RingBatch:
        config, views = self.config, GROUPS[0]
        for every, larger in ((config.every_six, GROUPS[1]), (config.every_orbit, GROUPS[2])):
            if self.step % every == every - 1:
                views = larger
        count = max(1, config.batch * GROUPS[0] // views)
        return bank.batch(count, config.seed, self.step, views)

    def train_step(self, batch: RingBatch) -> float:
        """One step on the mean squared error of the clean views, at one noise level for the views of a group.

        It is weighted by 1 / sigma^2, as if v were compared, up to MOST_WEIGHT.
        """
        config, device = self.config, self.config.device
        rng = generator(config.seed, "multiview-train", self.step)
        count = len(batch.views)
        timesteps = self.timesteps(count, rng)
        noise = torch.randn(count, batch.views.shape[1], 3, *batch.views.shape[2:4], generator=rng)
        conditions = self.conditions(batch, rng)
        clean = 2.0 * self.true_views(batch, conditions[1].cpu()).permute(0, 1, 4, 2, 3) - 1.0
        alpha, sigma = (table[timesteps].view(-1, 1, 1, 1, 1) for table in (self.alpha, self.sigma))
        noisy = alpha * clean + sigma * noise
        weights = sigma.square().reciprocal().clamp(max=MOST_WEIGHT)
        with self.half():
            predicted = self.model(noisy.to(device), timesteps.to(device), *conditions)
        loss = ((predicted.float() - clean.to(device)).square() * weights.to(device)).mean()
        self.update(loss)
        self.pictures += clean.shape[0] * clean.shape[1]
        return float(loss.detach())

    def true_views(self, batch: RingBatch, kept: Float[Tensor, " B"]) -> Float[Tensor, "B V H W 3"]:
        """The pictures in [0, 1] that the model shall draw. kept: 1, or 0 where the picture is withheld. Normals
        are in the frame in which the poses of the views are told (`group_poses`)."""
        if self.config.shows == "colors":
            return on_white(batch.views)
        azimuth = (batch.picture_angles[:, 0] * kept)[:, None, None, None]
        return 0.5 + 0.5 * into_frame(vectors(batch.views), azimuth)

    def conditions(self, batch: RingBatch, rng: torch.Generator) -> tuple[Tensor, ...]:
        """The arguments of the model after the time steps. Some pictures and some captions are withheld."""
        config, count = self.config, len(batch.views)
        kept = (torch.rand(count, generator=rng) >= config.picture_dropout).float()
        no_text = torch.rand(count, generator=rng) < config.text_dropout
        captions = ["" if drop else text for drop, text in zip(no_text.tolist(), batch.captions, strict=True)]
        pictures = 2.0 * on_white(batch.picture).permute(0, 3, 1, 2) - 1.0
        poses = group_poses(batch.angles, batch.picture_angles, kept)
        guides = group_guides(self.model, pictures, batch.angles, batch.picture_angles)
        ready = (pictures, kept, guides, poses)
        return *(value.to(config.device) for value in ready), *encode(self.tokenizer, captions, config.device)

    def start_from(self, folder: Path) -> None:
        """Takes over a text prior of half of this size. Raises UserError for another folder."""
        prior = load_pipeline(folder)
        if prior.architecture != self.model.architecture:
            size = FOLD * prior.architecture.size
            raise UserError(f"{folder} is a prior of {prior.architecture.size} pixels: choose --size {size}")
        start_from_text_prior(self.model, prior)
        self.begin_with(self.model.state_dict(), folder)


def group_guides(
    model: MultiViewModel,
    pictures: Float[Tensor, "B 3 H W"],
    angles: Float[Tensor, "B V 3"],
    picture: Float[Tensor, "B 3"],
) -> Float[Tensor, "B V 4 H W"]:
    """See `MultiViewModel.guides`. angles, picture: see `group_poses`."""
    relative = angles.clone()
    relative[..., 0] -= picture[:, None, 0]
    device = next(model.parameters()).device
    cameras = cameras_of(relative.flatten(0, 1), model.size).to(device)
    return model.guides(pictures.to(device), picture[:, 1:].to(device), cameras)


def group_poses(
    angles: Float[Tensor, "B V 3"], picture: Float[Tensor, "B 3"], kept: Float[Tensor, " B"]
) -> Float[Tensor, "B V 20"]:
    """The poses of groups relative to the picture of each, or where it is withheld (kept is 0) to the front of the
    object, without those of the picture. angles, picture: azimuth and elevation in degrees, distance."""
    count, views = angles.shape[:2]
    each = picture.repeat_interleave(views, 0)
    told = kept.repeat_interleave(views)
    features = relative_view_features(
        cameras_of(angles.flatten(0, 1), 64), each[:, 0] * told, each[:, 1], each[:, 2]
    )
    features[:, VIEW_FEATURES:] *= told[:, None]
    return features.unflatten(0, (count, views))
