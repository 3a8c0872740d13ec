"""`threedgen train prior`: trains an embedded prior, or another of its kind, and writes its folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.parser import Parser
from threedgen.commands.training import Config, add_config, config_of, machine_name, make_folder, run
from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from threedgen.training.denoiser_trainer import Bank, DenoiserTrainer


def train_prior(argv: list[str]) -> None:
    """Trains, or goes on with, the prior in --out; leaves pipeline/, samples.png and losses.jsonl there."""
    first = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    first.add_argument("--kind", default="text")
    kind = first.parse_known_args([word for word in argv if word not in ("-h", "--help")])[0].kind
    {"view": _train_view, "video": _train_video}.get(kind, _train_text)(argv)


def _train(
    argv: list[str],
    start: str,
    kind: type[Config],
    make_trainer: Callable[[Config, int, Path], DenoiserTrainer],
    make_bank: Callable[[Config, int, Callable[[int, int], None]], Bank],
    write_grid: Callable[[Any, Path], None],
    finish: Callable[[Any, Path, float, str], None],
) -> None:
    """Parses, trains, and hands the trainer, its folder, the last loss and the machine's name to `finish`.

    start: what --start-from takes over. make_trainer, make_bank: of the config and the pictures' size.
    """
    options = Parser(prog="threedgen train prior", description=__doc__)
    options.add_argument("--kind", choices=("text", "view", "video"), default="text", help="what it is told")
    options.add_argument("--out", type=Path, default=Path("runs/prior"), help="folder, resumed if there")
    options.add_argument("--size", type=int, default=32, help="pixels: 32, or a doubling of it")
    options.add_argument("--start-from", type=Path, metavar="FOLDER", help=start)
    add_config(options, kind)
    arguments = options.parse_args(argv)
    config, size, folder = config_of(arguments, kind), arguments.size, arguments.out
    make_folder(folder)
    trainer: Any = make_trainer(config, size, folder)
    if not trainer.resume() and arguments.start_from is not None:
        trainer.start_from(arguments.start_from)
    loss = run(
        trainer,
        lambda progress: make_bank(config, size, progress),
        arguments.save_every,
        lambda: write_grid(trainer, folder / "samples.png"),
    )
    finish(trainer, folder / "pipeline", loss, machine_name(config.device))


def _train_text(argv: list[str]) -> None:
    from threedgen.training.model_card import write_model_card
    from threedgen.training.prior_model import for_size, save_pipeline
    from threedgen.training.prior_trainer import PriorTrainer, PriorTrainingConfig
    from threedgen.training.render_bank import RenderBank
    from threedgen.training.samples import write_sample_grid

    def finish(trainer: Any, folder: Path, loss: float, machine: str) -> None:
        save_pipeline(trainer.average, folder)
        write_model_card(trainer, folder, loss, machine)

    _train(
        argv,
        "start with the weights of a pipeline folder of this size or of half of it",
        PriorTrainingConfig,
        lambda config, size, folder: PriorTrainer(config, for_size(size), folder),
        lambda config, size, progress: RenderBank(
            config.bank_views, size, config.seed, config.pair_share, progress
        ),
        write_sample_grid,
        finish,
    )


def _train_view(argv: list[str]) -> None:
    from threedgen.training.prior_model import for_size
    from threedgen.training.view_bank import ViewBank
    from threedgen.training.view_card import write_view_card, write_view_grid
    from threedgen.training.view_model import save_view_pipeline
    from threedgen.training.view_trainer import ViewTrainer, ViewTrainingConfig

    def finish(trainer: Any, folder: Path, loss: float, machine: str) -> None:
        save_view_pipeline(trainer.average, folder)
        write_view_card(trainer, folder, loss, machine)

    _train(
        argv,
        "start with the UNet of a text prior's folder of this size",
        ViewTrainingConfig,
        lambda config, size, folder: ViewTrainer(config, for_size(size), folder),
        lambda config, size, progress: ViewBank(config.bank_views, size, config.seed, progress),
        write_view_grid,
        finish,
    )


def _train_video(argv: list[str]) -> None:
    from threedgen.training.clip_bank import ClipBank
    from threedgen.training.video_card import write_video_card, write_video_grid
    from threedgen.training.video_model import VideoArchitecture, save_video_pipeline
    from threedgen.training.video_trainer import VideoTrainer, VideoTrainingConfig

    def architecture(size: int) -> VideoArchitecture:
        if size != VideoArchitecture.size:
            raise UserError(f"--size is {size}: clips are of {VideoArchitecture.size} pixels")
        return VideoArchitecture()

    def finish(trainer: Any, folder: Path, loss: float, machine: str) -> None:
        save_video_pipeline(trainer.average, folder)
        write_video_card(trainer, folder, loss, machine)

    _train(
        argv,
        "start with the words and the coarse levels of a text prior's folder",
        VideoTrainingConfig,
        lambda config, size, folder: VideoTrainer(config, architecture(size), folder),
        lambda config, size, progress: ClipBank(
            config.bank_views, size, VideoArchitecture.frames, config.seed, progress
        ),
        write_video_grid,
        finish,
    )
