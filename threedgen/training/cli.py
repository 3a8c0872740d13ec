"""`threedgen train prior`: trains an embedded prior, or another of its kind, and writes its folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from threedgen.arguments import Parser
from threedgen.training.command import add_config, config_of, machine_name, make_folder, run


def train_prior(argv: list[str]) -> None:
    """Trains, or goes on with, the prior in --out; leaves pipeline/, samples.png and losses.jsonl there."""
    first = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    first.add_argument("--kind", default="text")
    kind = first.parse_known_args([word for word in argv if word not in ("-h", "--help")])[0].kind
    (_train_view if kind == "view" else _train_text)(argv)


def _options(start: str) -> Parser:
    options = Parser(prog="threedgen train prior", description=__doc__)
    options.add_argument("--kind", choices=("text", "view"), default="text", help="what it is told")
    options.add_argument("--out", type=Path, default=Path("runs/prior"), help="folder, resumed if there")
    options.add_argument("--size", type=int, default=32, help="pixels: 32, or a doubling of it")
    options.add_argument("--start-from", type=Path, metavar="FOLDER", help=start)
    return options


def _train_text(argv: list[str]) -> None:
    from threedgen.training.model_card import write_model_card
    from threedgen.training.prior_model import for_size, save_pipeline
    from threedgen.training.prior_trainer import PriorTrainer, PriorTrainingConfig
    from threedgen.training.render_bank import RenderBank
    from threedgen.training.samples import write_sample_grid

    options = _options("start with the weights of a pipeline folder of this size or of half of it")
    add_config(options, PriorTrainingConfig)
    arguments = options.parse_args(argv)
    config, size, folder = config_of(arguments, PriorTrainingConfig), arguments.size, arguments.out
    make_folder(folder)
    trainer = PriorTrainer(config, for_size(size), folder)
    if not trainer.resume() and arguments.start_from is not None:
        trainer.start_from(arguments.start_from)
    loss = run(
        trainer,
        lambda progress: RenderBank(config.bank_views, size, config.seed, config.pair_share, progress),
        arguments.save_every,
        lambda: write_sample_grid(trainer, folder / "samples.png"),
    )
    save_pipeline(trainer.average, folder / "pipeline")
    write_model_card(trainer, folder / "pipeline", loss, machine_name(config.device))


def _train_view(argv: list[str]) -> None:
    from threedgen.training.prior_model import for_size
    from threedgen.training.view_bank import ViewBank
    from threedgen.training.view_card import write_view_card, write_view_grid
    from threedgen.training.view_model import save_view_pipeline
    from threedgen.training.view_trainer import ViewTrainer, ViewTrainingConfig

    options = _options("start with the UNet of a text prior's folder of this size")
    add_config(options, ViewTrainingConfig)
    arguments = options.parse_args(argv)
    config, size, folder = config_of(arguments, ViewTrainingConfig), arguments.size, arguments.out
    make_folder(folder)
    trainer = ViewTrainer(config, for_size(size), folder)
    if not trainer.resume() and arguments.start_from is not None:
        trainer.start_from(arguments.start_from)
    loss = run(
        trainer,
        lambda progress: ViewBank(config.bank_views, size, config.seed, progress),
        arguments.save_every,
        lambda: write_view_grid(trainer, folder / "samples.png"),
    )
    save_view_pipeline(trainer.average, folder / "pipeline")
    write_view_card(trainer, folder / "pipeline", loss, machine_name(config.device))
