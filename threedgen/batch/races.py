"""Several seeds of one row, of which the best is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from threedgen.batch.pieces import FINISHED, Outcome
from threedgen.core.errors import UserError

Keep = Literal["best", "all"]
SCORES = ("psnr", "reference_psnr", "mesh_agreement_iou", "loss")
"""What decides if nobody says what: the first of these that the report has. The likeness to given pictures comes
first, then how well the mesh shows what was optimised."""
_LOWER = ("loss", "lpips", "fid")  # the names of scores, or their last words, of which less is better


@dataclass(frozen=True)
class Race:
    """seeds: how many runs of each row. keep: the folders that stay. score: the name of the one that decides, or ""
    for the first of SCORES that is there."""

    seeds: int = 1
    keep: Keep = "best"
    score: str = ""

    @property
    def facts(self) -> tuple[object, ...]:
        """What of it decides the result of a row."""
        return (self.seeds, self.keep, self.score) if self.seeds > 1 else ()


def best_of(outcomes: Sequence[Outcome], score: str = "", any_will_do: bool = False) -> tuple[int, str]:
    """The index of the best outcome and the name of the score that says so; the first one wins a draw.

    Failed ones never win, unless all failed: then it is the first, and the name is "". any_will_do: the same if no
    score can decide. Raises UserError if the finished ones do not all have the score.
    """
    finished = [index for index, outcome in enumerate(outcomes) if outcome.state == FINISHED]
    if not finished:
        return 0, ""
    shared = [
        name for name in outcomes[finished[0]].scores if all(name in outcomes[i].scores for i in finished)
    ]
    name = score or next((name for name in SCORES if name in shared), "")
    if not name and any_will_do:
        return finished[0], ""
    if name not in shared:
        what = f"no score '{name}' in common" if name else "no score in common"
        known = f"name one of {', '.join(shared)} with --score" if shared else "use --keep all"
        raise UserError(f"the runs have {what} that could decide between their seeds: {known}")
    sign = -1.0 if name.rpartition("_")[2] in _LOWER else 1.0
    values = [sign * outcomes[index].scores[name] for index in finished]
    values = [-math.inf if math.isnan(value) else value for value in values]
    return finished[values.index(max(values))], name
