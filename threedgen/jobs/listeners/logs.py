"""What other programs show of a run: TensorBoard and Weights & Biases."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError
from threedgen.loop.events import Event, Listener, RunStarted, StepDone

TENSORBOARD, WANDB = "tensorboard", "wandb"
_PICTURES = 10  # in a stage
_PROJECT = "threedgen"


def installed(name: str) -> bool:
    """Whether the package of a log, which is called as the log, is installed."""
    return find_spec(name) is not None


def board(folder: Path) -> Any:
    """The writer of TensorBoard's files in the folder `tensorboard` of a run or a training."""
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder / TENSORBOARD))


class _Log(ABC):
    """A listener that hands numbers and some pictures of each step to `_number` and `_picture`.

    Steps are counted from the beginning of the run through all stages. The log begins with the first event, so that
    a run that is refused leaves none.
    """

    def __init__(self, folder: Path) -> None:
        """folder: of the run."""
        self._folder = folder
        self._open = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted) and not self._open:
            self._begin()
            self._open = True
        elif isinstance(event, StepDone):
            step = event.state.steps_in_run
            self._numbers(step, dict(event.metrics))
            if event.state.step % max(1, event.total // _PICTURES) == 0 or event.state.step == event.total:
                import torch

                self._picture(step, torch.cat(list(event.output.rgb.detach()), dim=1).clamp(0.0, 1.0).cpu())

    def close(self) -> None:
        """Ends the log; nothing happens if it never began."""
        if self._open:
            self._open = False
            self._end()

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _numbers(self, step: int, numbers: dict[str, float]) -> None: ...

    @abstractmethod
    def _picture(self, step: int, picture: Any) -> None: ...

    @abstractmethod
    def _end(self) -> None: ...


class TensorBoardLog(_Log):
    """Event files in RUN/tensorboard, which `tensorboard --logdir RUN` shows. A resumed run adds one more."""

    def _begin(self) -> None:
        self._writer = board(self._folder)

    def _numbers(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def _picture(self, step: int, picture: Any) -> None:
        self._writer.add_image("views", picture[..., :3], step, dataformats="HWC")

    def _end(self) -> None:
        self._writer.close()


class WandbLog(_Log):
    """A run of Weights & Biases, whose config is the recipe.

    Mode, project and place of the files are those of wandb's own variables, such as WANDB_MODE=offline,
    WANDB_PROJECT and WANDB_DIR. The place is not in the run, because wandb makes links, which no run may have. A
    run that is resumed begins another one there, in the same group.
    """

    def _begin(self) -> None:
        import wandb

        from threedgen.core import inside
        from threedgen.core.documents import parse_yaml
        from threedgen.jobs.run_directory import RunDirectory

        name, recipe = self._folder.resolve().name, RunDirectory(self._folder).recipe
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                name=name,
                group=name,
                config=parse_yaml(inside.read_text(recipe, inside.DOCUMENT)),
                settings=wandb.Settings(silent=True, console="off"),  # the streams are this program's
            )
        except (wandb.errors.Error, OSError) as error:
            raise UserError(
                f"--log wandb: {' '.join(str(error).split())}; run `wandb login`, or set WANDB_MODE=offline"
            ) from error

    def _numbers(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log(numbers, step=step)

    def _picture(self, step: int, picture: Any) -> None:
        import wandb

        self._run.log({"views": wandb.Image(picture[..., :3].numpy())}, step=step)

    def _end(self) -> None:
        self._run.finish()


_LOGS: dict[str, Callable[[Path], _Log]] = {TENSORBOARD: TensorBoardLog, WANDB: WandbLog}


@contextmanager
def logs_of(names: Sequence[str], folder: Path) -> Iterator[list[Listener]]:
    """The listeners of the logs called `names` for the run in `folder`; they are closed at the end of the block.

    Raises UserError if the package of one is not installed.
    """
    with ExitStack() as logs:
        yield [logs.enter_context(_closing(name, folder)) for name in dict.fromkeys(names)]


@contextmanager
def _closing(name: str, folder: Path) -> Iterator[Listener]:
    if not installed(name):
        raise UserError(f"--log {name}: {name} is not installed; pip install 'threedgen[{name}]'")
    log = _LOGS[name](folder)
    try:
        yield log
    finally:
        log.close()
