"""A recipe becomes a run: builds the components, runs the loop with its listeners, finishes, or resumes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from threedgen import checkpoint, config, finish, machine
from threedgen.config import Recipe
from threedgen.distill import distill, new_state
from threedgen.errors import UserError
from threedgen.events import Emitter, Listener, PhaseStarted
from threedgen.listeners import metrics
from threedgen.listeners.checkpoints import Checkpoints, load, save
from threedgen.listeners.metrics import MetricsFile
from threedgen.listeners.previews import Previews
from threedgen.listeners.watchdog import Diverged, Watchdog
from threedgen.reads import ReadCheck
from threedgen.run import RunDirectory, check_free
from threedgen.state import RunState


@dataclass(frozen=True)
class Parts:
    """The components of a recipe, built."""

    scene: Any
    renderer: Any
    cameras: Any
    background: Any
    guidances: tuple[Any, ...]
    regularizers: Any


def build(recipe: Recipe, device: str, blank: bool = False) -> Parts:
    """Every component of a recipe, cheap ones first, so that what is wrong with them is said at once.

    blank: the scene is about to be loaded from a checkpoint, see `_blank_scene`.
    """
    scene = (_blank_scene(recipe) if blank else recipe.representation.make(recipe.seed)).to(device)
    renderer = recipe.renderer.make()
    fixed = recipe.fixed
    parts = [fixed[key].make() for key in ("cameras", "background", "regularizers")]
    guidances = tuple(choice.make(device) for choice in recipe.guidance)
    return Parts(scene, renderer, parts[0], parts[1], guidances, parts[2])


def start(recipe: Recipe, out: Path, listeners: Sequence[Listener] = ()) -> RunDirectory:
    """Runs `recipe` into the new folder `out`. Raises UserError for everything a user can put right.

    The folder appears only when every component is built; it is as before when not one step could be done.
    """
    check_free(out)
    device = machine.choose_device(recipe.device)
    clock = _Clock(Emitter(tuple(listeners)))
    clock.begin("loading the prior")
    parts = build(recipe, device)
    state = _state(recipe, parts)
    run = RunDirectory.create(out, recipe.resolved)
    try:
        _go_on(recipe, run, parts, state, listeners, clock)
    except UserError:
        if not run.metrics.is_file() or run.metrics.stat().st_size == 0:
            run.discard()  # nothing in it is worth keeping
        raise
    return run


def resume(run: RunDirectory, listeners: Sequence[Listener] = (), device: str | None = None) -> list[str]:
    """Goes on with a run from its last checkpoint (or from the start) and finishes it; returns warnings."""
    recipe = config.read_resolved(run.recipe)
    if device is not None:
        recipe = dataclasses.replace(recipe, device=device)
    clock = _Clock(Emitter(tuple(listeners)))
    clock.begin("loading the prior")
    started = checkpoint.exists(run.checkpoint)
    parts = build(recipe, machine.choose_device(recipe.device), blank=started)
    state = _state(recipe, parts)
    warnings = []
    if started:
        threads = load(run.checkpoint, state)
        clock.add("distilling", metrics.seconds(run.metrics, state.step))
        if threads not in (0, torch.get_num_threads()):
            warnings.append(
                f"the run was computed with {threads} threads and goes on with {torch.get_num_threads()}: "
                "its last bits may differ from an uninterrupted run's (set OMP_NUM_THREADS to repeat them)"
            )
    _go_on(recipe, run, parts, state, listeners, clock)
    return warnings


def load_scene(run: RunDirectory, recipe: Recipe) -> Any:
    """The scene of a run as its last checkpoint has it, on the CPU, without the prior."""
    if not checkpoint.exists(run.checkpoint):
        raise UserError(f"'{run.path}' has no checkpoint yet: `threedgen resume {run.path}` first")
    scene = _blank_scene(recipe)
    tensors, _ = checkpoint.load(run.checkpoint)
    scene.load_state_dict(checkpoint.unprefixed("scene", tensors))
    return scene


def _blank_scene(recipe: Recipe) -> Any:
    """A scene to load a state into. A representation that would read files to begin with (points of a mesh)
    offers `blank` so that a run needs nothing but its own folder."""
    choice = recipe.representation
    blank = getattr(choice.cls, "blank", None)
    return choice.make(recipe.seed) if blank is None else blank(choice.config)


def _state(recipe: Recipe, parts: Parts) -> RunState:
    return new_state(
        parts.scene,
        parts.guidances,
        steps=recipe.steps,
        seed=recipe.seed,
        optimizer_config=recipe.fixed["optimizer"].config,
    )


def _go_on(
    recipe: Recipe,
    run: RunDirectory,
    parts: Parts,
    state: RunState,
    listeners: Sequence[Listener],
    clock: _Clock,
) -> None:
    saver = Checkpoints(recipe.fixed["checkpoint"].config, run.checkpoint, recipe.steps)
    mine: list[Listener] = [
        # Snapshots in memory where checkpoints are on disk: a rollback after a resume goes back as far.
        Watchdog(saver.every),
        ReadCheck(recipe),
        MetricsFile(run.metrics),
        Previews(recipe.fixed["preview"].config, run.previews, recipe.steps),
        saver,
    ]
    clock.begin("distilling")
    try:
        distill(
            parts.scene,
            parts.renderer,
            parts.cameras,
            parts.guidances,
            recipe.prompt,
            steps=recipe.steps,
            weights=[choice.weight for choice in recipe.guidance],
            background=parts.background,
            regularizers=parts.regularizers,
            listeners=[*mine, *listeners],
            state=state,
        )
        facts = finish.write_assets(recipe, run, parts, clock.begin)
        finish.write_report(recipe, run, facts, clock.stop())
    except Diverged:
        save(run.checkpoint, state)
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.path) from None  # for whoever says how to go on


class _Clock:
    """Seconds a phase; each beginning is announced to the listeners."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._seconds: dict[str, float] = {}
        self._phase: str | None = None
        self._since = 0.0

    def begin(self, phase: str) -> None:
        self.stop()
        self._phase, self._since = phase, time.perf_counter()
        self._emit(PhaseStarted(phase))

    def stop(self) -> dict[str, float]:
        if self._phase is not None:
            self.add(self._phase, time.perf_counter() - self._since)
            self._phase = None
        return self._seconds

    def add(self, phase: str, seconds: float) -> None:
        """Time that another process, or this one, spent in a phase."""
        self._seconds[phase] = round(self._seconds.get(phase, 0.0) + seconds, 3)
