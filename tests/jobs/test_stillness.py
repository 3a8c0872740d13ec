"""A warning, while the run can still be stopped, that a scene that should move stands still."""

import warnings
from typing import Any

import pytest
import torch
from splatting_scenes import random_cloud
from torch import nn

from threedgen.core.roles import RepresentationRoles
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.jobs.listeners.stillness import Stillness
from threedgen.loop.distill import distill
from threedgen.loop.events import StepDone
from threedgen.loop.state import RunState


class Rising(nn.Module, RepresentationRoles):
    """Points that are `far` world units away from rest at time 1."""

    moves = True

    def __init__(self, far: float = 0.0, size: float = 1.0) -> None:
        super().__init__()
        self.far = nn.Parameter(torch.tensor(far))
        self.means = size * random_cloud(50).means

    def moved(self, times: torch.Tensor) -> torch.Tensor:
        return self.means + self.far * times[:, None, None] * torch.tensor([0.0, 1.0, 0.0])


def warned_in(scene: Any, steps: range, total: int, listener: Stillness | None = None) -> list[str]:
    """The warnings of a listener in the steps of a stage."""
    listener = listener or Stillness("a red cube bouncing")
    nothing: Any = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in steps:
            state = RunState(scene, nothing, 0, step=step + 1)
            listener(StepDone(state, step, total, {}, (), nothing, nothing))
    return [str(one.message) for one in caught]


def test_the_warning_comes_once_after_a_third():
    assert warned_in(Rising(), range(99), 300) == []
    (text,) = warned_in(Rising(), range(300), 300)
    assert text.startswith(
        "nothing has moved after 100 of 300 steps of 'a red cube bouncing' (0.0% of its size): "
    )
    assert "raise representation.learning_rate" in text
    (text,) = warned_in(Rising(), range(300), 300, Stillness("a cube bouncing", "stages.1."))
    assert (
        "raise stages.1.representation.learning_rate (for motion of the whole object, "
        "stages.1.representation.trajectory.learning_rate), lower stages.1.representation.regularizers.rigidity"
        in text
    )


def test_a_step_that_is_rolled_back_and_made_again_gives_no_second_warning():
    listener = Stillness("a cube bouncing")
    assert len(warned_in(Rising(), range(90, 110), 300, listener)) == 1
    assert warned_in(Rising(), range(90, 110), 300, listener) == []


@pytest.mark.parametrize(("share", "warned"), [(0.009, True), (0.011, False)])
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_the_bound_is_a_hundredth_of_the_diameter(share, warned, size):
    points = Rising(size=size).means
    across = 2.0 * float((points - 0.5 * (points.amin(0) + points.amax(0))).norm(dim=1).max())
    assert bool(warned_in(Rising(share * across, size), range(300), 300)) == warned


def test_a_prompt_may_ask_for_no_motion():
    assert warned_in(Rising(), range(300), 300, Stillness("a red cube still")) == []


def test_few_steps_give_no_warning():
    assert warned_in(Rising(), range(30), 30) == []


class Resting(Rising):
    moves = False


def test_scenes_that_are_not_meant_to_move_give_no_warning():
    assert warned_in(Resting(), range(300), 300) == []


class Pushed(Rising):
    """A scene that its loss moves, if `pull` is not 0."""

    def __init__(self, pull: float) -> None:
        super().__init__()
        self._pull = pull

    def at(self, time: Any) -> Any:
        return self._pull * self.far

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"far": [self.far]}

    def learning_rates(self) -> dict[str, float]:
        return {"far": 1e-2}

    def adapt(self, *_: Any) -> dict[str, float]:
        return {}


@pytest.mark.parametrize(("pull", "warned"), [(0.0, True), (-1.0, False)])
def test_it_listens_to_the_loop(pull, warned):
    def cameras(seed: int, step: int, total: int) -> Cameras:
        return Cameras(torch.eye(4)[None], torch.eye(3)[None], 4, 4, torch.zeros(1))

    def render(loss: Any, *_: Any, **__: Any) -> RenderOutput:
        return RenderOutput(loss.expand(1, 4, 4, 3), loss.expand(1, 4, 4, 1))

    def guide(output: RenderOutput, *_: Any) -> Signal:
        return Signal(output.rgb.mean(), {})

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scene: Any = Pushed(pull)
        distill(scene, render, cameras, [guide], "it", steps=90, listeners=[Stillness("it moving")])
    assert len(caught) == warned
