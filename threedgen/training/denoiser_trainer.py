"""Trains a denoiser on pictures: v-prediction, EMA, exact resume.

One step is a function of (seed, step) and the state, and the state is one checkpoint: a killed training goes on
where it was. The learning rate warms up, stays, and falls to zero over the last part of the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed, generator
from threedgen.training.config import TrainingConfig
from threedgen.training.optimizer_state import moments, restore


class Batch(Protocol):
    """Pictures and what they are told by."""

    @property
    def images(self) -> Float[Tensor, "B H W 3"]:
        """In [0, 1]."""
        ...


class Bank(Protocol):
    """Where batches come from."""

    def batch(self, count: int, seed: int, step: int) -> Any:
        """`count` pictures; a function of (seed, step)."""
        ...


@cache
def cosine_alphas(steps: int = 1000) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """alpha_t and sigma_t of the squared-cosine schedule, as diffusers' scheduler makes them (METHODS 0.1)."""

    def level(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1.0 - level((i + 1) / steps) / level(i / steps), 0.999) for i in range(steps)]
    cumulative = torch.cumprod(1.0 - torch.tensor(betas, dtype=torch.float64), dim=0)
    return cumulative.sqrt().float(), (1.0 - cumulative).sqrt().float()


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, plateau, cosine fall to zero."""
    warm = min(1.0, (step + 1) / config.warmup)
    start = (1.0 - config.decay) * config.steps
    fall = min(max((step - start) / max(config.steps - start, 1.0), 0.0), 1.0)
    return config.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * fall))


class DenoiserTrainer:
    """A model, its moving average, the optimizer and the step. Subclasses say what the model is told."""

    def __init__(self, config: TrainingConfig, make: Callable[[], nn.Module], folder: Path) -> None:
        """make: a new model; it has an `architecture`, a frozen dataclass. folder: of the checkpoint."""
        self.config, self.folder = config, folder
        torch.manual_seed(derive_seed(config.seed, "weights", 0) % 2**31)
        self.model: Any = make().to(config.device)
        self.average: Any = make().to(config.device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.alpha, self.sigma = cosine_alphas()
        self.step = self.pictures = 0
        self.seconds = 0.0
        self.origin = ""

    def told(self, batch: Any, rng: torch.Generator) -> tuple[Tensor, ...]:
        """What the model is called with after the noisy pictures and the time steps, on the training's device.

        rng: for what is withheld, so that guidance has an unconditional branch.
        """
        raise NotImplementedError

    def train_step(self, batch: Batch) -> float:
        """One update on one batch; returns the loss."""
        config, device = self.config, self.config.device
        rng = generator(config.seed, "train", self.step)
        count = len(batch.images)
        timesteps = self.timesteps(count, rng)
        clean = batch.images.permute(0, 3, 1, 2) * 2.0 - 1.0
        noise = torch.randn(clean.shape, generator=rng)
        told = self.told(batch, rng)
        noisy, target = self.noised(clean, noise, timesteps)
        with self.half():
            predicted = self.model(noisy.to(device), timesteps.to(device), *told)
        loss = (predicted.float() - target.to(device)).square().mean()
        self.update(loss)
        self.pictures += count
        return float(loss.detach())

    def timesteps(self, count: int, rng: torch.Generator) -> Int[Tensor, " B"]:
        """More than half of the noise levels are drawn where shape, colour and side are decided."""
        level = torch.rand(count, generator=rng)
        high = 0.45 + 0.55 * level
        return (torch.where(torch.rand(count, generator=rng) < 0.55, high, level) * 1000).long().clamp(0, 999)

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        """alpha x + sigma eps, and the v to be predicted: alpha eps - sigma x."""
        alpha, sigma = (table[timesteps].view(-1, 1, 1, 1).to(clean) for table in (self.alpha, self.sigma))
        return alpha * clean + sigma * noise, alpha * noise - sigma * clean

    def half(self) -> torch.autocast:
        """bfloat16 for the networks, where the config wants it."""
        device = torch.device(self.config.device).type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bf16")

    def update(self, loss: Float[Tensor, ""]) -> None:
        """One step of the optimizer, at this step's learning rate, and of the moving average."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            values: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(averages, values, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.step += 1

    def fit(self, bank: Bank, every: int, report: Callable[[float, bool], None]) -> None:
        """Trains to config.steps; saves every `every` steps and at the end.

        report(mean loss since the last report, saved): every 50 steps and after every save.
        """
        losses: list[float] = []
        while self.step < self.config.steps:
            start = time.perf_counter()
            losses.append(self.train_step(bank.batch(self.config.batch, self.config.seed, self.step)))
            self.seconds += time.perf_counter() - start
            if not math.isfinite(losses[-1]):
                raise UserError(
                    f"the loss became {losses[-1]} at step {self.step}: resume with a lower --learning-rate"
                )
            saving = self.step % every == 0 or self.step == self.config.steps
            if saving:
                self.save()
            if saving or self.step % 50 == 0:
                report(sum(losses) / len(losses), saving)
                losses.clear()

    def save(self) -> None:
        """Writes the checkpoint: weights, averages, the optimizer's moments."""
        tensors = checkpoint.prefixed("model", self.model.state_dict())
        tensors |= checkpoint.prefixed("average", self.average.state_dict())
        tensors |= checkpoint.prefixed("optimizer", moments(self.optimizer))
        state: dict[str, Any] = {"step": self.step, "pictures": self.pictures, "seconds": self.seconds}
        state["origin"] = self.origin
        state["architecture"] = asdict(self.model.architecture)
        checkpoint.save(self.folder / "checkpoint", tensors, state)

    def resume(self) -> bool:
        """Loads the folder's checkpoint if there is one; whether there was."""
        if not checkpoint.exists(self.folder / "checkpoint"):
            return False
        tensors, state = checkpoint.load(self.folder / "checkpoint")
        if state["architecture"] != _plain(asdict(self.model.architecture)):
            raise UserError(f"{self.folder} holds a training of another architecture: choose another --out")
        self.model.load_state_dict(checkpoint.unprefixed("model", tensors))
        self.average.load_state_dict(checkpoint.unprefixed("average", tensors))
        restore(self.optimizer, checkpoint.unprefixed("optimizer", tensors))
        self.step, self.pictures, self.seconds = state["step"], state["pictures"], state["seconds"]
        self.origin = state.get("origin", "")
        return True


def _plain(value: Any) -> Any:
    """What a value becomes in JSON (tuples turn into lists)."""
    import json

    return json.loads(json.dumps(value))
