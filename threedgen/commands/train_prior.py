"""`threedgen train prior`: trains a prior like the embedded ones and writes its folder."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.options import add_dry_run, print_settings, whole
from threedgen.commands.parser import Parser
from threedgen.commands.training import add_config, config_of, machine_name, make_folder, train
from threedgen.core.errors import UserError
from threedgen.training.config import (
    PriorTrainingConfig,
    TrainingConfig,
    VideoTrainingConfig,
    ViewTrainingConfig,
)

if TYPE_CHECKING:
    from threedgen.training.denoiser_trainer import Bank, DenoiserTrainer

KINDS: dict[str, type[TrainingConfig]] = {
    "text": PriorTrainingConfig,
    "view": ViewTrainingConfig,
    "video": VideoTrainingConfig,
}


@dataclass(frozen=True)
class _Training:
    """The functions of one kind of prior. trainer, bank: of the config and the size of the pictures in pixels."""

    trainer: Callable[[Any, int, Path], DenoiserTrainer]
    bank: Callable[[Any, int, Callable[[int, int], None]], Bank]
    grid: Callable[[Any, Path], None]
    pipeline: Callable[[Any, Path], None]
    card: Callable[[Any, Path, float, str], None]


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen train prior",
        description="Train a diffusion prior like the embedded ones on the shape world, and write its folder "
        "(pipeline/, which --prior and --video-prior take), samples.png and losses.jsonl into --out. A training "
        "that was stopped continues.",
    )
    parser.add_argument(
        "--kind",
        choices=tuple(KINDS),
        default="text",
        help="what the prior is given: a caption (text, the default), a picture of the object (view), or a caption "
        "for a clip of frames (video)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/prior"),
        metavar="DIR",
        help="folder of the training, which continues if it is there; default: runs/prior",
    )
    parser.add_argument(
        "--size",
        type=whole("--size"),
        default=32,
        metavar="PIXELS",
        help="width and height of the pictures: 32 or a doubling of it; default: 32",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FOLDER",
        help="start with the weights of a text prior: for text one of this size or half of it, for view its UNet, "
        "for video its words and coarse levels",
    )
    add_dry_run(parser, "training")
    add_config(parser, KINDS)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains or continues the prior in --out. Raises UserError."""
    config, size, folder = config_of(arguments, KINDS[arguments.kind]), arguments.size, arguments.out
    if arguments.dry_run:
        print_settings({"kind": arguments.kind, "size": size, **dataclasses.asdict(config)})
        return
    training = {"text": _text, "view": _view, "video": _video}[arguments.kind]()
    make_folder(folder)
    trainer: Any = training.trainer(config, size, folder)
    if not trainer.resume() and arguments.start_from is not None:
        trainer.start_from(arguments.start_from)
    loss = train(
        trainer,
        lambda progress: training.bank(config, size, progress),
        arguments.save_every,
        lambda: training.grid(trainer, folder / "samples.png"),
    )
    training.pipeline(trainer.average, folder / "pipeline")
    training.card(trainer, folder / "pipeline", loss, machine_name(config.device))


def _text() -> _Training:
    from threedgen.training.model_card import write_model_card
    from threedgen.training.prior_model import for_size, save_pipeline
    from threedgen.training.prior_trainer import PriorTrainer
    from threedgen.training.render_bank import RenderBank
    from threedgen.training.samples import write_sample_grid

    return _Training(
        lambda config, size, folder: PriorTrainer(config, for_size(size), folder),
        lambda config, size, progress: RenderBank(
            config.bank_views, size, config.seed, config.pair_share, progress
        ),
        write_sample_grid,
        save_pipeline,
        write_model_card,
    )


def _view() -> _Training:
    from threedgen.training.prior_model import for_size
    from threedgen.training.view_bank import ViewBank
    from threedgen.training.view_card import write_view_card, write_view_grid
    from threedgen.training.view_model import save_view_pipeline
    from threedgen.training.view_trainer import ViewTrainer

    return _Training(
        lambda config, size, folder: ViewTrainer(config, for_size(size), folder),
        lambda config, size, progress: ViewBank(config.bank_views, size, config.seed, progress),
        write_view_grid,
        save_view_pipeline,
        write_view_card,
    )


def _video() -> _Training:
    from threedgen.training.clip_bank import ClipBank
    from threedgen.training.video_card import write_video_card, write_video_grid
    from threedgen.training.video_model import VideoArchitecture, save_video_pipeline
    from threedgen.training.video_trainer import VideoTrainer

    def architecture(size: int) -> VideoArchitecture:
        if size != VideoArchitecture.size:
            raise UserError(f"--size is {size}: the frames of clips have {VideoArchitecture.size} pixels")
        return VideoArchitecture()

    return _Training(
        lambda config, size, folder: VideoTrainer(config, architecture(size), folder),
        lambda config, size, progress: ClipBank(
            config.bank_views, size, VideoArchitecture.frames, config.seed, progress
        ),
        write_video_grid,
        save_video_pipeline,
        write_video_card,
    )
