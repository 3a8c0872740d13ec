"""Trains the two networks of NerfDiff together (Gu et al. 2023, section 3.2).

L = ||I_theta - I||^2 + lambda ||v_phi(alpha I + sigma eps, t; I_theta, I_s) - v||^2 with I_theta the render
of the single-image NeRF from the target view. I_theta is detached in the second term unless `coupled` is 1.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from threedgen.core.random import generator
from threedgen.core.types import Cameras
from threedgen.nerfdiff.bank import PairBatch
from threedgen.nerfdiff.config import NerfDiffTrainingConfig
from threedgen.nerfdiff.field import source_frame
from threedgen.nerfdiff.model import NerfDiffArchitecture, NerfDiffModel
from threedgen.nerfdiff.sampling import signed
from threedgen.renderers.volume import VolumeRenderer
from threedgen.training.denoiser_trainer import DenoiserTrainer

SAMPLES = 48  # number of intervals on the diagonal of the box of a scene


class NerfDiffTrainer(DenoiserTrainer):
    """The trainer of both networks, on pairs of views."""

    config: NerfDiffTrainingConfig

    def __init__(
        self, config: NerfDiffTrainingConfig, architecture: NerfDiffArchitecture, folder: Path
    ) -> None:
        super().__init__(config, lambda: NerfDiffModel(architecture), folder)
        self._renderer = VolumeRenderer(VolumeRenderer.Config(samples=SAMPLES))

    def train_step(self, batch: PairBatch) -> float:
        """Takes one step on one batch, and returns the whole loss."""
        config, device = self.config, torch.device(self.config.device)
        rng = generator(config.seed, "train", self.step)
        pictures = signed(batch.pictures).to(device)
        with self.half():
            planes = self.model.planes(pictures)
        row, column = torch.randint(config.stride, (2,), generator=rng).tolist()
        rendered = self.renders(planes, batch, strided(batch.cameras, config.stride, row, column))
        truth = batch.images[:, row :: config.stride, column :: config.stride].to(device)
        loss = (rendered - truth).square().mean()
        count = min(config.denoised, len(pictures))
        if config.denoising and count:
            with torch.set_grad_enabled(bool(config.coupled)):
                renders = signed(self.renders(planes[:count], batch, batch.cameras))
            loss = loss + config.denoising * self._denoising(batch, renders, pictures[:count], rng)
        self.update(loss)
        self.pictures += len(pictures)
        return float(loss.detach())

    def _denoising(self, batch: PairBatch, renders: Tensor, pictures: Tensor, rng: torch.Generator) -> Tensor:
        """The loss of the denoiser on the first objects of the batch, as many as there are renders."""
        clean = signed(batch.images[: len(renders)]).to(renders)
        timesteps = self.timesteps(len(clean), rng)
        noise = torch.randn(clean.shape, generator=rng).to(clean)
        noisy, target = self.noised(clean, noise, timesteps)
        with self.half():
            predicted = self.model.denoise(noisy, timesteps.to(clean.device), renders, pictures)
        return (predicted.float() - target).square().mean()

    def renders(self, planes: Tensor, batch: PairBatch, cameras: Cameras) -> Tensor:
        """Renders [B, h, w, 3] on white of the NeRFs of the first objects of a batch, each from its camera."""
        white, views = torch.ones(3, device=planes.device), []
        for index in range(len(planes)):
            one = slice(index, index + 1)
            frame = source_frame(batch.sources[one], batch.radii[index]).to(planes.device)
            rng = generator(self.config.seed, f"jitter/{index}", self.step)
            field = self.model.field(planes[index], frame)
            views.append(self._renderer(field, cameras[one], white, rng=rng).rgb)
        return torch.cat(views)


def strided(cameras: Cameras, stride: int, row: int, column: int) -> Cameras:
    """The same views through every stride-th pixel centre, starting with that of `row` and `column`."""
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2] /= stride
    for axis, first in ((0, column), (1, row)):
        # u = stride (u' - 1/2) + first + 1/2, so the principal point moves by the difference of the half pixels.
        intrinsics[:, axis, 2] += 0.5 - (first + 0.5) / stride
    height, width = (
        len(range(first, side, stride)) for first, side in ((row, cameras.height), (column, cameras.width))
    )
    return replace(cameras, intrinsics=intrinsics, height=height, width=width)
