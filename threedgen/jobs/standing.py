"""Where a run stands when it stops: what somebody who continues it must know."""

from __future__ import annotations

from pathlib import Path

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.jobs.run_directory import RunDirectory


def standing(path: Path) -> str:
    """One sentence: what of the run in the folder `path` is on disk, and how it goes on."""
    run = RunDirectory(path)
    if not run.recipe.is_file():
        return f"nothing of the run '{path}' is on disk"
    onward = f"go on with `threedgen resume {path}`"
    if not checkpoint.exists(run.checkpoint):
        return f"'{path}' has no checkpoint yet, so that it begins again: {onward}"
    try:
        state = checkpoint.load_state(run.checkpoint)
    except UserError as error:
        return str(error)
    stage = f" of stage {state['stage'] + 1}" if state.get("stage") else ""
    return f"the checkpoint of '{path}' is intact, after step {state.get('step')}{stage}: {onward}"
