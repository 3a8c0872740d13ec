"""The command line: thin. Each command is a module with `build_parser()` and `run(arguments)`; a module is imported
when its command is called.

Anything a user can put right ends in one line on stderr and exit code 2; a bug keeps its traceback.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from threedgen.commands import output
from threedgen.commands.parser import PROGRAM, Parser
from threedgen.core import memory, threads
from threedgen.core.errors import UserError


@dataclass(frozen=True)
class Command:
    """One command. module: its file in this package. summary: its line of help."""

    module: str
    summary: str

    def parser(self) -> Parser:
        """Its options; they are also what shell completion and the tests walk through."""
        return self._module().build_parser()

    def __call__(self, argv: Sequence[str]) -> None:
        module = self._module()
        arguments = module.build_parser().parse(argv)
        threads.choose(getattr(arguments, "threads", None))
        module.run(arguments)

    def _module(self) -> Any:
        return import_module(f"threedgen.commands.{self.module}")


TRAIN = "train"
_SMALLER = "choose a smaller size, batch or resolution, or use a machine with more memory"
COMMANDS = {
    "text-to-3d": Command("text_to_3d", "Make a 3D asset from a prompt."),
    "text-to-4d": Command("text_to_4d", "Make a 3D asset that moves from a prompt."),
    "compose": Command("compose", "Put several assets and their motions into one scene."),
    "image-to-3d": Command("image_to_3d", "Make a 3D asset from one picture or several."),
    "fit": Command("fit", "Make a 3D asset from posed pictures or from a mesh file."),
    "batch": Command("batch", "Make an asset for each row of a table of prompts or pictures."),
    "plan": Command("plan", "Say what a command would fetch, and the memory and time that it would take."),
    "resume": Command("resume", "Continue a run that was stopped."),
    "export": Command("export", "Write the asset of a run, or its motion, to a file."),
    "render": Command("render", "Render a run on a turntable, as a film or as pictures."),
    "compare": Command("compare", "Show several runs on one page: pictures, settings that differ, scores."),
    "things": Command("things", "List the things that the embedded prior knows by name."),
    "recipes": Command("recipes", "List the recipes, or print every setting of one."),
    "eval": Command("evaluate", "Measure a run, a trained model or pictures."),
    "completion": Command("completion", "Print the shell completion for bash, zsh or fish."),
    "doctor": Command("doctor", "Check what works on this machine, and say why the rest does not."),
    "train prior": Command("train_prior", "Train a diffusion prior like those that ship."),
    "train reconstructor": Command(
        "train_reconstructor", "Train the network that turns views into Gaussians in one pass."
    ),
    "train dfm": Command("train_dfm", "Train a diffusion model of the scenes that a picture may show."),
    "train nerfdiff": Command("train_nerfdiff", "Train a NerfDiff model."),
    "train ssdnerf": Command("train_ssdnerf", "Train an SSDNeRF model, a generator of a class of objects."),
    "train one-step": Command("train_one_step", "Distil a trained SSDNeRF into a sampler of one step."),
    "sample": Command("sample", "Draw new objects from a trained SSDNeRF."),
    "reconstruct": Command("reconstruct", "Find the object that views show, with a trained SSDNeRF."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 for a doctor with problems, 2 for bad input, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with output.watched():
            return _run(arguments)
    except output.ReaderGone:  # `| head` has read enough
        return 0
    except UserError as error:
        return _complain(error)
    except KeyboardInterrupt as stop:
        advice = f"; continue it with `{PROGRAM} resume {stop.args[0]}`" if stop.args else ""
        print(f"{PROGRAM}: interrupted{advice}", file=sys.stderr)
        return 130
    except SystemExit as request:  # argparse after --help, doctor
        return request.code if isinstance(request.code, int) else 1


def _run(arguments: Sequence[str]) -> int:
    """Runs a command, inside of `output.watched`. Raises what `main` turns into exit codes."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
    elif arguments[0] in ("-V", "--version"):
        from threedgen import __version__

        print(f"{PROGRAM} {__version__}")
    elif arguments[0] == TRAIN and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(_train_help())
    else:
        name, rest = _split(arguments)
        with memory.in_one_line(lambda _: _SMALLER), _one_line_warnings():
            COMMANDS[name](rest)
    return 0


def _complain(error: UserError) -> int:
    # Nobody may read this either.
    with contextlib.suppress(output.ReaderGone, UserError), output.watched():
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _split(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command's name and its own arguments. UserError for an unknown command."""
    count = 2 if arguments[0] == TRAIN else 1
    name = " ".join(arguments[:count])
    if name in COMMANDS:
        return name, arguments[count:]
    from threedgen.core.plugins import did_you_mean

    known = [command for command in COMMANDS if command.startswith(TRAIN) == (count == 2)]
    known += [TRAIN] if count == 1 else []
    near = did_you_mean(name, known) or ";"
    raise UserError(f"unknown command '{name}'{near} known: {', '.join(known)}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND ...   (options: {PROGRAM} COMMAND --help)",
            "",
            "Text to 3D, picture to 3D and text to 4D by score distillation, on a laptop.",
            "",
            *lines,
            "",
            f'Start with: {PROGRAM} text-to-3d "a red cube"',
        ]
    )


def _train_help() -> str:
    kinds = [name for name in COMMANDS if name.startswith(TRAIN)]
    width = max(map(len, kinds))
    lines = [f"  {name:{width}}  {COMMANDS[name].summary}" for name in kinds]
    usage = f"usage: {PROGRAM} {TRAIN} KIND ...   (options: {PROGRAM} {TRAIN} KIND --help)"
    return "\n".join([usage, "", *lines])


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Warnings meant for users on one line, without the source line that Python appends."""
    import warnings

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield
