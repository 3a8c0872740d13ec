"""Says while there is still time that what was asked to move stands still."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from threedgen.core.roles import RepresentationRoles, declared
from threedgen.loop.events import Event, StepDone
from threedgen.metrics.motion import STILL, farthest

_SHARE = 3  # of a stage: a third of its steps
_FEWEST = 20  # steps that say something
_MOMENTS = 9
_AT_REST = "still"  # the word of a prompt that asks for no motion


class Stillness:
    """Warns once a stage, after a third of its steps, where a scene that moves is nowhere further from rest than
    metrics.motion.STILL of its diameter.

    prompt: for the text; one that ends in "still" gets no warning. where: what settings of the stage begin
    with, as "stages.1.".
    """

    def __init__(self, prompt: str, where: str = "") -> None:
        self._prompt, self._where = prompt, where
        self._done = prompt.lower().rstrip(".! ").endswith(_AT_REST)

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepDone) or self._done or event.total // _SHARE < _FEWEST:
            return
        # The scene is asked, and not the metrics of the steps: their clips may have shown a part of the motion.
        if (
            event.state.step == event.total // _SHARE
            and declared(type(event.state.scene), RepresentationRoles).moves
        ):
            self._done = True  # a step that is rolled back comes again
            amount = _amount(event.state.scene)
            if amount < STILL:
                warnings.warn(self._text(amount, event.state.step, event.total), stacklevel=1)

    def _text(self, amount: float, step: int, total: int) -> str:
        where = self._where
        return (
            f"nothing has moved after {step} of {total} steps of '{self._prompt}' ({amount:.1%} of its size): stop "
            f"and raise {where}representation.learning_rate (of the whole: .trajectory.learning_rate), lower "
            f"{where}representation.regularizers.rigidity, or try another --seed"
        )


@torch.no_grad()
def _amount(scene: Any) -> float:
    times = torch.linspace(0.0, 1.0, _MOMENTS, device=next(scene.parameters()).device)
    return farthest(scene.moved(times))
