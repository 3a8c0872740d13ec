"""Trains a diffusion model of scenes on pictures alone: a context, a noisy target, and a novel view."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.types import Cameras
from threedgen.dfm.config import SceneTrainingConfig
from threedgen.dfm.law import Observed, loss
from threedgen.dfm.scene_field import (
    CHANNELS,
    ESTIMATE,
    NoisyViews,
    SceneField,
    as_estimate,
    signed,
    thinned,
)
from threedgen.guidance.priors.picture_field import (
    LookedAt,
    PictureArchitecture,
    seen_from,
)
from threedgen.training.denoiser_trainer import DenoiserTrainer
from threedgen.training.picture_trainer import SIZES, random_rays, side_loss, weights_like
from threedgen.training.things_store import cameras_of
from threedgen.training.view_bank import ViewBatch


class Seen(NamedTuple):
    """Rays of V views of B scenes. owner: the scene of each view. cameras: in the frame of their context. pixels,
    shift: see `RadianceField.render`."""

    owner: Int[Tensor, " V"]
    cameras: Cameras
    pixels: Int[Tensor, "V N"]
    shift: Float[Tensor, "V N S"]


class SceneTrainer(DenoiserTrainer):
    """The trainer of a SceneField. size: pixels of the pictures; UserError for one that is not in SIZES."""

    config: SceneTrainingConfig

    def __init__(self, config: SceneTrainingConfig, size: int, folder: Path) -> None:
        if size not in SIZES:
            raise UserError(f"--size is {size}; a field of pictures has {', '.join(map(str, SIZES))} pixels")
        super().__init__(config, lambda: SceneField(PictureArchitecture(size=size)), folder)
        self.size = size

    def next_batch(self, bank: Any) -> ViewBatch:
        return bank.batch(self.config.batch, self.config.seed, self.step, 2)

    def train_step(self, batch: ViewBatch) -> float:
        """One step on the squared error, at random pixels, of what scenes show of the target that they were
        denoised from and of a novel view, of what their contexts alone show of the target, and on the side from
        which the context was taken."""
        config, device = self.config, self.config.device
        rng = generator(config.seed, "scene-train", self.step)
        count = len(batch.pictures)
        kept = (torch.rand(count, generator=rng) >= config.context_dropout).float()
        times = self.timesteps(count, rng)
        clean = signed(batch.layers[:, 0].permute(0, 3, 1, 2))
        noisy, _ = self.noised(clean, torch.randn(clean.shape, generator=rng), times)
        again = (torch.rand(count, generator=rng) < config.self_share).nonzero().squeeze(1)
        rays = random_rays(
            batch.layers.transpose(0, 1).flatten(0, 1), config.rays, self.model.architecture.samples, rng
        )
        pictures = signed(batch.pictures.permute(0, 3, 1, 2))
        # A withheld context is white: its field is the mean of everything.
        pictures = torch.lerp(torch.ones_like(pictures), pictures, kept[:, None, None, None]).to(device)
        known = batch.known.to(device)
        with self.half():
            looked = self.model.look(pictures, known[:, 1:], known[:, 0])
        cameras = cameras_of(batch.views.transpose(0, 1).flatten(0, 1), self.size).to(device)
        estimate = torch.zeros(count, CHANNELS, ESTIMATE, ESTIMATE, device=device)
        views = NoisyViews(
            noisy.to(device),
            estimate,
            self.alpha[times].to(device),
            self.sigma[times].to(device),
            seen_from(looked, cameras[:count]),
        )
        estimate[again] = self.estimated(looked, views, again.to(device))
        with self.half():
            scenes = self.model.scenes(looked, views)
            # Half of the contexts are enough to keep what they show alone, and take half of the time.
            part = torch.arange((count + 1) // 2, device=device)
            alone = self.model.alone(looked[part])
        owner, one = torch.arange(count).repeat(2), torch.ones(count)
        weight = torch.cat([one, config.novel_weight * one])
        both = Seen(owner, cameras, rays.pixels.to(device), rays.shift.to(device))
        few = len(part)
        target = Seen(owner[:few], both.cameras[:few], both.pixels[:few], both.shift[:few])
        true = rays.true.to(device)
        # The mean over two views of each scene: twice that is the sum of the two errors.
        terms = [
            (scenes, Observed(both, true, 2.0 * weight.to(device))),
            (alone, Observed(target, true[:few], (config.context_weight * kept[:few]).to(device))),
        ]
        total = loss(self.shown, terms)
        total = total + config.side_weight * side_loss(looked.sides, known[:, 0], kept.to(device))
        self.update(total)
        self.pictures += count
        return float(total.detach())

    def shown(self, decoded: Any, seen: Seen) -> Float[Tensor, "V N 4"]:
        """What the fields of the model show of rays, in [0, 1]."""
        cameras = seen_from(decoded, seen.cameras, seen.owner)
        return self.model.render(decoded, cameras, seen.owner, seen.pixels, seen.shift)

    @torch.no_grad()
    def estimated(
        self, looked: LookedAt, views: NoisyViews, rows: Int[Tensor, " R"]
    ) -> Float[Tensor, "R 4 E E"]:
        """The estimates of a first pass, which has none, of some of the views."""
        if len(rows) == 0:
            return views.estimate[rows]
        cameras = views.cameras[rows]
        some = NoisyViews(
            views.noisy[rows], views.estimate[rows], views.alpha[rows], views.sigma[rows], cameras
        )
        with self.half():
            scenes = self.model.scenes(looked[rows], some)
        pixels = thinned(self.size).to(rows.device).expand(len(rows), -1)
        return as_estimate(signed(self.model.render(scenes, cameras, None, pixels)))

    def start_from(self, folder: Path) -> None:
        """Takes over the field of pictures of a pipeline folder: scenes begin as what the context shows. Raises
        UserError for a field of other sizes."""
        known = weights_like(folder, self.model.architecture)
        self.begin_with(self.model.state_dict() | known, folder)
