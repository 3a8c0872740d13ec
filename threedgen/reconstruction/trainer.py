"""Trains a reconstructor on groups of views of objects, by what its Gaussians show from these and other sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.random import generator
from threedgen.core.types import GaussianCloud
from threedgen.reconstruction.config import ReconstructorTrainingConfig
from threedgen.reconstruction.network import GivenViews, Reconstructor, ReconstructorArchitecture
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.training.caption_words import caption_words
from threedgen.training.denoiser_trainer import DenoiserTrainer
from threedgen.training.multiview_model import MultiViewModel
from threedgen.training.multiview_trainer import group_guides, group_poses
from threedgen.training.ring_bank import GROUPS, RingBatch
from threedgen.training.things_store import cameras_of
from threedgen.training.tokenizer import encode, make_tokenizer
from threedgen.training.view_bank import on_white

_COUNTS = (4, 4, 6, 4, 2, 4, 1, 6)
"""Views that a reconstructor is given, in turn: a group of four most often, also few views and groups of six."""


class ReconstructorTrainer(DenoiserTrainer):
    """The trainer of a Reconstructor. prior: denoises noisy views, from which it learns as well; None: it learns
    from clean views only."""

    config: ReconstructorTrainingConfig

    def __init__(
        self,
        config: ReconstructorTrainingConfig,
        size: int,
        folder: Path,
        prior: MultiViewModel | None = None,
    ) -> None:
        super().__init__(config, lambda: Reconstructor(ReconstructorArchitecture(size=size)), folder)
        self.size = size
        self.prior = None if prior is None else prior.to(config.device)
        self.tokens = encode(make_tokenizer(caption_words()), [""] * config.batch, config.device)
        self.renderer = SplattingRenderer()

    def next_batch(self, bank: Any) -> RingBatch:
        views = self._count if self._count in GROUPS else GROUPS[0]
        return bank.batch(self.config.batch, self.config.seed, self.step, views, free=True)

    @property
    def _count(self) -> int:
        return _COUNTS[self.step % len(_COUNTS)]

    def train_step(self, batch: RingBatch) -> float:
        """One step on the mean squared error of premultiplied colours and alpha from given and other cameras."""
        rng = generator(self.config.seed, "reconstructor-train", self.step)
        given = self.given(batch, rng)
        with self.half():
            clouds = self.model(given)
        loss = self.loss(clouds, batch, rng)
        self.update(loss)
        self.pictures += len(batch.views) * self._count
        return float(loss.detach())

    def given(self, batch: RingBatch, rng: torch.Generator) -> GivenViews:
        """What the network sees of a batch: some of the views, or what the prior estimates of them; and in a share
        of the steps the picture, whose camera is told half of the time."""
        count, size = len(batch.views), self.size
        noisy = torch.rand((), generator=rng) < self.config.noisy_share
        with_picture = torch.rand((), generator=rng) < self.config.picture_share
        known = (torch.rand(count, generator=rng) < 0.5).float()
        chosen, angles = batch.views, batch.angles
        timesteps = torch.zeros(count, dtype=torch.long)
        if self._count < batch.views.shape[1]:  # few views are from anywhere
            chosen = torch.cat([batch.views, batch.others], dim=1)
            angles = torch.cat([batch.angles, batch.other_angles], dim=1)
            order = torch.argsort(torch.rand(count, chosen.shape[1], generator=rng), dim=1)[:, : self._count]
            rows = torch.arange(count)[:, None]
            chosen, angles = chosen[rows, order], angles[rows, order]
        clean = signed(chosen)
        seen, estimates = clean, clean
        if noisy and self.prior is not None and self._count in GROUPS:
            timesteps = self.timesteps(count, rng)
            seen, estimates = self.estimated(batch, clean, timesteps, rng)
        return GivenViews(
            estimates,
            seen,
            timesteps,
            cameras_of(angles.flatten(0, 1), size),
            signed(batch.picture) if with_picture else None,
            cameras_of(batch.picture_angles, size) if with_picture else None,
            known if with_picture else None,
        )

    @torch.no_grad()
    def estimated(
        self, batch: RingBatch, clean: Tensor, timesteps: Tensor, rng: torch.Generator
    ) -> tuple[Float[Tensor, "B V 3 H W"], Float[Tensor, "B V 3 H W"]]:
        """Noisy views of the groups of a batch, and what the prior estimates of them, given the pictures."""
        assert self.prior is not None
        count = len(clean)
        alpha, sigma = (table[timesteps].view(-1, 1, 1, 1, 1) for table in (self.alpha, self.sigma))
        noisy = alpha * clean + sigma * torch.randn(clean.shape, generator=rng)
        kept = torch.ones(count)
        poses = group_poses(batch.angles, batch.picture_angles, kept)
        pictures = signed(batch.picture)
        guides = group_guides(self.prior, pictures, batch.angles, batch.picture_angles)
        with self.half():
            clean = self.prior(noisy, timesteps, pictures, kept, guides, poses, *self.tokens)
        return noisy, clean.float().clamp(-1.0, 1.0)

    def loss(self, clouds: list[GaussianCloud], batch: RingBatch, rng: torch.Generator) -> Float[Tensor, ""]:
        """Of one of the group's views and all others of each object."""
        count, views = batch.views.shape[:2]
        shown = torch.randint(views, (count,), generator=rng)
        picked = torch.arange(count), shown
        target = torch.cat([batch.views[picked][:, None], batch.others], dim=1)
        angles = torch.cat([batch.angles[picked][:, None], batch.other_angles], dim=1)
        total = torch.zeros(())
        for cloud, true, angle in zip(clouds, target, angles, strict=True):
            seen = self.renderer(cloud, cameras_of(angle, self.size), torch.zeros(3))
            total = total + (torch.cat([seen.rgb, seen.alpha], dim=-1) - true).square().mean()
        return total / count


def signed(layers: Float[Tensor, "... H W 4"]) -> Float[Tensor, "... 3 H W"]:
    """Premultiplied pictures on white, channels first, in [-1, 1]."""
    return 2.0 * on_white(layers).movedim(-1, -3) - 1.0
