"""`threedgen train ssdnerf`, `sample` and `reconstruct`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from threedgen.jobs.listeners.progress import Progress
    from threedgen.ssdnerf.config import Config
    from threedgen.ssdnerf.distributed import World
    from threedgen.ssdnerf.scenes import Scenes

_OBJECTS = 300  # of the shape world, where nothing is said
TRAINING = "training.yaml"


def build_parser() -> Parser:
    options = Parser(
        prog="threedgen train ssdnerf",
        description=__doc__,
        epilog="key=value changes a setting of the recipe, such as batch=8 or diffusion.weight=2. Several "
        "processes: torchrun --nproc-per-node N -m threedgen train ssdnerf ...",
    )
    options.add_argument(
        "dataset", metavar="DATASET", help="a folder of scenes (SRN or transforms.json), or shape-world:CLASS"
    )
    options.add_argument("settings", metavar="key=value", nargs="*", help="changes of the recipe's settings")
    options.add_argument(
        "--recipe", default="ssdnerf-tiny", metavar="NAME|FILE", help="default: ssdnerf-tiny"
    )
    options.add_argument("--out", type=Path, default=Path("runs/ssdnerf"), help="folder, resumed if there")
    options.add_argument("--steps", type=int, metavar="N", help="default: the recipe's")
    options.add_argument("--objects", type=int, default=0, help=f"0: all, of the shape world {_OBJECTS}")
    options.add_argument("--size", type=int, default=64, help="pixels, of the shape world's pictures")
    options.add_argument(
        "--tolerant", action="store_true", help="leave out scenes that cannot be used, and say how many"
    )
    options.add_argument("--start-from", type=Path, metavar="RUN", help="with its codes and its decoder")
    options.add_argument("--save-every", type=int, default=250, metavar="N", help="steps between checkpoints")
    options.add_argument(
        "--grid-every", type=int, default=500, metavar="N", help="steps between grids, 0: none"
    )
    options.add_argument("--fid-every", type=int, default=1000, metavar="N", help="of the FID curve, 0: none")
    options.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return options


def run(arguments: argparse.Namespace) -> None:
    """Trains, or goes on with, the model in --out; leaves ssdnerf.json, model.safetensors, metrics.jsonl and
    watch/ there."""
    for name in ("objects", "grid_every", "fid_every"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} must be 0 or more")
    if arguments.save_every < 1 or not 8 <= arguments.size <= 1024:
        raise UserError("--save-every must be at least 1, and --size between 8 and 1024")

    from threedgen.commands.training import make_folder
    from threedgen.core.machine import choose_device
    from threedgen.jobs.listeners.progress import Progress
    from threedgen.ssdnerf.config import load_config
    from threedgen.ssdnerf.distributed import join_world

    config = load_config(arguments.recipe, arguments.settings, arguments.steps)
    device = choose_device(arguments.device)
    world = join_world(device)
    make_folder(arguments.out)
    state = _state(arguments.out)
    with Progress(world.first) as progress:
        scenes = _scenes(arguments, config, world, progress, state.get("source"))
        _train(arguments, config, scenes, device, world, progress)
    if world.first:
        print(f"{arguments.out}: threedgen sample {arguments.out}")


def _state(folder: Path) -> dict[str, Any]:
    """What the checkpoint of the training that is there says, {} where there is none. Raises UserError for a model
    whose checkpoint is gone."""
    from threedgen.core import checkpoint
    from threedgen.ssdnerf.model import DOCUMENT

    if checkpoint.exists(folder / "checkpoint"):
        return checkpoint.load_state(folder / "checkpoint")
    if (folder / DOCUMENT).is_file():
        raise UserError(f"'{folder}' holds a trained model without its checkpoint: choose another --out")
    return {}


def _scenes(arguments: Any, config: Config, world: World, progress: Progress, needed: str | None) -> Scenes:
    """All scenes, checked; the first process packs them. needed: as `pack` takes it."""
    from threedgen.datasets.objects import SHAPE_WORLD, TRAINING_VIEWS, open_objects
    from threedgen.ssdnerf.scenes import open_scenes, pack

    drawn = arguments.dataset.startswith(SHAPE_WORLD)
    folder = arguments.out / "scenes"
    if world.first:
        objects = open_objects(
            arguments.dataset,
            arguments.objects or (_OBJECTS if drawn else None),
            arguments.size,
            "train",
            config.seed,
            config.views or TRAINING_VIEWS,
        )
        checking = progress.task("checking scenes", len(objects))
        scenes = pack(
            objects,
            folder,
            config.views or None,
            not arguments.tolerant,
            lambda done, total: checking.update(done),
            needed,
        )
        checking.update(len(objects))
        for name, reason in scenes.skipped:
            progress.say(f"warning: left out '{name}': {reason}")
        if scenes.skipped:
            progress.say(f"warning: {len(scenes.skipped)} of {len(objects)} scenes left out")
    world.wait()
    return open_scenes(folder)


def _train(
    arguments: Any, config: Config, scenes: Scenes, device: str, world: World, progress: Progress
) -> None:
    from threedgen.commands.training import machine_name
    from threedgen.datasets.objects import SHAPE_WORLD
    from threedgen.recipes.typed import plain
    from threedgen.ssdnerf.trainer import Trainer
    from threedgen.ssdnerf.training import train
    from threedgen.ssdnerf.watch import Every, Watch

    trainer = Trainer(config, scenes, arguments.out, device, world)
    if trainer.step == 0 and arguments.start_from is not None:
        trainer.start_from(arguments.start_from)
    notes = [f"going on where {change}" for change in trainer.changed]
    if trainer.step >= config.steps:
        notes.append(f"it is at step {trainer.step} already: --steps says how far it shall go")
    for note in notes if world.first else ():
        progress.say(note)
    training = progress.task("training", config.steps, trainer.step)
    every = Every(arguments.grid_every, arguments.fid_every)
    drawn = arguments.dataset.startswith(SHAPE_WORLD)
    about = {
        "recipe": Path(arguments.recipe).stem,
        "dataset": arguments.dataset if drawn else Path(arguments.dataset).name,
        "machine": machine_name(device),
    }
    if world.first:
        _write_settings(arguments, plain(config))

    def report(step: int, headline: str) -> None:
        training.update(step, headline)

    watch = Watch(arguments.out, trainer.step, every) if world.first else None
    train(trainer, watch, about, arguments.save_every, report)


def _write_settings(arguments: Any, settings: dict[str, Any]) -> None:
    """What the training was asked for, for whoever finds the folder; `--recipe` takes the file."""
    import yaml

    from threedgen.core.atomic import replacing
    from threedgen.ssdnerf.config import CIRCUMSTANCES

    told = {name: getattr(arguments, name) for name in CIRCUMSTANCES}
    told["start_from"] = str(arguments.start_from) if arguments.start_from else None
    document = {**told, **settings}
    with replacing(arguments.out / TRAINING) as path:
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
