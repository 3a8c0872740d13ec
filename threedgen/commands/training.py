"""What the training commands share: options from the fields of a config, and a progress bar around the trainer."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from threedgen.commands.options import at_least_one, whole
from threedgen.core.errors import UserError
from threedgen.core.settings import SettingError
from threedgen.recipes.documented import descriptions

if TYPE_CHECKING:
    from threedgen.datasets.things.thing_set import ThingSet
    from threedgen.training.config import TrainingConfig
    from threedgen.training.denoiser_trainer import Bank, DenoiserTrainer

_CHOICES = {
    "precision": ("bf16", "fp32"),
    "device": ("auto", "cpu", "cuda"),
    "shows": ("colors", "normals"),
}
Config = TypeVar("Config", bound="TrainingConfig")


def add_config(options: argparse.ArgumentParser, kinds: Mapping[str, type[TrainingConfig]]) -> None:
    """One option for each field of the configs, and --save-every. kinds: the configs by the name of their kind,
    which the help mentions where their defaults differ."""
    options.add_argument(
        "--save-every",
        type=at_least_one,
        default=500,
        metavar="N",
        help="steps between checkpoints; default: 500",
    )
    defaults: dict[str, dict[str, Any]] = {}
    texts: dict[str, str] = {}
    for kind, config in kinds.items():
        said = descriptions(config)
        for item in dataclasses.fields(config):
            defaults.setdefault(item.name, {})[kind] = item.default
            texts[item.name] = said[item.name].text
    for name, values in defaults.items():
        first = next(iter(values.values()))
        same = len(set(values.values())) == 1 and len(values) == len(kinds)
        shown = f"{first}" if same else ", ".join(f"{v} ({k})" for k, v in values.items())
        options.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole if isinstance(first, int) else type(first),
            choices=_CHOICES.get(name),
            metavar=None if name in _CHOICES else "N",
            help=f"{_phrase(texts[name])}; default: {shown}",
        )


def add_catalogue(options: argparse.ArgumentParser) -> None:
    """--catalogue and --only; see `catalogue_of`."""
    options.add_argument(
        "--catalogue",
        type=Path,
        metavar="DIR",
        help="the folder of Sweet Home 3D's furniture libraries; default: where Debian's package "
        "sweethome3d-furniture puts them, or none",
    )
    options.add_argument(
        "--only", choices=("cc0",), help="of the catalogue, only what is in the public domain"
    )


def catalogue_of(arguments: argparse.Namespace) -> ThingSet:
    """The things to learn from, and a note to the user if some are missing. Raises UserError."""
    from threedgen.datasets.things.thing_set import INSTALLED, thing_set

    things = thing_set(arguments.catalogue or INSTALLED, arguments.only)
    if things.note is not None:
        print(things.note, file=sys.stderr)
    return things


def _phrase(sentence: str) -> str:
    """A sentence as the help of an option is written."""
    words = sentence.rstrip(".").replace("%", "%%")
    return words[0].lower() + words[1:] if words[1:2].islower() else words


def config_of(arguments: argparse.Namespace, kind: type[Config]) -> Config:
    """The config that the options give. Raises UserError for values out of bounds, and for options of another
    kind."""
    from threedgen.core.machine import choose_device
    from threedgen.training import config as every

    own = {item.name for item in dataclasses.fields(kind)}
    others = {
        item.name
        for config in vars(every).values()
        if dataclasses.is_dataclass(config)
        for item in dataclasses.fields(config)
    } - own
    for name in others:
        if getattr(arguments, name, None) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} is not an option of this kind of prior: leave it out"
            )
    given = {name: getattr(arguments, name) for name in own}
    try:
        config = kind(**{name: value for name, value in given.items() if value is not None})
    except SettingError as error:
        raise option_error(error) from error
    return dataclasses.replace(config, device=choose_device(config.device))


def option_error(error: SettingError) -> UserError:
    """The complaint about a setting that is an option of the command line."""
    return UserError(f"--{error.name.replace('_', '-')} {error.problem}")


def held(folder: Path) -> AbstractContextManager[None]:
    """Inside it this process alone trains in `folder`, which is made if it is missing. Raises UserError as
    `threedgen.jobs.lock.holding` does."""
    from threedgen.jobs.lock import holding

    return holding(folder, lambda: f"the same command continues from the last checkpoint in '{folder}'")


def train(
    trainer: DenoiserTrainer,
    make_bank: Callable[[Callable[[int, int], None]], Bank],
    every: int,
    saving: Callable[[], Any],
) -> float:
    """Makes the bank, trains to the end and leaves losses.jsonl in the trainer's folder, which this process holds;
    returns the last mean loss.

    saving: called before every checkpoint; what it adds to errors.jsonl is taken back if the checkpoint is never
    written.
    """
    from threedgen.jobs.listeners.metrics import truncate
    from threedgen.jobs.listeners.progress import Progress
    from threedgen.jobs.lock import require_held

    losses = trainer.folder / "losses.jsonl"
    before = []
    for table in (trainer.folder / "errors.jsonl", losses):
        before = truncate(table, trainer.step + 1) if table.exists() else []
    with Progress() as progress:
        rendering = progress.task("rendering")
        bank = make_bank(lambda done, total: rendering.update(done, total=total))
        task = progress.task("training", trainer.config.steps, trainer.step)
        # A training may be resumed after its last step.
        last = before[-1].get("loss") if before else None
        latest = [float("nan") if last is None else float(last)]

        def report(loss: float, saves: bool) -> None:
            require_held(trainer.folder)
            latest[0] = loss
            task.update(trainer.step, f"loss {loss:.4f}")
            line = {"step": trainer.step, "loss": round(loss, 5), "seconds": round(trainer.seconds, 1)}
            with losses.open("a") as file:
                file.write(json.dumps(line) + "\n")
            if saves:
                saving()

        trainer.fit(bank, every, report)
        require_held(trainer.folder)
    return latest[0]


def machine_name(device: str) -> str:
    """What a model card calls the machine."""
    import torch

    return f"{torch.get_num_threads()} CPU core(s)" if device == "cpu" else torch.cuda.get_device_name()
