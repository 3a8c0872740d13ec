"""`threedgen train prior`: trains a prior like the embedded ones and writes its folder."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.options import add_dry_run, print_settings, whole
from threedgen.commands.parser import Parser
from threedgen.commands.training import add_config, catalogue_of, config_of, held, machine_name, train
from threedgen.core.errors import UserError
from threedgen.training.config import (
    FieldTrainingConfig,
    MultiViewTrainingConfig,
    PictureFieldTrainingConfig,
    PriorTrainingConfig,
    TrainingConfig,
    VideoTrainingConfig,
    ViewTrainingConfig,
)

if TYPE_CHECKING:
    from threedgen.datasets.things.thing_set import ThingSet
    from threedgen.training.denoiser_trainer import Bank, DenoiserTrainer

KINDS: dict[str, type[TrainingConfig]] = {
    "text": PriorTrainingConfig,
    "view": ViewTrainingConfig,
    "video": VideoTrainingConfig,
    "field": FieldTrainingConfig,
    "picture": PictureFieldTrainingConfig,
    "multiview": MultiViewTrainingConfig,
}
_SMALLEST = {"picture": 64, "multiview": 64}  # pixels, of the kinds that do not begin with 32
# The kinds that have an option, for those that not all have.
_KINDS_WITH = {
    "guide": ("multiview",),
    "words": ("field",),
    "catalogue": ("field", "picture", "view", "multiview"),
    "only": ("field", "picture", "view", "multiview"),
    "text_encoder": ("field",),
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
        "for a clip of frames (video); or the field of named things that a caption decodes to (field), or that a "
        "picture of an object decodes to (picture)",
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
        type=whole,
        metavar="PIXELS",
        help="width and height of the pictures: 32 or a doubling of it, for picture 64 or a doubling of it; "
        "default: the smallest",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FOLDER",
        help="start with the weights of a text prior: for text one of this size or half of it, for view its UNet, "
        "for video its words and coarse levels",
    )
    parser.add_argument(
        "--words",
        type=Path,
        metavar="FILE",
        help="for field: a text file with a thing on each line; default: every thing that there is",
    )
    parser.add_argument(
        "--catalogue",
        type=Path,
        metavar="DIR",
        help="for field, picture, view and multiview: the folder of Sweet Home 3D's furniture libraries; default: "
        "where Debian's package sweethome3d-furniture puts them, or none",
    )
    parser.add_argument(
        "--only",
        choices=("cc0",),
        help="for field, picture, view and multiview: of the catalogue, only what is in the public domain",
    )
    parser.add_argument(
        "--text-encoder",
        type=Path,
        metavar="DIR",
        help="for field: a folder with text_encoder/ and tokenizer/ (see benchmarks/text_pretraining.py), or "
        "the folder of a prior",
    )
    parser.add_argument(
        "--guide",
        type=Path,
        metavar="FOLDER",
        help="for multiview: the folder of a prior of --kind picture, whose views are shown to the new one; "
        "default: the one that ships",
    )
    add_dry_run(parser, "training")
    add_config(parser, KINDS)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Trains or continues the prior in --out. Raises UserError."""
    config, folder = config_of(arguments, KINDS[arguments.kind]), arguments.out
    size = arguments.size if arguments.size is not None else _SMALLEST.get(arguments.kind, 32)
    if arguments.dry_run:
        print_settings({"kind": arguments.kind, "size": size, **dataclasses.asdict(config)})
        return
    for name, kinds in _KINDS_WITH.items():
        if getattr(arguments, name) is not None and arguments.kind not in kinds:
            raise UserError(
                f"--{name.replace('_', '-')} is an option of --kind {' and '.join(kinds)}: leave it out"
            )
    makers = {
        "text": _text,
        "view": _view,
        "video": _video,
        "field": _field,
        "picture": _picture,
        "multiview": _multiview,
    }
    training = makers[arguments.kind](arguments)
    with held(folder):
        trainer: Any = training.trainer(config, size, folder)
        if not trainer.resume() and arguments.start_from is not None:
            trainer.start_from(arguments.start_from)
        loss = train(
            trainer,
            lambda progress: training.bank(config, size, progress),
            arguments.save_every,
            lambda: training.grid(trainer, folder / "samples.png"),
        )
        training.pipeline(trainer, folder / "pipeline")
        training.card(trainer, folder / "pipeline", loss, machine_name(config.device))


def _text(arguments: argparse.Namespace) -> _Training:
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
        lambda trainer, folder: save_pipeline(trainer.average, folder),
        write_model_card,
    )


def _view(arguments: argparse.Namespace) -> _Training:
    from threedgen.training.prior_model import for_size
    from threedgen.training.view_bank import ViewBank
    from threedgen.training.view_card import write_view_card, write_view_grid
    from threedgen.training.view_model import save_view_pipeline
    from threedgen.training.view_trainer import ViewTrainer

    things = catalogue_of(arguments)
    return _Training(
        lambda config, size, folder: ViewTrainer(config, for_size(size), folder),
        lambda config, size, progress: ViewBank(
            config, size, config.seed, things, arguments.out / f"views-{size}", progress
        ),
        write_view_grid,
        lambda trainer, folder: save_view_pipeline(trainer.average, folder),
        write_view_card,
    )


def _picture(arguments: argparse.Namespace) -> _Training:
    from threedgen.training.picture_card import write_picture_card
    from threedgen.training.picture_report import HeldOutViews, held_out_views, write_picture_report
    from threedgen.training.picture_trainer import PictureFieldTrainer, save_picture_pipeline
    from threedgen.training.ring_bank import FramedViewBank

    things = catalogue_of(arguments)
    held_out: list[HeldOutViews] = []

    def bank(
        config: PictureFieldTrainingConfig, size: int, progress: Callable[[int, int], None]
    ) -> FramedViewBank:
        held_out.append(held_out_views(things, size))
        return FramedViewBank(config, size, config.seed, things, arguments.out / f"views-{size}", progress)

    return _Training(
        lambda config, size, folder: PictureFieldTrainer(config, size, folder),
        bank,
        lambda trainer, _: write_picture_report(trainer, held_out[0]),
        save_picture_pipeline,
        write_picture_card,
    )


def _multiview(arguments: argparse.Namespace) -> _Training:
    from threedgen.guidance.priors.load import EMBEDDED_PICTURE_WEIGHTS
    from threedgen.guidance.priors.picture_field import load_picture_field
    from threedgen.training.multiview_card import write_multiview_card
    from threedgen.training.multiview_model import save_multiview_pipeline
    from threedgen.training.multiview_trainer import MultiViewTrainer
    from threedgen.training.ring_bank import NormalRingBank, RingBank, RingBatch
    from threedgen.training.ring_report import held_out_rings, write_ring_report

    things = catalogue_of(arguments)
    held_out: list[RingBatch] = []
    field = load_picture_field((arguments.guide or EMBEDDED_PICTURE_WEIGHTS) / "field")

    def bank(config: MultiViewTrainingConfig, size: int, progress: Callable[[int, int], None]) -> RingBank:
        held_out.append(held_out_rings(things, size, shows=config.shows))
        kind, name = (RingBank, "views") if config.shows == "colors" else (NormalRingBank, "normals")
        return kind(config, size, config.seed, things, arguments.out / f"{name}-{size}", progress)

    return _Training(
        lambda config, size, folder: MultiViewTrainer(config, size, folder, field),
        bank,
        lambda trainer, _: write_ring_report(trainer, held_out[0]),
        lambda trainer, folder: save_multiview_pipeline(trainer.average, folder),
        write_multiview_card,
    )


def _video(arguments: argparse.Namespace) -> _Training:
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
        lambda trainer, folder: save_video_pipeline(trainer.average, folder),
        write_video_card,
    )


def _field(arguments: argparse.Namespace) -> _Training:
    from threedgen.training.field_card import write_field_card
    from threedgen.training.field_report import Examples, make_examples, write_field_report
    from threedgen.training.field_trainer import FieldTrainer, save_field_pipeline
    from threedgen.training.text_reader import TextReader
    from threedgen.training.things_bank import ThingsBank

    if arguments.text_encoder is None:
        raise UserError("--kind field needs --text-encoder, a folder with text_encoder/ and tokenizer/")
    catalogue = _catalogue(arguments)
    words = None if arguments.words is None else _lines(arguments.words)
    banks: list[ThingsBank] = []
    examples: list[Examples] = []

    def bank(config: FieldTrainingConfig, size: int, progress: Callable[[int, int], None]) -> ThingsBank:
        made = ThingsBank(
            size,
            config.seed,
            words,
            catalogue,
            instances=config.class_things,
            object_views=config.object_views,
            cache=arguments.out / f"pictures-{size}",
            progress=progress,
            only=arguments.only,
        )
        _say_what_is_missing(made.things)
        banks.append(made)
        examples.append(make_examples(made.things, size))
        return made

    return _Training(
        lambda config, size, folder: FieldTrainer(config, TextReader(arguments.text_encoder), size, folder),
        bank,
        lambda trainer, _: write_field_report(trainer, examples[0]),
        lambda trainer, folder: save_field_pipeline(trainer, banks[0], folder),
        write_field_card,
    )


def _catalogue(arguments: argparse.Namespace) -> str | Path:
    from threedgen.datasets.things.thing_set import INSTALLED

    return INSTALLED if arguments.catalogue is None else arguments.catalogue


def _say_what_is_missing(things: ThingSet) -> None:
    if things.note is not None:
        print(things.note, file=sys.stderr)


def _lines(path: Path) -> list[str]:
    """The lines of a file of words, without empty ones."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --words {path}: {error}") from error
