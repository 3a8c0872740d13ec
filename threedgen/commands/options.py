"""Options and outputs that the commands share."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedgen.commands.parser import Parser
from threedgen.core import trust
from threedgen.core.errors import UserError
from threedgen.export.quality import QUALITIES

if TYPE_CHECKING:
    from threedgen.pipelines.common import Common
    from threedgen.pipelines.prepared import Prepared

BACKENDS = ("auto", "native", "torch", "gsplat", "nerfacc", "pytorch3d", "nvdiffrast")
LOGS = ("tensorboard", "wandb")
DEVICES = ("auto", "cpu", "cuda")


def add_run_options(parser: Parser, default_out: str) -> None:
    """What every command that makes a run takes."""
    parser.add_argument("--out", metavar="DIR", help=f"directory of the run; default: {default_out}")
    parser.add_argument(
        "--seed",
        type=whole,
        metavar="N",
        help="seed of every random draw; default: the recipe's, which is 0 unless it says otherwise",
    )
    parser.add_argument("--steps", type=whole, metavar="N", help="steps of the run; default: the recipe's")
    add_device(parser)
    add_backend(parser)
    add_dry_run(parser)
    parser.set_defaults(planned=None)  # what `threedgen plan` does with the recipe in place of a run


def add_watching(parser: Parser) -> None:
    """What watches over the steps of a run."""
    parser.add_argument(
        "--log",
        choices=LOGS,
        action="append",
        default=[],
        help="show the numbers and pictures of the steps in TensorBoard, from RUN/tensorboard, or in Weights & "
        "Biases (wandb); repeatable",
    )
    parser.add_argument(
        "--stop-when-hopeless",
        action="store_true",
        help="stop a run whose views stay empty, black or saturated, or that gets no gradient or does not move, "
        "instead of a warning alone",
    )


def add_device(parser: Parser) -> None:
    parser.add_argument(
        "--device",
        choices=DEVICES,
        help="where to compute; default: auto, which takes the GPU if there is one",
    )
    parser.add_argument(
        "--threads",
        type=at_least_one,
        metavar="N",
        help="threads on the CPU; default: one for each core that is free when the command begins",
    )


def add_backend(parser: Parser) -> None:
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="library that renders; default: auto, the fastest one that works here",
    )


def add_refine(parser: argparse.ArgumentParser) -> None:
    """--refine, for recipes that make an asset in one pass."""
    parser.add_argument(
        "--refine",
        type=at_least_one,
        metavar="N",
        help="for recipes that make the asset in one pass (hunyuan3d, gen-3diffusion, videomv, direct2.5, "
        "dfm): refine it by N steps of score distillation",
    )


def add_quality(parser: Parser) -> None:
    parser.add_argument(
        "--quality",
        choices=list(QUALITIES),
        help="how detailed meshes and their textures are, and how large their files; default: as the recipe says",
    )


def add_settings(parser: Parser) -> None:
    parser.add_argument(
        "settings", metavar="key=value", nargs="*", help="a setting of the recipe to change; repeatable"
    )


def add_recipe(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--recipe",
        default=default,
        metavar="NAME|FILE",
        help=f"name of a built-in recipe, or a YAML file; default: {default}",
    )


def add_model_parts(parser: Parser) -> None:
    """What every command takes whose `--prior` names a model: parts beside it, see `named_parts`."""
    parser.add_argument(
        "--tokenizer",
        metavar="FOLDER",
        help="for a prior that is a single file: the folder of its tokenizer, or of a pipeline of the same family",
    )
    parser.add_argument(
        "--vae",
        metavar="FILE|FOLDER",
        help="a .safetensors file or a folder with an autoencoder for use in place of the prior's own",
    )


def add_target(parser: Parser, target: str, settings: str) -> None:
    """RUN --to FILE [key=value ...], of the commands that write files from a run."""
    parser.add_argument("run", metavar="RUN", help="the directory of the run")
    parser.add_argument("settings", metavar="key=value", nargs="*", help=f"{settings}; repeatable")
    parser.add_argument("--to", required=True, metavar=target, help="the file or folder to write")
    add_trust(parser)


def add_trust(parser: Parser) -> None:
    """The option that `trusting` reads."""
    parser.add_argument(
        trust.OPTION,
        action="store_true",
        help="let the recipe of a run name classes that are not part of threedgen, which are then run, and models "
        f"of the hub, which are then fetched; {trust.VARIABLE}=1 does it for every command",
    )


def trusting(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """The function of a command that has `add_trust`, with run folders trusted if the user says so."""

    @functools.wraps(run)
    def trusted(arguments: argparse.Namespace) -> None:
        with trust.runs(arguments.trust):
            run(arguments)

    return trusted


def add_dry_run(parser: Parser, what: str = "recipe") -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help=f"print every setting of the {what} as YAML and stop"
    )


def backend(arguments: argparse.Namespace) -> list[str]:
    return [] if arguments.backend is None else [f"renderer.backend={arguments.backend}"]


def require_prompt(arguments: argparse.Namespace, example: str) -> None:
    """UserError for an empty prompt, and for a prompt of several words without quotes."""
    if not arguments.prompt.strip():
        raise UserError(f'the prompt is empty: describe the object, for example "{example}"')
    words = [word for word in arguments.settings if "=" not in word]
    if words:
        raise UserError(
            f"'{words[0]}' is not a setting (key=value): if it belongs to the prompt, put the whole prompt in "
            f'quotes, "{example}"'
        )


def require_free(arguments: argparse.Namespace) -> None:
    """A folder that is taken is reported before anything is read."""
    if arguments.out is not None:
        from threedgen.jobs.run_directory import check_free

        check_free(Path(arguments.out))


def common(arguments: argparse.Namespace) -> Common:
    """What every task takes, as the functions in `threedgen.pipelines` do."""
    return {
        "seed": arguments.seed,
        "steps": arguments.steps,
        "device": arguments.device,
        "backend": arguments.backend,
        "quality": arguments.quality,
        "settings": arguments.settings,
    }


def finish(prepared: Prepared, arguments: argparse.Namespace) -> None:
    """Runs a prepared recipe and prints its files; with --dry-run prints the recipe instead, and what
    `threedgen plan` prints if that asks."""
    if arguments.planned is not None:
        arguments.planned(prepared)
    elif arguments.dry_run:
        print_settings(prepared.recipe.resolved)
    else:
        from threedgen.jobs.listeners.logs import logs_of

        with logs_of(arguments.log, prepared.path) as logs:
            made = prepared.run(listeners=logs, stop_when_hopeless=arguments.stop_when_hopeless)
        print_results(made.path)


def print_settings(settings: Mapping[str, Any]) -> None:
    """Settings as YAML."""
    import yaml

    print(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True), end="")


def whole(text: str) -> int:
    """The type of an option that takes a whole number; argparse names the option in the message."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got '{text}'") from None


def at_least_one(text: str) -> int:
    """The type of an option that takes a whole number of at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def above_zero(text: str) -> float:
    """The type of an option that takes a number greater than 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, got '{text}'")
    return value


def print_results(folder: Path) -> None:
    """The files of a run that a user would open."""
    made = (
        "asset.glb",
        "asset.ply",
        "anim.glb",
        "anim.mp4",
        "player.html",
        "turntable.mp4",
        "contact_sheet.png",
        "backs.png",
        "reference/picture.png",
        "report.html",
        "report.json",
    )
    for name in made:
        if (folder / name).is_file():
            print(folder / name)
