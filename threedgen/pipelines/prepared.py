"""A recipe that is ready to become a run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from threedgen.jobs.run import start
from threedgen.jobs.run_directory import check_free
from threedgen.loop.events import Listener, PhaseStarted
from threedgen.pipelines.common import showing
from threedgen.pipelines.result import Run
from threedgen.recipes.recipe import Recipe


def _no_files(folder: Path) -> Mapping[str, Path]:
    return {}


@dataclass(frozen=True)
class Prepared:
    """A recipe that is ready to become a run.

    path: where the run goes. about: lines for the user about what the run was given. write: writes the files that
    belong to the run below a temporary folder, and returns {name in the run: where it is}.
    """

    recipe: Recipe
    path: Path
    about: tuple[str, ...] = ()
    write: Callable[[Path], Mapping[str, Path]] = _no_files

    def run(
        self,
        progress: bool = True,
        listeners: Sequence[Listener] = (),
        stop_when_hopeless: bool = False,
    ) -> Run:
        """Runs the recipe into its folder. Raises UserError, and KeyboardInterrupt(path) after Ctrl-C.

        progress: whether a bar is shown. listeners: called with every event. stop_when_hopeless: whether a run that
        looks hopeless is stopped with a UserError, instead of a warning alone.
        """
        check_free(self.path)
        with (
            showing(progress, listeners) as every,
            tempfile.TemporaryDirectory(prefix="threedgen-") as folder,
        ):
            for line in self.about:
                for listener in every:
                    listener(PhaseStarted(line))
            files = self.write(Path(folder))
            return Run(start(self.recipe, self.path, every, files, stop_when_hopeless), trusted=True)
