"""THE LOOP. Everything else hangs off it: recipes build its arguments, listeners hear what it does.

    distill(scene, renderer, cameras, guidances, prompt="a red cube", steps=300)

takes any objects that answer these calls; none of them needs a base class or a registration:

    scene       nn.Module with at(time) -> primitive, parameter_groups(), learning_rates(), adapt(...)
    renderer    renderer(primitive, cameras, background, rng) -> RenderOutput
    cameras     cameras(seed, step, total) -> Cameras
    guidance    guide(output, cameras, prompt, step, total, seed) -> Signal
    regularizers(output, primitive, step, total) -> (loss, metrics)
    background  background(seed, step) -> [3], [B, 3] or [B, H, W, 3]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed, generator
from threedgen.core.schedule import value_at
from threedgen.core.types import RenderOutput, Signal
from threedgen.loop import optim
from threedgen.loop.background import Background
from threedgen.loop.events import (
    Emitter,
    GradientsReady,
    Listener,
    RunFinished,
    RunStarted,
    StepDone,
    StepRejected,
    StepRolledBack,
)
from threedgen.loop.state import RunState, Stepper
from threedgen.loop.watchdog import Watchdog

Regularizer = Callable[[RenderOutput, Any, int, int], tuple[Tensor, Mapping[str, float]]]


def distill(
    scene: Any,
    renderer: Callable[..., RenderOutput],
    cameras: Callable[..., Any],
    guidances: Sequence[Callable[..., Signal]],
    prompt: str,
    *,
    steps: int,
    seed: int = 0,
    weights: Sequence[Any] | None = None,
    background: Callable[[int, int], Tensor] | None = None,
    regularizers: Regularizer | None = None,
    optimizer: Stepper | None = None,
    listeners: Iterable[Listener] | None = None,
    state: RunState | None = None,
) -> RunState:
    """Optimises `scene` until step `steps` and returns the final state.

    weights: one number or schedule a guidance (default 1). optimizer: default Adam with the scene's learning
    rates. listeners: called with every event (see threedgen.loop.events), default a Watchdog. state: an earlier
    state of the same run to go on from; otherwise the run starts at step 0. Every draw depends on (seed,
    stream, step) alone. Raises UserError when a parameter of the scene is in no optimizer group, or the
    weights are not as many as the guidances.
    """
    state = state or new_state(scene, guidances, steps=steps, seed=seed, optimizer=optimizer)
    emit = Emitter(tuple(listeners) if listeners is not None else (Watchdog(),))
    background = background or Background(Background.Config())
    weights = [1.0] * len(guidances) if weights is None else weights
    if len(weights) != len(guidances):
        raise UserError(f"{len(weights)} weights for {len(guidances)} guidances: give each guidance one")
    device = next(scene.parameters()).device
    emit(RunStarted(state, steps))
    while state.step < steps:
        started, step, seed = time.perf_counter(), state.step, state.draw_seed
        views = cameras(seed, step, steps).to(device)
        primitive = scene.at(views.time)
        rng = generator(seed, "render", step)
        output = renderer(primitive, views, background(seed, step).to(device), rng)
        active = {index: value_at(weight, step, steps) for index, weight in enumerate(weights)}
        signals = {
            index: guidances[index](output, views, prompt, step, steps, _own_seed(seed, index))
            for index, weight in active.items()
            if weight != 0.0
        }
        loss, terms = _weighted(signals, active, step), {}
        if regularizers is not None:
            penalty, terms = regularizers(output, primitive, step, steps)
            loss = loss + penalty
        state.optimizer.zero_grad()
        loss.backward()
        try:
            emit(GradientsReady(state, step, steps, loss.detach()))
        except StepRejected as rejection:
            emit(StepRolledBack(state, step, state.step, str(rejection)))
            continue
        state.optimizer.step()
        changes = scene.adapt(step, steps, output, state.optimizer, seed)
        state.step = step + 1
        metrics = _metrics(loss, signals, terms, changes, time.perf_counter() - started)
        emit(StepDone(state, step, steps, metrics, tuple(signals.values()), output, views))
    emit(RunFinished(state, steps))
    return state


def new_state(
    scene: Any,
    guidances: Sequence[Any],
    *,
    steps: int,
    seed: int = 0,
    optimizer: Stepper | None = None,
    optimizer_config: optim.Config | None = None,
) -> RunState:
    """The state before the first step. UserError: a parameter in no group, a group without a rate."""
    if steps < 1:
        raise UserError(f"a run needs at least 1 step, got {steps}")
    if optimizer is None:
        optimizer = optim.build_optimizer(
            scene.parameter_groups(),
            optimizer_config or optim.Config(),
            learning_rates=scene.learning_rates(),
            total_steps=steps,
            owner=scene,
        )
    return RunState(scene, optimizer, seed, guidances=tuple(guidances))


def _own_seed(seed: int, index: int) -> int:
    """Two guidances of one kind draw from streams of the same name: the second gets another seed."""
    return seed if index == 0 else derive_seed(seed, "guidance", index)


def _weighted(signals: Mapping[int, Signal], weights: Mapping[int, float], step: int) -> Tensor:
    if not signals:
        raise UserError(f"nothing drives step {step}: the weight of every guidance is 0 there")
    return torch.stack([weights[index] * signal.loss for index, signal in signals.items()]).sum()


def _metrics(
    loss: Tensor,
    signals: Mapping[int, Signal],
    terms: Mapping[str, float],
    changes: Mapping[str, float],
    seconds: float,
) -> dict[str, float]:
    """The numbers of a step under flat names; a second guidance's are prefixed with its place."""
    metrics = {"loss": loss.item(), "seconds": seconds}
    for index, signal in signals.items():
        prefix = "guidance" if index == 0 else f"guidance{index}"
        metrics.update({f"{prefix}/{name}": float(value) for name, value in signal.metrics.items()})
    metrics.update({name: float(value) for name, value in [*terms.items(), *changes.items()]})
    return metrics
