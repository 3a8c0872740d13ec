"""Early verdicts: a run that will come to nothing says so while it can still be stopped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch

from threedgen.core.errors import UserError
from threedgen.core.types import RenderOutput
from threedgen.loop.events import Event, GradientsReady, StepDone, StepRolledBack
from threedgen.loop.state import RunState

_CHECKS = 50  # in a stage: reading a picture from a GPU each step would make the CPU wait
_IN_A_ROW = 10  # checks with the same result before there is a verdict
_FEWEST = 20  # steps of a stage that is long enough to tell
_CLEAR, _SOLID = 0.02, 0.9  # opacities of a pixel that shows nothing, and of one that shows nothing else
_DARK = 0.02  # of the brightest channel
_EDGE = 0.004  # about one step of 8 bits from 0 or 1
_NEARLY_ALL = 0.98  # share of the solid pixels
_ENOUGH = 0.002  # share of solid pixels in the views that a colour can be judged by

EMPTY, BLACK, SATURATED, NO_GRADIENT, NO_MOTION = "empty", "black", "saturated", "no gradient", "no motion"
_TEXTS = {
    EMPTY: "nothing is visible in any view: lower optimizer.scale and the regularizers, or try another --seed",
    BLACK: "all that is visible is black: lower optimizer.scale or the guidance scale, or try another --seed",
    SATURATED: "the colours are saturated everywhere: lower the guidance scale or optimizer.scale",
    NO_GRADIENT: "no parameter gets a gradient: check the weights of the guidances and what the views show",
}


class Verdict(UserWarning):
    """A warning that a run is hopeless. step: steps done in its stage. reason: one of the names of this module."""

    def __init__(self, reason: str, step: int, text: str) -> None:
        super().__init__(text)
        self.reason, self.step = reason, step


class Hopeless(UserError):
    """A run that was stopped because of a verdict. Its state is in its checkpoint."""


class Verdicts:
    """A listener that warns once for each reason, as soon as it held for a fifth of the steps of a stage.

    prompt: one that asks for something black gets no verdict on that.
    """

    def __init__(self, prompt: str) -> None:
        self._counts = dict.fromkeys(_TEXTS, 0)
        self._given = {BLACK} if "black" in prompt.lower() else set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepRolledBack):
            self._counts = dict.fromkeys(_TEXTS, 0)
        elif isinstance(event, GradientsReady) and _is_due(event.step, event.total):
            self._count(NO_GRADIENT, not _has_gradient(event.state), event.step, event.total)
        elif isinstance(event, StepDone) and _is_due(event.step, event.total):
            seen = _look(event.output)
            for reason in (EMPTY, BLACK, SATURATED):
                self._count(reason, reason == seen, event.step, event.total)

    def _count(self, reason: str, holds: bool, step: int, total: int) -> None:
        self._counts[reason] = self._counts[reason] + 1 if holds else 0
        if self._counts[reason] >= _IN_A_ROW and reason not in self._given:
            self._given.add(reason)
            text = f"this run looks hopeless after step {step + 1} of {total} ({reason}): {_TEXTS[reason]}"
            warnings.warn(Verdict(reason, step + 1, text), stacklevel=1)


class StopWhenHopeless:
    """A listener that ends a run after a step with a verdict. It comes after those that give verdicts.

    given: the verdicts so far, to which others may add. save: writes the checkpoint of a state.
    """

    def __init__(self, given: Sequence[Verdict], save: Callable[[RunState], None]) -> None:
        self._given, self._save = given, save

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone) and self._given:
            self._save(event.state)
            reasons = ", ".join(verdict.reason for verdict in self._given)
            raise Hopeless(f"stopped after step {event.state.step} of {event.total}: {reasons}")


def _is_due(step: int, total: int) -> bool:
    return total >= _FEWEST and (step + 1) % max(1, total // _CHECKS) == 0


@torch.no_grad()
def _has_gradient(state: RunState) -> bool:
    return any(
        parameter.grad is not None and bool(parameter.grad.any()) for parameter in state.scene.parameters()
    )


@torch.no_grad()
def _look(output: RenderOutput) -> str | None:
    """What is wrong with the views of a step, if anything is."""
    if float(output.alpha.max()) < _CLEAR:
        return EMPTY
    if output.rgb.shape[-1] != 3:
        return None  # latents, not colours
    solid = output.alpha[..., 0] > _SOLID
    if float(solid.float().mean()) < _ENOUGH:
        return None
    colors = output.rgb[solid]
    if float((colors.amax(-1) < _DARK).float().mean()) > _NEARLY_ALL:
        return BLACK
    at_edge = ((colors < _EDGE) | (colors > 1.0 - _EDGE)).all(-1)
    return SATURATED if float(at_edge.float().mean()) > _NEARLY_ALL else None
