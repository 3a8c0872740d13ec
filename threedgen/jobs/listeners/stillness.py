"""A warning, while the run can still be stopped, that a scene that should move stands still."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from threedgen.core.roles import RepresentationRoles, declared
from threedgen.jobs.listeners.verdicts import NO_MOTION, Verdict
from threedgen.loop.events import Event, StepDone

_SHARE = 3  # the check is made after a third of the steps of a stage
_FEWEST = 20  # a stage in which fewer steps come before the check is too short to tell
_MOMENTS = 9
_AT_REST = "still"  # the last word of a prompt that asks for no motion


class Stillness:
    """A listener that warns once in a stage, after a third of its steps, if a scene that moves stays at rest.

    A scene is at rest if at no moment its mean distance from rest reaches metrics.motion.STILL of its diameter.
    prompt: for the message; a prompt that ends in "still" gets no warning. where: how the names of the settings of
    the stage begin, such as "stages.1.".
    """

    def __init__(self, prompt: str, where: str = "") -> None:
        self._prompt, self._where = prompt, where
        self._done = prompt.lower().rstrip(".! ").endswith(_AT_REST)

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepDone) or self._done or event.total // _SHARE < _FEWEST:
            return
        # The scene is measured itself: the clips of single steps may show only a piece of the motion.
        if (
            event.state.step == event.total // _SHARE
            and declared(type(event.state.scene), RepresentationRoles).moves
        ):
            from threedgen.metrics.motion import (
                STILL,  # most scenes do not move, and its import takes a while
            )

            self._done = True  # a step that is rolled back is made again
            amount = _amount(event.state.scene)
            if amount < STILL:
                text = self._text(amount, event.state.step, event.total)
                warnings.warn(Verdict(NO_MOTION, event.state.step, text), stacklevel=1)

    def _text(self, amount: float, step: int, total: int) -> str:
        where = self._where
        return (
            f"nothing has moved after {step} of {total} steps of '{self._prompt}' ({amount:.1%} of its size): stop "
            f"and raise {where}representation.learning_rate (for motion of the whole object, "
            f"{where}representation.trajectory.learning_rate), lower {where}representation.regularizers.rigidity, "
            "or try another --seed"
        )


@torch.no_grad()
def _amount(scene: Any) -> float:
    from threedgen.metrics.motion import farthest

    times = torch.linspace(0.0, 1.0, _MOMENTS, device=next(scene.parameters()).device)
    return farthest(scene.moved(times))
