"""Options and outputs that the commands which make assets share."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from threedgen.commands.parser import Parser

BACKENDS = ("auto", "native", "torch", "gsplat", "nerfacc", "pytorch3d", "nvdiffrast")


def add_run_options(parser: Parser, default_out: str) -> None:
    parser.add_argument("--out", metavar="DIR", help=f"run directory; default: {default_out}")
    parser.add_argument("--seed", type=whole("--seed"), metavar="N")
    parser.add_argument("--steps", type=whole("--steps"), metavar="N")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    add_backend(parser)


def add_backend(parser: Parser) -> None:
    parser.add_argument("--backend", choices=BACKENDS, help="who renders; default: the fastest there is")


def backend(arguments: argparse.Namespace) -> list[str]:
    return [] if arguments.backend is None else [f"renderer.backend={arguments.backend}"]


def require_free(arguments: argparse.Namespace) -> None:
    """A folder that is taken is said before anything is read."""
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
