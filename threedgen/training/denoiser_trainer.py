"""Trains a denoiser of pictures with v-prediction, a moving average of the weights, and exact resumption.

One step is a function of (seed, step) and the state, and the state is one checkpoint. So a killed training
continues from its last checkpoint with the same bits. The learning rate warms up, stays constant, and falls to zero
at the end of the training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed, generator
from threedgen.core.settings import at_least, settings
from threedgen.training.config import TrainingConfig
from threedgen.training.documents import DocumentError, build
from threedgen.training.optimizer_state import moments, restore


class Batch(Protocol):
    """Pictures and the conditions that belong to them."""

    @property
    def images(self) -> Float[Tensor, "B H W 3"]:
        """In [0, 1]."""
        ...


class Bank(Protocol):
    """A source of batches."""

    def batch(self, count: int, seed: int, step: int) -> Any:
        """A batch of `count` examples, as a function of (seed, step)."""
        ...


@cache
def cosine_alphas(steps: int = 1000) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """alpha_t and sigma_t of the squared-cosine schedule (Nichol and Dhariwal 2021), as the scheduler of diffusers
    makes them."""

    def level(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1.0 - level((i + 1) / steps) / level(i / steps), 0.999) for i in range(steps)]
    cumulative = torch.cumprod(1.0 - torch.tensor(betas, dtype=torch.float64), dim=0)
    return cumulative.sqrt().float(), (1.0 - cumulative).sqrt().float()


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate at a step: a linear warm-up, a plateau, and a cosine fall to zero."""
    warm = min(1.0, (step + 1) / config.warmup)
    start = (1.0 - config.decay) * config.steps
    fall = min(max((step - start) / max(config.steps - start, 1.0), 0.0), 1.0)
    return config.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * fall))


@settings
class _Saved:
    """What a checkpoint says beside its tensors.

    Attributes:
        step: Number of steps done.
        pictures: Number of pictures in them.
        seconds (seconds): Duration of these steps.
        architecture: Settings of the network.
        origin: Folder of the weights that the training began with.
    """

    step: Annotated[int, at_least(0)]
    pictures: Annotated[int, at_least(0)]
    seconds: Annotated[float, at_least(0.0)]
    architecture: Mapping[str, Any]
    origin: str = ""


class DenoiserTrainer:
    """A model, its moving average, the optimizer and the step. Subclasses define the conditions of the model."""

    def __init__(self, config: TrainingConfig, make: Callable[[], nn.Module], folder: Path) -> None:
        """make: makes a new model, which has an `architecture`, a frozen dataclass. folder: where the checkpoint
        is."""
        self.config, self.folder = config, folder
        torch.manual_seed(derive_seed(config.seed, "weights", 0) % 2**31)
        self.model: Any = make().to(config.device)
        self.average: Any = make().to(config.device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(
            [value for value in self.model.parameters() if value.requires_grad],
            config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.alpha, self.sigma = cosine_alphas()
        self.step = self.pictures = 0
        self.seconds = 0.0
        self.origin = ""

    def conditions(self, batch: Any, rng: torch.Generator) -> tuple[Tensor, ...]:
        """The arguments of the model after the noisy pictures and the time steps, on the device of the training.

        rng: chooses which conditions are withheld, so that guidance has an unconditional branch.
        """
        raise NotImplementedError

    def next_batch(self, bank: Bank) -> Any:
        """The batch of this step."""
        return bank.batch(self.config.batch, self.config.seed, self.step)

    def train_step(self, batch: Batch) -> float:
        """Takes one step on one batch, and returns the loss."""
        config, device = self.config, self.config.device
        rng = generator(config.seed, "train", self.step)
        count = len(batch.images)
        timesteps = self.timesteps(count, rng)
        clean = batch.images.permute(0, 3, 1, 2) * 2.0 - 1.0
        noise = torch.randn(clean.shape, generator=rng)
        conditions = self.conditions(batch, rng)
        noisy, target = self.noised(clean, noise, timesteps)
        with self.half():
            predicted = self.model(noisy.to(device), timesteps.to(device), *conditions)
        loss = (predicted.float() - target.to(device)).square().mean()
        self.update(loss)
        self.pictures += count
        return float(loss.detach())

    def timesteps(self, count: int, rng: torch.Generator) -> Int[Tensor, " B"]:
        """Random time steps. More than half of them are at the high noise levels, where shape, colour and side are
        decided."""
        level = torch.rand(count, generator=rng)
        high = 0.45 + 0.55 * level
        return (torch.where(torch.rand(count, generator=rng) < 0.55, high, level) * 1000).long().clamp(0, 999)

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        """Noisy pictures alpha x + sigma eps, and the v = alpha eps - sigma x that is to be predicted."""
        alpha, sigma = (table[timesteps].view(-1, 1, 1, 1).to(clean) for table in (self.alpha, self.sigma))
        return alpha * clean + sigma * noise, alpha * noise - sigma * clean

    def begin_with(self, weights: Mapping[str, Tensor], origin: Path) -> None:
        """Takes over weights, also as the average. origin: the folder that they are from."""
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)
        self.origin = str(origin)

    def half(self) -> torch.autocast:
        """The autocast of the networks, which is to bfloat16 if the config asks for it."""
        device = torch.device(self.config.device).type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bf16")

    def update(self, loss: Float[Tensor, ""]) -> None:
        """Takes one step of the optimizer, at the learning rate of this step, and of the moving average."""
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
        """Trains up to config.steps, and saves every `every` steps and at the end.

        report: called with the mean loss since the last report and whether a checkpoint follows, every 50 steps
        and before every checkpoint. Raises UserError if the loss is no longer finite.
        """
        losses: list[float] = []
        while self.step < self.config.steps:
            start = time.perf_counter()
            losses.append(self.train_step(self.next_batch(bank)))
            self.seconds += time.perf_counter() - start
            if not math.isfinite(losses[-1]):
                raise UserError(
                    f"the loss became {losses[-1]} at step {self.step}: continue with a lower --learning-rate"
                )
            saving = self.step % every == 0 or self.step == self.config.steps
            if saving or self.step % 50 == 0:
                report(sum(losses) / len(losses), saving)
                losses.clear()
            if saving:
                self.save()  # after the report: one that is cut short is made again

    def save(self) -> None:
        """Writes the checkpoint: weights, averages and moments of the optimizer."""
        tensors = checkpoint.prefixed("model", self.model.state_dict())
        tensors |= checkpoint.prefixed("average", self.average.state_dict())
        tensors |= checkpoint.prefixed("optimizer", moments(self.optimizer))
        state: dict[str, Any] = {"step": self.step, "pictures": self.pictures, "seconds": self.seconds}
        state["origin"] = self.origin
        state["architecture"] = asdict(self.model.architecture)
        checkpoint.save(self.folder / "checkpoint", tensors, state)

    def resume(self) -> bool:
        """Loads the checkpoint of the folder, and returns whether there is one.

        Raises UserError for a checkpoint of another architecture or of another command.
        """
        if not checkpoint.exists(self.folder / "checkpoint"):
            return False
        tensors, state = checkpoint.load(self.folder / "checkpoint")
        if "architecture" not in state:
            raise UserError(f"{self.folder} holds a run of another command: choose another --out")
        if state["architecture"] != _plain(asdict(self.model.architecture)):
            raise UserError(f"{self.folder} holds a training of another architecture: choose another --out")
        try:
            saved = build(_Saved, state)
        except DocumentError as error:
            path = self.folder / "checkpoint" / checkpoint.STATE_FILE
            raise UserError(f"{path} is damaged ({error}): restore it, or choose another --out") from error
        checkpoint.fill(self.model, checkpoint.unprefixed("model", tensors), "model")
        checkpoint.fill(self.average, checkpoint.unprefixed("average", tensors), "average model")
        restore(self.optimizer, checkpoint.unprefixed("optimizer", tensors))
        self.step, self.pictures, self.seconds = saved.step, saved.pictures, saved.seconds
        self.origin = saved.origin
        return True


def _plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples become lists."""
    import json

    return json.loads(json.dumps(value))
