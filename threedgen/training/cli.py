"""`threedgen train prior`: trains the embedded prior, or another of its kind, and writes its folder."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.arguments import Parser
from threedgen.errors import UserError

if TYPE_CHECKING:
    from threedgen.training.denoiser_trainer import TrainingConfig
    from threedgen.training.prior_trainer import PriorTrainer

_CHOICES = {"precision": ("bf16", "fp32"), "device": ("auto", "cpu", "cuda")}


def _parse(argv: list[str]) -> tuple[argparse.Namespace, TrainingConfig]:
    from threedgen.machine import choose_device
    from threedgen.training.denoiser_trainer import TrainingConfig

    options = Parser(prog="threedgen train prior", description=__doc__)
    options.add_argument("--out", type=Path, default=Path("runs/prior"), help="folder, resumed if there")
    options.add_argument("--size", type=int, default=32, help="pixels: 32, or a doubling of it")
    options.add_argument(
        "--start-from",
        type=Path,
        metavar="FOLDER",
        help="start with the weights of a pipeline folder of this size or of half of it",
    )
    options.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    for item in dataclasses.fields(TrainingConfig):
        flag = f"--{item.name.replace('_', '-')}"
        options.add_argument(
            flag, type=type(item.default), default=item.default, choices=_CHOICES.get(item.name)
        )
    arguments = options.parse_args(argv)
    names = [item.name for item in dataclasses.fields(TrainingConfig)]
    config = TrainingConfig(**{name: getattr(arguments, name) for name in names})
    for name in ("steps", "batch", "bank_views"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(config, name)}")
    if arguments.save_every < 1:
        raise UserError(f"--save-every must be at least 1, got {arguments.save_every}")
    return arguments, dataclasses.replace(config, device=choose_device(config.device))


def _trainer(arguments: argparse.Namespace, config: TrainingConfig) -> PriorTrainer:
    """The trainer where it was, or at its start."""
    from threedgen.training.prior_model import for_size
    from threedgen.training.prior_trainer import PriorTrainer

    trainer = PriorTrainer(config, for_size(arguments.size), arguments.out)
    if not trainer.resume() and arguments.start_from is not None:
        trainer.start_from(arguments.start_from)
    return trainer


def train_prior(argv: list[str]) -> None:
    """Trains, or goes on with, the prior in --out; leaves pipeline/, samples.png and losses.jsonl there."""
    import json

    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from threedgen.listeners.metrics import truncate
    from threedgen.training.model_card import write_model_card
    from threedgen.training.prior_model import save_pipeline
    from threedgen.training.render_bank import RenderBank
    from threedgen.training.samples import write_sample_grid

    arguments, config = _parse(argv)
    folder: Path = arguments.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to '{folder}': {error.strerror}; choose another --out") from error
    trainer = _trainer(arguments, config)
    losses = folder / "losses.jsonl"
    if losses.is_file():
        truncate(losses, trainer.step + 1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        rendering = progress.add_task("rendering", total=None)

        def rendered(done: int, total: int) -> None:
            progress.update(rendering, completed=done, total=total)

        bank = RenderBank(config.bank_views, arguments.size, config.seed, config.pair_share, rendered)
        training = progress.add_task("training", total=config.steps, completed=trainer.step)
        latest = [float("nan")]

        def report(loss: float, saved: bool) -> None:
            latest[0] = loss
            progress.update(training, completed=trainer.step, description=f"training, loss {loss:.4f}")
            line = {"step": trainer.step, "loss": round(loss, 5), "seconds": round(trainer.seconds, 1)}
            with losses.open("a") as file:
                file.write(json.dumps(line) + "\n")
            if saved:
                write_sample_grid(trainer, folder / "samples.png")

        trainer.fit(bank, arguments.save_every, report)
    save_pipeline(trainer.average, folder / "pipeline")
    on_cpu = config.device == "cpu"
    machine = f"{torch.get_num_threads()} CPU core(s)" if on_cpu else torch.cuda.get_device_name()
    write_model_card(trainer, folder / "pipeline", latest[0], machine)
