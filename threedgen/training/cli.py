"""`threedgen train prior`: trains the embedded prior, or another of its kind, and writes its folder."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The options; every training number can be changed."""
    from threedgen.training.prior_trainer import TrainingConfig

    options = argparse.ArgumentParser(prog="threedgen train prior", description=__doc__)
    options.add_argument(
        "--out", type=Path, default=Path("runs/prior"), help="folder of the training (resumed if there)"
    )
    options.add_argument(
        "--save-every", type=int, default=500, help="steps between checkpoints and sample grids"
    )
    for item in dataclasses.fields(TrainingConfig):
        kind = type(item.default)
        options.add_argument(f"--{item.name.replace('_', '-')}", type=kind, default=item.default)
    return options


def train_prior(argv: list[str]) -> None:
    """Trains, or goes on with, the prior in --out; leaves OUT/pipeline, OUT/samples.png and OUT/losses.jsonl."""
    import json

    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from threedgen.training.model_card import write_model_card
    from threedgen.training.prior_model import PriorArchitecture, save_pipeline
    from threedgen.training.prior_trainer import PriorTrainer, TrainingConfig
    from threedgen.training.render_bank import RenderBank
    from threedgen.training.samples import write_sample_grid

    arguments = parser().parse_args(argv)
    names = [item.name for item in dataclasses.fields(TrainingConfig)]
    config = TrainingConfig(**{name: getattr(arguments, name) for name in names})
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    architecture = PriorArchitecture()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        rendering = progress.add_task("rendering", total=None)
        bank = RenderBank(
            config.bank_views,
            architecture.size,
            config.seed,
            config.pair_share,
            lambda done, total: progress.update(rendering, completed=done, total=total),
        )
        trainer = PriorTrainer(config, architecture, folder)
        trainer.resume()
        training = progress.add_task("training", total=config.steps, completed=trainer.step)

        latest = [float("nan")]

        def report(step: int, loss: float, seconds: float) -> None:
            latest[0] = loss
            progress.update(training, completed=step, description=f"training, loss {loss:.4f}")
            line = {"step": step, "loss": round(loss, 5), "seconds": round(seconds, 1)}
            with (folder / "losses.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            if step % arguments.save_every == 0:
                write_sample_grid(trainer, folder / "samples.png")

        trainer.fit(bank, arguments.save_every, report)
    save_pipeline(trainer.average, folder / "pipeline")
    threads = (
        f"{torch.get_num_threads()} CPU core(s)" if config.device == "cpu" else torch.cuda.get_device_name()
    )
    write_model_card(trainer, folder / "pipeline", latest[0], threads)
