"""The loop of score distillation. Recipes build its arguments, and listeners get its events.

    distill(scene, renderer, cameras, guidances, prompt="a red cube", steps=300)

It takes any objects that answer the calls below; threedgen.loop.contracts describes them in full:

    scene        nn.Module with at(time) -> primitive, parameter_groups(), learning_rates(), adapt(...)
    renderer     renderer(primitive, cameras, background, rng) -> RenderOutput
    cameras      cameras(seed, step, total) -> Cameras
    guidances    guidance(output, cameras, prompt, step, total, seed) -> Signal
    regularizers regularizers(output, primitive, step, total) -> (loss, metrics)
    background   background(seed, step) -> [3], [B, 3] or [B, H, W, 3]
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed, generator
from threedgen.core.schedule import value_at
from threedgen.core.transfer import Number, read_numbers, sent
from threedgen.core.types import Signal
from threedgen.loop import optim
from threedgen.loop.background import ColorBackground
from threedgen.loop.contracts import (
    Background,
    CameraSampler,
    Guidance,
    Regularizer,
    Renderer,
    Scene,
    Stepper,
)
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
from threedgen.loop.state import RunState
from threedgen.loop.watchdog import Watchdog


def distill(
    scene: Scene,
    renderer: Renderer[Any],
    cameras: CameraSampler,
    guidances: Sequence[Guidance],
    prompt: str,
    *,
    steps: int,
    seed: int = 0,
    weights: Sequence[Any] | None = None,
    background: Background | None = None,
    regularizers: Regularizer | None = None,
    optimizer: Stepper | None = None,
    listeners: Iterable[Listener] | None = None,
    state: RunState | None = None,
) -> RunState:
    """Optimises `scene` until step `steps` and returns the final state.

    seed: every random draw depends on it, the name of the stream and the step alone.
    weights: a number or a schedule for each guidance; None: 1 for each. A guidance is not called while its
    weight is 0. background: None takes a ColorBackground with its defaults. optimizer: None takes Adam with the
    scene's learning rates (see threedgen.loop.optim). listeners: called with every event (see
    threedgen.loop.events); None takes a Watchdog. state: an earlier state of the same run, which continues from
    there; None starts a run at step 0.

    Raises UserError if a parameter of the scene is in no optimizer group, if there are not as many weights as
    guidances, or if every weight is 0 in a step; Diverged if the default Watchdog stops the run.
    """
    state = state or new_state(scene, guidances, steps=steps, seed=seed, optimizer=optimizer)
    emit = Emitter(tuple(listeners) if listeners is not None else (Watchdog(),))
    background = background or ColorBackground(ColorBackground.Config())
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
        behind = background(seed, step)
        output = renderer(primitive, views, sent(behind, device), rng)
        if behind.ndim < 4:
            output = replace(output, background=sent(behind.expand(len(views), 3), device))
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
        metrics, read = _metrics(loss, signals, {**terms, **changes}, time.perf_counter() - started)
        emit(StepDone(state, step, steps, metrics, read, output, views))
    emit(RunFinished(state, steps))
    return state


def new_state(
    scene: Scene,
    guidances: Sequence[Guidance],
    *,
    steps: int,
    seed: int = 0,
    optimizer: Stepper | None = None,
    optimizer_config: optim.Config | None = None,
) -> RunState:
    """The state before the first step of a run of `steps` steps.

    optimizer: None makes Adam with the scene's learning rates and `optimizer_config`. Raises UserError for
    fewer than 1 step, a parameter in no group, or a group without a rate.
    """
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
    """Guidances of one class draw from streams of the same name, so that each but the first gets another seed."""
    return seed if index == 0 else derive_seed(seed, "guidance", index)


def _weighted(signals: Mapping[int, Signal], weights: Mapping[int, float], step: int) -> Tensor:
    if not signals:
        raise UserError(f"nothing drives step {step}: the weight of every guidance is 0 in it")
    return torch.stack([weights[index] * signal.loss for index, signal in signals.items()]).sum()


def _metrics(
    loss: Tensor,
    signals: Mapping[int, Signal],
    others: Mapping[str, Number],
    seconds: float,
) -> tuple[dict[str, float], tuple[Signal, ...]]:
    """The numbers of a step by name, those of a second guidance prefixed with guidance1, and so on; and the signals
    with their own numbers. All are read from the device at once."""
    prefixes = {index: f"guidance{index or ''}/" for index in signals}
    own = {
        f"{prefixes[index]}{name}": value
        for index, signal in signals.items()
        for name, value in signal.metrics.items()
    }
    metrics = read_numbers({"loss": loss, "seconds": seconds, **own, **others})
    read = (
        replace(signal, metrics={name: metrics[prefixes[index] + name] for name in signal.metrics})
        for index, signal in signals.items()
    )
    return metrics, tuple(read)
