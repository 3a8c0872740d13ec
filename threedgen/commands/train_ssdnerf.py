"""`threedgen train ssdnerf`, `sample` and `reconstruct`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.ssdnerf.config import Config
    from threedgen.ssdnerf.distributed import World
    from threedgen.ssdnerf.model import LatentModel
    from threedgen.ssdnerf.scenes import Scenes

_OBJECTS = 300  # of the shape world, where nothing is said
TRAINING = "training.yaml"


def train_ssdnerf(argv: list[str]) -> None:
    """Trains, or goes on with, the model in --out; leaves ssdnerf.json, model.safetensors, metrics.jsonl and
    watch/ there."""
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
    arguments = options.parse_intermixed_args(argv)
    for name in ("objects", "grid_every", "fid_every"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} must be 0 or more")
    if arguments.save_every < 1 or not 8 <= arguments.size <= 1024:
        raise UserError("--save-every must be at least 1, and --size between 8 and 1024")

    from threedgen.commands.training import make_folder
    from threedgen.core.machine import choose_device
    from threedgen.ssdnerf.config import load_config
    from threedgen.ssdnerf.distributed import join_world

    config = load_config(arguments.recipe, arguments.settings, arguments.steps)
    device = choose_device(arguments.device)
    world = join_world(device)
    make_folder(arguments.out)
    state = _state(arguments.out)
    with _bars(world.first) as bars:
        scenes = _scenes(arguments, config, world, bars, state.get("source"))
        _train(arguments, config, scenes, device, world, bars)
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


def _scenes(arguments: Any, config: Config, world: World, bars: Any, needed: str | None) -> Scenes:
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
        checking = bars.add_task("checking scenes", total=len(objects))
        scenes = pack(
            objects,
            folder,
            config.views or None,
            not arguments.tolerant,
            lambda done, total: bars.update(checking, completed=done, total=total),
            needed,
        )
        bars.update(checking, completed=len(objects))
        for name, reason in scenes.skipped:
            bars.console.print(f"warning: left out '{name}': {reason}", style="none", markup=False)
        if scenes.skipped:
            bars.console.print(f"warning: {len(scenes.skipped)} of {len(objects)} scenes left out")
    world.wait()
    return open_scenes(folder)


def _train(arguments: Any, config: Config, scenes: Scenes, device: str, world: World, bars: Any) -> None:
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
        bars.console.print(note, style="none", markup=False, highlight=False)
    training = bars.add_task("training", total=config.steps, completed=trainer.step)
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
        bars.update(training, completed=step, description=f"training {headline}".strip())

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


@contextlib.contextmanager
def _bars(shown: bool) -> Iterator[Any]:
    """Progress bars with the time left on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bars:
        yield bars


def sample(argv: list[str]) -> None:
    """Draws scenes from a trained model: GLBs and a contact sheet."""
    options = Parser(
        prog="threedgen sample",
        description="Draw 3D assets from a trained SSDNeRF: a GLB each and contact_sheet.png in RUN/samples.",
    )
    options.add_argument("run", metavar="RUN", help="a folder that `threedgen train ssdnerf` left")
    options.add_argument("--count", type=int, default=8, metavar="N", help="default: 8")
    options.add_argument("--caption", metavar="TEXT", help='of a model with captions, such as "a red car"')
    options.add_argument("--scale", type=float, default=2.0, help="of the caption's guidance; default: 2")
    options.add_argument("--steps", type=int, default=50, help="of the sampler; default: 50")
    options.add_argument("--sampler", choices=("ddim", "dpm-solver++", "one-step"), default="ddim")
    options.add_argument("--seed", type=int, default=0, metavar="N")
    options.add_argument(
        "--interpolate",
        nargs=2,
        type=int,
        metavar=("A", "B"),
        help="from sample A to sample B in --count steps",
    )
    options.add_argument("--out", type=Path, metavar="FOLDER", help="default: RUN/samples")
    options.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = options.parse_args(argv)
    if arguments.count < 1 or not 0.0 <= arguments.scale < float("inf"):
        raise UserError("--count must be at least 1, and --scale not negative")

    from threedgen.core.machine import choose_device
    from threedgen.ssdnerf.making import write_scenes
    from threedgen.ssdnerf.model import load_model

    model = load_model(arguments.run, choose_device(arguments.device))
    made, names = _drawn(model, arguments)
    told = ("seed", "caption", "scale", "sampler", "steps")
    note = {name: getattr(arguments, name) for name in told}
    with _bars(True) as bars:
        writing = bars.add_task("writing", total=len(names))
        written, empty = write_scenes(
            model,
            made,
            names,
            arguments.out or Path(arguments.run) / "samples",
            note,
            lambda done, total: bars.update(writing, completed=done, total=total),
        )
    _said(written, empty)


def _drawn(model: LatentModel, arguments: Any) -> tuple[Tensor, list[str]]:
    """The codes that were asked for, and their names."""
    from threedgen.ssdnerf.one_step import load_one_step, sample_one_step
    from threedgen.ssdnerf.sampling import denoise_codes, draw_noise, interpolate, sample_codes

    seed, count = arguments.seed, arguments.count
    told = (arguments.caption, arguments.scale, arguments.steps, arguments.sampler)
    names = [f"seed{seed}-{number:04d}" for number in range(count)]
    if arguments.interpolate is None and arguments.sampler != "one-step":
        return sample_codes(model, range(count), seed, *told), names
    if arguments.interpolate is None:
        noise = draw_noise(model, range(count), seed)
    else:
        first, last = arguments.interpolate
        ends = draw_noise(model, (first, last), seed)
        noise = interpolate(ends[0], ends[1], count)
        names = [f"seed{seed}-{first:04d}-to-{last:04d}-{number:04d}" for number in range(count)]
    if arguments.sampler != "one-step":
        return denoise_codes(model, noise, *told), names
    if arguments.caption:
        raise UserError("the one-step sampler knows no captions: leave --caption out, or use --sampler ddim")
    return sample_one_step(model, load_one_step(model, arguments.run), noise), names


def train_one_step(argv: list[str]) -> None:
    """Distils, or goes on distilling, a trained SSDNeRF into a sampler of one step."""
    import dataclasses

    options = Parser(
        prog="threedgen train one-step",
        description="Distil a trained SSDNeRF, without its data, into a sampler of one step (BOOT), which "
        "`threedgen sample RUN --sampler one-step` then uses.",
    )
    options.add_argument("run", metavar="RUN", help="a folder that `threedgen train ssdnerf` left")
    options.add_argument("--steps", type=int, default=2000, metavar="N", help="default: 2000")
    options.add_argument("--batch", type=int, default=16, metavar="N")
    options.add_argument("--learning-rate", type=float, default=2e-4)
    options.add_argument("--seed", type=int, default=0, metavar="N")
    options.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = options.parse_args(argv)

    from threedgen.commands.training import make_folder
    from threedgen.core.machine import choose_device
    from threedgen.ssdnerf import one_step
    from threedgen.ssdnerf.bootstrapping import BootstrapConfig
    from threedgen.ssdnerf.model import load_model

    names = [field.name for field in dataclasses.fields(BootstrapConfig)]
    config = BootstrapConfig(**{name: value for name, value in vars(arguments).items() if name in names})
    model = load_model(arguments.run, choose_device(arguments.device))
    folder = Path(arguments.run) / one_step.FOLDER
    make_folder(folder)
    with _bars(True) as bars:
        task = bars.add_task("distilling", total=config.steps)

        def report(step: int, taught: float, edge: float) -> None:
            said = f"distilling, bootstrapping {taught:.3g}, boundary {edge:.3g}"
            bars.update(task, completed=step, description=said)

        one_step.train_one_step(model, folder, config, report)
    print(folder)


def reconstruct(argv: list[str]) -> None:
    """Finds the scene that given views show."""
    options = Parser(
        prog="threedgen reconstruct",
        description="Find the 3D asset that one or several views show, with a trained SSDNeRF: asset.glb, "
        "contact_sheet.png and report.json in --out.",
        epilog="CAMERA is AZIMUTH[,ELEVATION[,DISTANCE]] in degrees and world units, or a file with an SRN pose; "
        "what is not said is as the training pictures have it. The picture is looked at as it is, on white: it "
        "must be framed as the training pictures are.",
    )
    options.add_argument("run", metavar="RUN", help="a folder that `threedgen train ssdnerf` left")
    options.add_argument("views", metavar="VIEW.png[@CAMERA]", nargs="+")
    options.add_argument("--guiding", type=int, metavar="N", help="steps of guided sampling, 0: none")
    options.add_argument("--gain", type=float, help="of the guidance by the views")
    options.add_argument("--finetuning", type=int, metavar="N", help="times 4 steps, 0: none")
    options.add_argument("--seed", type=int, default=0, metavar="N")
    options.add_argument("--out", type=Path, metavar="FOLDER", help="default: RUN/reconstructions/<name>")
    options.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = options.parse_args(argv)

    from threedgen.core.machine import choose_device
    from threedgen.ssdnerf.making import given_views, reconstruction_folder, write_reconstruction
    from threedgen.ssdnerf.model import load_model
    from threedgen.ssdnerf.reconstruction import Reconstruction

    model = load_model(arguments.run, choose_device(arguments.device))
    chosen = {"steps": arguments.guiding, "gain": arguments.gain}
    said = {name: value for name, value in chosen.items() if value is not None}
    guiding, finetuning = replace(model.config.guiding, **said), model.config.finetuning
    if arguments.finetuning is not None:
        finetuning = replace(finetuning, outer=arguments.finetuning)
    if not guiding.steps and not finetuning.outer:
        raise UserError("--guiding 0 and --finetuning 0 together leave nothing to be done")
    views = given_views(arguments.views, model.viewpoint)
    folder = arguments.out or reconstruction_folder(arguments.run, arguments.views)
    how = Reconstruction(guiding, finetuning)
    _said(*write_reconstruction(model, views, how, arguments.seed, folder, arguments.views))


def _said(written: list[Path], empty: list[str]) -> None:
    """Where the results are; what has no surface on stderr."""
    import sys

    for path in written:
        print(path)
    for name in empty:
        print(f"warning: '{name}' has no surface, and no GLB: train longer", file=sys.stderr)
