"""Laws of a representation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from threedgen.core import checkpoint, plugins
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize
from threedgen.core.random import generator
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.loop.distill import distill, new_state
from threedgen.loop.events import Event, GradientsReady, StepDone
from threedgen.loop.optim import check_groups
from threedgen.loop.state import RunState
from threedgen.testing.common import distance, law, no_global_randomness, views
from threedgen.testing.settings import check_settings_of

_SAME = 1e-6


def check_representation(
    representation: Callable[..., Any], *, renderer: Any = None, steps: int = 10, config: Any = None
) -> None:
    """Checks the class of a representation, or a function seed -> representation.

    renderer: draws its primitive; default: the built-in one that its class attribute `renderer` names. steps:
    of the small runs, in which a representation that grows should grow. config: for a class whose defaults are
    too large for a test. Raises AssertionError naming the law that does not hold:

    - some code reads every setting (`check_settings`);
    - every parameter is in exactly one group, and every group has a learning rate;
    - the seed decides the start;
    - the renderer draws the primitive, and every parameter gets a finite gradient during the run;
    - `adapt` tells the optimizer about parameters that it replaces;
    - `state_dict` holds everything, and a fresh object can load it;
    - a resumed run ends with the same numbers as one that was not interrupted;
    - the global random states do not change.
    """
    make = _factory(representation, config)
    with no_global_randomness("the representation"):
        scene = make(0)
        check_settings_of(scene)
        _check_groups(scene)
        _check_seed(make)
        draw = plugins.find("renderer", scene.renderer)() if renderer is None else renderer
        _check_times(scene, draw)
        middle, end = _check_run(make(0), draw, steps)
        _check_round_trip(make(1), draw, end)
        _check_resume(make(1), draw, steps, middle, end)


def _factory(representation: Callable[..., Any], config: Any) -> Callable[[int], Any]:
    if isinstance(representation, type):
        settings = representation.Config() if config is None else config  # type: ignore[attr-defined]
        return lambda seed: representation(settings, seed)
    return lambda seed: representation(seed)


def _check_groups(scene: Any) -> None:
    law(isinstance(scene, nn.Module), "module", "a representation must be a torch.nn.Module")
    groups, rates = scene.parameter_groups(), dict(scene.learning_rates())
    try:
        check_groups(groups, scene.named_parameters())
    except UserError as error:
        raise AssertionError(f"parameter groups: {error}") from error
    law(set(groups) == set(rates), "learning rates", f"groups {sorted(groups)} but rates for {sorted(rates)}")
    good = all(math.isfinite(rate) and rate >= 0.0 for rate in rates.values())
    law(good, "learning rates", f"rates must be numbers of at least 0, they are {rates}")
    law(any(p.requires_grad for p in scene.parameters()), "parameters", "it has no parameter to optimise")


def _check_seed(make: Callable[[int], Any]) -> None:
    first, second = make(0), make(0)
    one, two = first.state_dict(), second.state_dict()
    same = one.keys() == two.keys() and all(distance(one[key], two[key]) == 0.0 for key in one)
    law(same, "determinism", "two objects made with the same seed differ")


def _render(scene: Any, renderer: Any, cameras: Cameras) -> RenderOutput:
    return renderer(scene.at(cameras.time), cameras, torch.ones(3))


@torch.no_grad()
def _check_times(scene: Any, renderer: Any) -> None:
    """`at` gives a primitive that the renderer draws, with times and without, and changes nothing."""
    before = {name: value.clone() for name, value in scene.state_dict().items()}
    cameras = views()
    with_times = _render(scene, renderer, cameras)
    without = renderer(scene.at(None), cameras, torch.ones(3))
    law(
        bool(with_times.rgb.isfinite().all()), "at", "the picture at the start has values that are not finite"
    )
    law(distance(with_times.rgb, without.rgb) <= _SAME, "at", "at(None) is not the asset at time 0")
    after = scene.state_dict()
    same = all(distance(before[name], after[name]) == 0.0 for name in before)
    law(same, "at", "at() or rendering changed the state")


class _Target:
    """A guidance that pulls every picture towards a smooth random one, which depends on the step."""

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        rng = generator(seed, "conformance", step)
        coarse = torch.rand(len(cameras), 3, 3, 3, generator=rng).permute(0, 2, 3, 1)
        target = resize(coarse, cameras.height, cameras.width)
        return Signal((output.rgb - target).square().sum() + 0.1 * (output.alpha - 0.5).square().sum())


def _cameras(seed: int, step: int, total: int) -> Cameras:
    return replace(views(3, 16, 16), time=torch.tensor([0.3, 0.6, 1.0]))  # at time 0 nothing has moved


class _Watch:
    """A listener that checks gradients and the optimizer, and keeps a copy of the state in the middle."""

    def __init__(self, steps: int) -> None:
        self.half = steps // 2
        self.reached: set[str] = set()
        self._stepped: set[str] = set()
        self.middle: tuple[dict[str, Tensor], dict[str, int]] | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, GradientsReady):
            self._stepped = set()
            for name, parameter in event.state.scene.named_parameters():
                if parameter.grad is not None:
                    finite = bool(parameter.grad.isfinite().all())
                    law(finite, "gradients", f"the gradient of '{name}' is not finite at step {event.step}")
                    self._stepped.add(name)
            self.reached |= self._stepped
        elif isinstance(event, StepDone):
            state: Any = event.state
            _check_optimizer(state, event.step, self._stepped)
            if state.step == self.half:
                self.middle = state.snapshot()


def _check_optimizer(state: RunState, step: int, stepped: set[str]) -> None:
    """The optimizer still knows the parameters that it has just changed, with moments of their shapes."""
    _check_groups(state.scene)
    optimizer: Any = state.optimizer
    for name, parameter in state.scene.named_parameters():
        moments = optimizer.moments(parameter)
        if name in stepped:
            known = "the optimizer does not know the new parameter, tell it with replace_rows"
            law(bool(moments), "adapt", f"'{name}' was replaced in step {step} and {known}")
        fits = all(value.shape == parameter.shape for value in moments.values())
        law(fits, "adapt", f"after step {step} the optimizer's moments of '{name}' have another shape")


def _check_run(scene: Any, renderer: Any, steps: int) -> tuple[Any, dict[str, Tensor]]:
    """A run of `steps` steps; returns its state in the middle, and its tensors at the end."""
    watch = _Watch(steps)
    state = _run(scene, renderer, steps, watch)
    for name, parameter in state.scene.named_parameters():
        silent = parameter.requires_grad and parameter.numel() > 0 and name not in watch.reached
        law(not silent, "gradients", f"no gradient reached '{name}' in {steps} steps")
        law(bool(parameter.isfinite().all()), "values", f"'{name}' is not finite after {steps} steps")
    return watch.middle, state.snapshot()[0]


def _run(scene: Any, renderer: Any, steps: int, watch: Any, state: RunState | None = None) -> RunState:
    return distill(
        scene,
        renderer,
        _cameras,
        [_Target()],
        "",
        steps=steps,
        listeners=[watch] if watch else [],
        state=state,
    )


def _check_round_trip(other: Any, renderer: Any, end: Mapping[str, Tensor]) -> None:
    """A fresh object can load the state at the end of the run, with any number of rows, and draws the same."""
    saved = checkpoint.unprefixed("scene", end)
    try:
        other.load_state_dict(saved)
    except Exception as error:
        raise AssertionError(
            f"state_dict: a fresh object cannot load the state of a trained one: {error}"
        ) from error
    back = other.state_dict()
    same = back.keys() == saved.keys() and all(distance(back[name], saved[name]) == 0.0 for name in saved)
    law(same, "state_dict", "what is loaded is not what was saved")
    with torch.no_grad():
        first = _render(other, renderer, views())
        again = _render(other, renderer, views())
    law(distance(first.rgb, again.rgb) <= _SAME, "state_dict", "two renders of one state differ")


def _check_resume(
    other: Any,
    renderer: Any,
    steps: int,
    middle: tuple[dict[str, Tensor], dict[str, int]],
    end: Mapping[str, Tensor],
) -> None:
    """The run, resumed from its middle in another object, ends with the same numbers."""
    state = new_state(other, (), steps=steps)
    state.restore(*middle)
    resumed = _run(other, renderer, steps, None, state).snapshot()[0]
    law(resumed.keys() == end.keys(), "resume", "a resumed run ends with other tensors")
    for name, value in end.items():
        gap = distance(resumed[name], value)
        law(gap <= _SAME, "resume", f"'{name}' differs by {gap:.2g} from the run that was not interrupted")
