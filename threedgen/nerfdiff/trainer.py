"""Trains NerfDiff's two networks together (Gu et al. 2023, section 3.2; METHODS 3.1 and 3.2).

L = ||I_theta - I||^2 + lambda ||v_phi(alpha I + sigma eps, t; I_theta, I_s) - v||^2 with I_theta the single-image
NeRF seen from the target view. I_theta is detached in the second term unless `coupled`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from threedgen.nerfdiff.bank import PairBatch
from threedgen.nerfdiff.field import source_frame
from threedgen.nerfdiff.model import NerfDiffArchitecture, NerfDiffModel
from threedgen.random import generator
from threedgen.renderers.volume import VolumeRenderer
from threedgen.training.denoiser_trainer import DenoiserTrainer, TrainingConfig, learning_rate

SAMPLES = 48  # intervals on the diagonal of the scene's box


@dataclass(frozen=True)
class NerfDiffTrainingConfig(TrainingConfig):
    """denoising: lambda, the weight of the denoiser's loss; 0 trains the single-image NeRF alone. coupled: the
    denoiser's loss reaches the NeRF as well (0 or 1)."""

    steps: int = 4000
    batch: int = 16
    learning_rate: float = 1e-3
    decay: float = 0.5
    denoising: float = 1.0
    coupled: int = 0


class NerfDiffTrainer(DenoiserTrainer):
    """Both networks, on pairs of views."""

    config: NerfDiffTrainingConfig

    def __init__(
        self, config: NerfDiffTrainingConfig, architecture: NerfDiffArchitecture, folder: Path
    ) -> None:
        super().__init__(config, lambda: NerfDiffModel(architecture), folder)
        self._renderer = VolumeRenderer(VolumeRenderer.Config(samples=SAMPLES))

    def train_step(self, batch: PairBatch) -> float:
        """One update; returns the whole loss."""
        config = self.config
        device, count = torch.device(config.device), len(batch.images)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        pictures, clean = (
            (value.permute(0, 3, 1, 2) * 2.0 - 1.0).to(device) for value in (batch.pictures, batch.images)
        )
        with self.half():
            planes = self.model.planes(pictures)
        renders = self._renders(planes, batch)
        loss = (renders - batch.images.to(device)).square().mean()
        if config.denoising:
            rng = generator(config.seed, "train", self.step)
            timesteps = self.timesteps(count, rng)
            noise = torch.randn(clean.shape, generator=rng).to(device)
            noisy, target = self.noised(clean, noise, timesteps)
            seen = (renders if config.coupled else renders.detach()).permute(0, 3, 1, 2) * 2.0 - 1.0
            with self.half():
                predicted = self.model.denoise(noisy, timesteps.to(device), seen, pictures)
            loss = loss + config.denoising * (predicted.float() - target).square().mean()
        self.update(loss)
        self.pictures += count
        return float(loss.detach())

    def _renders(self, planes: Tensor, batch: PairBatch) -> Tensor:
        """Each object's NeRF from its target view, [B, S, S, 3] on white."""
        white, views = torch.ones(3, device=planes.device), []
        for index, radius in enumerate(batch.radii):
            one = slice(index, index + 1)
            frame = source_frame(batch.sources[one], radius).to(planes.device)
            rng = generator(self.config.seed, f"jitter/{index}", self.step)
            views.append(
                self._renderer(self.model.field(planes[index], frame), batch.cameras[one], white, rng=rng).rgb
            )
        return torch.cat(views)
