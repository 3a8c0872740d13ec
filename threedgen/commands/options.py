"""Options and outputs that the commands share."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from threedgen.commands.parser import Parser

BACKENDS = ("auto", "native", "torch", "gsplat", "nerfacc", "pytorch3d", "nvdiffrast")
DEVICES = ("auto", "cpu", "cuda")


def add_run_options(parser: Parser, default_out: str) -> None:
    """What every command that makes a run takes."""
    parser.add_argument("--out", metavar="DIR", help=f"directory of the run; default: {default_out}")
    parser.add_argument(
        "--seed",
        type=whole("--seed"),
        metavar="N",
        help="seed of every random draw; default: the recipe's, which is 0 unless it says otherwise",
    )
    parser.add_argument(
        "--steps", type=whole("--steps"), metavar="N", help="steps of the run; default: the recipe's"
    )
    add_device(parser)
    add_backend(parser)


def add_device(parser: Parser) -> None:
    parser.add_argument(
        "--device",
        choices=DEVICES,
        help="where to compute; default: auto, which takes the GPU if there is one",
    )


def add_backend(parser: Parser) -> None:
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="library that renders; default: auto, the fastest one that works here",
    )


def add_settings(parser: Parser) -> None:
    parser.add_argument(
        "settings", metavar="key=value", nargs="*", help="a setting of the recipe to change; repeatable"
    )


def add_target(parser: Parser, target: str, settings: str) -> None:
    """RUN --to FILE [key=value ...], of the commands that write files from a run."""
    parser.add_argument("run", metavar="RUN", help="the directory of the run")
    parser.add_argument("settings", metavar="key=value", nargs="*", help=f"{settings}; repeatable")
    parser.add_argument("--to", required=True, metavar=target, help="the file or folder to write")


def backend(arguments: argparse.Namespace) -> list[str]:
    return [] if arguments.backend is None else [f"renderer.backend={arguments.backend}"]


def require_free(arguments: argparse.Namespace) -> None:
    """A folder that is taken is reported before anything is read."""
    if arguments.out is not None:
        from threedgen.jobs.run_directory import check_free

        check_free(Path(arguments.out))


def recipe_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every command that starts from a source says of its recipe."""
    return {
        "recipe": arguments.recipe,
        "overrides": [*backend(arguments), *arguments.settings],
        "seed": arguments.seed,
        "steps": arguments.steps,
        "device": arguments.device,
    }


def whole(option: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got '{text}'") from None

    return parse


def progress_bar() -> Any:
    from threedgen.jobs.listeners.progress import ProgressBar

    return contextlib.closing(ProgressBar())


def print_results(run: Any) -> None:
    made = (
        "asset.glb",
        "asset.ply",
        "anim.glb",
        "anim.mp4",
        "player.html",
        "turntable.mp4",
        "contact_sheet.png",
        "reference/picture.png",
        "report.json",
    )
    for name in made:
        path = run.path / name
        if path.is_file():
            print(path)
