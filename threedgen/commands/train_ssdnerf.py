"""`threedgen train ssdnerf DATASET`: trains an SSDNeRF, a generator of the objects of one class."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.options import (
    add_device,
    add_dry_run,
    add_recipe,
    add_settings,
    at_least_one,
    print_settings,
    whole,
)
from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from threedgen.jobs.listeners.progress import Progress
    from threedgen.ssdnerf.config import Config
    from threedgen.ssdnerf.distributed import World
    from threedgen.ssdnerf.posed_objects import PosedObjects

_OBJECTS = 300  # number of objects of the shape world unless --objects is given
TRAINING = "training.yaml"


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen train ssdnerf",
        description="Train an SSDNeRF on posed pictures of many objects of one class: a code for each object, a "
        "decoder that turns codes into NeRFs, and a diffusion over codes, all in one stage. The folder of the "
        "training gets ssdnerf.json, model.safetensors, training.yaml, metrics.jsonl and pictures in watch/; "
        "`threedgen sample` and `threedgen reconstruct` use it. A training that was stopped continues.",
        epilog="key=value changes a setting of the recipe, such as batch=8 or diffusion.weight=2. Several "
        "processes share a training with torchrun --nproc-per-node N -m threedgen train ssdnerf ...",
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="a folder with a folder for each object (SRN or transforms.json), or shape-world:CLASS[,CLASS...]",
    )
    add_settings(parser)
    add_recipe(parser, "ssdnerf-tiny")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/ssdnerf"),
        metavar="DIR",
        help="folder of the training, which continues if it is there; default: runs/ssdnerf",
    )
    parser.add_argument(
        "--steps",
        type=whole,
        metavar="N",
        help="number of outer steps of the whole training; default: the recipe's",
    )
    parser.add_argument(
        "--objects",
        type=whole,
        default=0,
        metavar="N",
        help=f"number of objects to train on; default: 0, which is all, or {_OBJECTS} of the shape world",
    )
    parser.add_argument(
        "--size",
        type=whole,
        default=64,
        metavar="PIXELS",
        help="for the shape world: width and height of the pictures in pixels; default: 64",
    )
    parser.add_argument(
        "--tolerant",
        action="store_true",
        help="leave out objects that cannot be used, and report them; default: the first one is an error",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="RUN",
        help="start with the codes and the decoder of another training on the same objects; default: new ones",
    )
    _add_intervals(parser)
    add_device(parser)
    add_dry_run(parser, "training")
    return parser


def _add_intervals(parser: Parser) -> None:
    """How often a training saves and measures."""
    parser.add_argument(
        "--save-every",
        type=at_least_one,
        default=250,
        metavar="N",
        help="number of steps between checkpoints; default: 250",
    )
    parser.add_argument(
        "--grid-every",
        type=whole,
        default=500,
        metavar="N",
        help="number of steps between grids of pictures in watch/; 0 writes none; default: 500",
    )
    parser.add_argument(
        "--fid-every",
        type=whole,
        default=1000,
        metavar="N",
        help="number of steps between points of the FID curve in metrics.jsonl; 0 measures none; default: 1000",
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains or continues the model in --out. Raises UserError."""
    for name in ("objects", "grid_every", "fid_every"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} must be 0 or more, got {getattr(arguments, name)}")
    if not 8 <= arguments.size <= 1024:
        raise UserError(f"--size must be between 8 and 1024 pixels, got {arguments.size}")

    from threedgen.commands.training import held
    from threedgen.core.machine import choose_device
    from threedgen.jobs.listeners.progress import Progress
    from threedgen.ssdnerf.config import load_config
    from threedgen.ssdnerf.distributed import join_world

    config = load_config(arguments.recipe, arguments.settings, arguments.steps)
    if arguments.dry_run:
        print_settings(_document(arguments, config))
        return
    device = choose_device(arguments.device or "auto")
    world = join_world(device)
    # The other processes write what the first one tells them, while it holds the folder for all.
    with held(arguments.out) if world.first else nullcontext(), Progress(world.first) as progress:
        state = _state(arguments.out)
        objects, digests = _objects(arguments, config, world, progress, state.get("source"))
        _train(arguments, config, objects, digests, device, world, progress)
    if world.first:
        print(f"{arguments.out}: threedgen sample {arguments.out}")


def _state(folder: Path) -> dict[str, Any]:
    """The state in the checkpoint of the folder, {} if there is none. Raises UserError for a model whose checkpoint
    is missing."""
    from threedgen.core import checkpoint
    from threedgen.ssdnerf.model import DOCUMENT

    if checkpoint.exists(folder / "checkpoint"):
        return checkpoint.load_state(folder / "checkpoint")
    if (folder / DOCUMENT).is_file():
        raise UserError(f"'{folder}' holds a trained model without its checkpoint: choose another --out")
    return {}


def _objects(
    arguments: argparse.Namespace, config: Config, world: World, progress: Progress, needed: str | None
) -> tuple[PosedObjects, list[str]]:
    """All objects, checked and packed by the first process, and in that process the digests of their files. needed:
    as `pack` takes it. Raises UserError."""
    from threedgen.datasets.objects import SHAPE_WORLD, TRAINING_VIEWS, open_objects
    from threedgen.ssdnerf.posed_objects import open_packed, pack

    drawn = arguments.dataset.startswith(SHAPE_WORLD)
    folder, digests = arguments.out / "scenes", []  # the name that trainings have on disk
    if world.first:
        objects = open_objects(
            arguments.dataset,
            arguments.objects or (_OBJECTS if drawn else None),
            arguments.size,
            "train",
            config.seed,
            config.views or TRAINING_VIEWS,
        )
        checking = progress.task("checking objects", len(objects))
        packed = pack(
            objects,
            folder,
            config.views or None,
            not arguments.tolerant,
            lambda done, total: checking.update(done),
            needed,
        )
        checking.update(len(objects))
        for name, reason in packed.skipped:
            progress.say(f"warning: left out '{name}': {reason}")
        if packed.skipped:
            progress.say(f"warning: left out {len(packed.skipped)} of {len(objects)} objects")
        digests = objects.digests(set(packed.names))
    world.wait()
    return open_packed(folder), digests


def _train(
    arguments: argparse.Namespace,
    config: Config,
    objects: PosedObjects,
    digests: list[str],
    device: str,
    world: World,
    progress: Progress,
) -> None:
    from threedgen.commands.training import machine_name
    from threedgen.datasets.objects import SHAPE_WORLD
    from threedgen.jobs.lock import require_held
    from threedgen.ssdnerf.trainer import Trainer
    from threedgen.ssdnerf.training import train
    from threedgen.ssdnerf.watch import Every, Watch

    trainer = Trainer(config, objects, arguments.out, device, world)
    if trainer.step == 0 and arguments.start_from is not None:
        trainer.start_from(arguments.start_from)
    notes = [f"continuing with another setting: {change}" for change in trainer.changed]
    if trainer.step >= config.steps:
        notes.append(f"the training is at step {trainer.step} already: set a larger --steps to continue it")
    for note in notes if world.first else ():
        progress.say(note)
    training = progress.task("training", config.steps, trainer.step)
    every = Every(arguments.grid_every, arguments.fid_every)
    drawn = arguments.dataset.startswith(SHAPE_WORLD)
    about = {
        "recipe": Path(arguments.recipe).stem,
        "dataset": arguments.dataset if drawn else Path(arguments.dataset).resolve().name,
        "digests": digests,
        "machine": machine_name(device),
    }
    if world.first:
        _write_settings(arguments, config)

    def report(step: int, headline: str) -> None:
        require_held(arguments.out)
        training.update(step, headline)

    watch = Watch(arguments.out, trainer.step, every) if world.first else None
    train(trainer, watch, about, arguments.save_every, report)


def _document(arguments: argparse.Namespace, config: Config) -> dict[str, Any]:
    """What training.yaml says: the data set, the options that choose its objects, and every setting."""
    from threedgen.recipes.typed import plain
    from threedgen.ssdnerf.config import CIRCUMSTANCES

    circumstances = {name: getattr(arguments, name) for name in CIRCUMSTANCES}
    circumstances["start_from"] = str(arguments.start_from) if arguments.start_from else None
    return {**circumstances, **plain(config)}


def _write_settings(arguments: argparse.Namespace, config: Config) -> None:
    """Writes training.yaml, which --recipe takes as well."""
    import yaml

    from threedgen.core.atomic import replacing

    with replacing(arguments.out / TRAINING) as path:
        path.write_text(yaml.safe_dump(_document(arguments, config), sort_keys=False), encoding="utf-8")
