"""What the training commands share: options from a config's fields, and a progress bar around the trainer."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from threedgen.training.denoiser_trainer import Bank, DenoiserTrainer, TrainingConfig

_CHOICES = {"precision": ("bf16", "fp32"), "device": ("auto", "cpu", "cuda")}
Config = TypeVar("Config", bound="TrainingConfig")


def add_config(options: argparse.ArgumentParser, kind: type[TrainingConfig]) -> None:
    """One option a field of the config, and --save-every."""
    options.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    for item in dataclasses.fields(kind):
        flag = f"--{item.name.replace('_', '-')}"
        options.add_argument(
            flag, type=type(item.default), default=item.default, choices=_CHOICES.get(item.name)
        )


def config_of(arguments: argparse.Namespace, kind: type[Config]) -> Config:
    """The config that the options say. Raises UserError for counts below 1."""
    from threedgen.core.machine import choose_device

    names = [item.name for item in dataclasses.fields(kind)]
    config = kind(**{name: getattr(arguments, name) for name in names})
    for name in ("steps", "batch", "bank_views", "save_every"):
        value = getattr(arguments, name, 1)
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    return dataclasses.replace(config, device=choose_device(config.device))


def make_folder(folder: Path) -> None:
    """Raises UserError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to '{folder}': {error.strerror}; choose another --out") from error


def run(
    trainer: DenoiserTrainer,
    make_bank: Callable[[Callable[[int, int], None]], Bank],
    every: int,
    saved: Callable[[], Any],
) -> float:
    """Makes the bank, trains to the end and leaves losses.jsonl in the trainer's folder; returns the last mean
    loss.

    saved: called after every checkpoint.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from threedgen.jobs.listeners.metrics import truncate

    losses = trainer.folder / "losses.jsonl"
    if losses.is_file():
        truncate(losses, trainer.step + 1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        rendering = progress.add_task("rendering", total=None)
        bank = make_bank(lambda done, total: progress.update(rendering, completed=done, total=total))
        training = progress.add_task("training", total=trainer.config.steps, completed=trainer.step)
        latest = [float("nan")]

        def report(loss: float, wrote: bool) -> None:
            latest[0] = loss
            progress.update(training, completed=trainer.step, description=f"training, loss {loss:.4f}")
            line = {"step": trainer.step, "loss": round(loss, 5), "seconds": round(trainer.seconds, 1)}
            with losses.open("a") as file:
                file.write(json.dumps(line) + "\n")
            if wrote:
                saved()

        trainer.fit(bank, every, report)
    return latest[0]


def machine_name(device: str) -> str:
    """What a model card calls the machine."""
    import torch

    return f"{torch.get_num_threads()} CPU core(s)" if device == "cpu" else torch.cuda.get_device_name()
