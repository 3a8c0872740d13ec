"""Trains the embedded prior on the shape world: v-prediction, EMA, exact resume.

One step is a function of (seed, step) and the state, and the state is one checkpoint: a killed training goes on
where it was. The learning rate warms up, stays, and falls to zero over the last part of the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen import checkpoint
from threedgen.errors import UserError
from threedgen.random import derive_seed, generator
from threedgen.training.prior_model import (
    PriorArchitecture,
    PriorModel,
    architecture_state,
    grow,
    load_pipeline,
)
from threedgen.training.render_bank import Batch, RenderBank
from threedgen.training.tokenizer import MAX_TOKENS, vocabulary


@dataclass(frozen=True)
class TrainingConfig:
    """steps, batch: of the whole run. learning_rate: the plateau. decay: the last share of the run, falling.

    text_dropout, view_dropout: how often the prompt and the camera are withheld (for guidance).
    precision: "bf16" runs the networks in bfloat16 autocast, the weights stay float32.
    """

    steps: int = 14000
    batch: int = 16
    learning_rate: float = 1.2e-3
    warmup: int = 200
    decay: float = 0.4
    weight_decay: float = 1e-3
    ema: float = 0.999
    text_dropout: float = 0.1
    view_dropout: float = 0.1
    bank_views: int = 24000
    pair_share: float = 0.2
    seed: int = 0
    precision: str = "bf16"
    device: str = "cpu"


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


class PriorTrainer:
    """The model, its moving average, the optimizer and the step."""

    def __init__(self, config: TrainingConfig, architecture: PriorArchitecture, folder: Path) -> None:
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        self.config, self.folder = config, folder
        torch.manual_seed(derive_seed(config.seed, "weights", 0) % 2**31)
        self.model = PriorModel(architecture).to(config.device)
        self.average = PriorModel(architecture).to(config.device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.alpha, self.sigma = cosine_alphas()
        vocab, merges = vocabulary()
        make_tokenizer: Any = CLIPTokenizer  # its stubs know the files' constructor only
        end = "<|endoftext|>"
        self.tokenizer = make_tokenizer(
            vocab=vocab,
            merges=merges,
            bos_token="<|startoftext|>",
            eos_token=end,
            unk_token=end,
            pad_token=end,
        )
        self.step = self.pictures = 0
        self.seconds = 0.0
        self.origin = ""

    def tokens(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """[B, 77] token ids, padded, and their mask, on the training's device."""
        encoded = self.tokenizer(
            captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        )
        device = self.config.device
        return encoded["input_ids"].to(device), encoded["attention_mask"].to(device)

    def train_step(self, batch: Batch) -> float:
        """One update on one batch; returns the loss."""
        config, device = self.config, self.config.device
        rng = generator(config.seed, "train", self.step)
        count = len(batch.captions)
        # More than half of the noise levels are drawn where shape, colour and side are decided.
        level = torch.rand(count, generator=rng)
        high = 0.45 + 0.55 * level
        timesteps = (
            (torch.where(torch.rand(count, generator=rng) < 0.55, high, level) * 1000).long().clamp(0, 999)
        )
        noise = torch.randn(batch.images.permute(0, 3, 1, 2).shape, generator=rng)
        no_text = torch.rand(count, generator=rng) < config.text_dropout
        no_view = torch.rand(count, generator=rng) < config.view_dropout
        captions = ["" if drop else text for drop, text in zip(no_text.tolist(), batch.captions, strict=True)]
        views = torch.where(no_view.unsqueeze(1), 0.0, batch.views)

        clean = batch.images.permute(0, 3, 1, 2) * 2.0 - 1.0
        alpha, sigma = (table[timesteps].view(-1, 1, 1, 1) for table in (self.alpha, self.sigma))
        noisy, target = alpha * clean + sigma * noise, alpha * noise - sigma * clean
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.precision == "bf16"):
            predicted = self.model(
                noisy.to(device), timesteps.to(device), *self.tokens(captions), views.to(device)
            )
        loss = (predicted.float() - target.to(device)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            values: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(averages, values, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.step += 1
        self.pictures += count
        return float(loss.detach())

    def fit(self, bank: RenderBank, every: int, report: Callable[[float, bool], None]) -> None:
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

    def start_from(self, folder: Path) -> None:
        """Takes over the weights of a pipeline folder of this size, or of half of it (see `grow`)."""
        other = load_pipeline(folder)
        if 2 * other.architecture.size == self.model.architecture.size:
            other = grow(other)
        if other.architecture != self.model.architecture:
            raise UserError(
                f"{folder} holds pictures of {other.architecture.size} pixels: choose another --size"
            )
        self.model.load_state_dict(other.state_dict())
        self.average.load_state_dict(other.state_dict())
        self.origin = str(folder)

    def save(self) -> None:
        """Writes the checkpoint: weights, averages, the optimizer's moments."""
        tensors = checkpoint.prefixed("model", self.model.state_dict())
        tensors |= checkpoint.prefixed("average", self.average.state_dict())
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        state: dict[str, Any] = {"step": self.step, "pictures": self.pictures, "seconds": self.seconds}
        state["origin"] = self.origin
        state["architecture"] = architecture_state(self.model.architecture)
        checkpoint.save(self.folder / "checkpoint", tensors, state)

    def resume(self) -> bool:
        """Loads the folder's checkpoint if there is one; whether there was."""
        if not checkpoint.exists(self.folder / "checkpoint"):
            return False
        tensors, state = checkpoint.load(self.folder / "checkpoint")
        if state["architecture"] != _plain(architecture_state(self.model.architecture)):
            raise UserError(f"{self.folder} holds a training of another architecture: choose another --out")
        self.model.load_state_dict(checkpoint.unprefixed("model", tensors))
        self.average.load_state_dict(checkpoint.unprefixed("average", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in checkpoint.unprefixed("optimizer", tensors).items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = value
        document = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": moments, "param_groups": document["param_groups"]})
        self.step, self.pictures, self.seconds = state["step"], state["pictures"], state["seconds"]
        self.origin = state.get("origin", "")
        return True


def _plain(value: Any) -> Any:
    """What a value becomes in JSON (tuples turn into lists)."""
    import json

    return json.loads(json.dumps(value))
