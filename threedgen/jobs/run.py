"""A recipe becomes a run: builds the components, runs the loop with its listeners, finishes, or resumes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from threedgen.core import checkpoint, machine
from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.jobs import finish, handover
from threedgen.jobs.build import Components, blank_scene, build, without_scene
from threedgen.jobs.listeners import metrics
from threedgen.jobs.listeners.checkpoints import Checkpoints, load, save, stage_of
from threedgen.jobs.listeners.interruption import Interruption
from threedgen.jobs.listeners.metrics import MetricsFile
from threedgen.jobs.listeners.previews import Previews
from threedgen.jobs.listeners.stillness import Stillness
from threedgen.jobs.run_directory import RunDirectory, check_free
from threedgen.jobs.scores.held_out import held_out_scores
from threedgen.jobs.scores.motion import moving_scores
from threedgen.jobs.scores.reference import reference_scores
from threedgen.loop.distill import distill, new_state
from threedgen.loop.events import Emitter, Listener, PhaseStarted
from threedgen.loop.state import RunState
from threedgen.loop.watchdog import Diverged, Watchdog
from threedgen.recipes.checks import check_recipe
from threedgen.recipes.load import read_resolved
from threedgen.recipes.recipe import Recipe

_NO_FILES: Mapping[str, Path] = MappingProxyType({})


def _check_later_stages(recipe: Recipe) -> None:
    """UserError for what can be known to be wrong with the stages to come before the first step of any."""
    check_recipe(recipe)
    for part in recipe.all_stages[1:]:
        without_scene(part)


def start(
    recipe: Recipe, out: Path, listeners: Sequence[Listener] = (), files: Mapping[str, Path] = _NO_FILES
) -> RunDirectory:
    """Runs `recipe` into the new folder `out`. Raises UserError for everything a user can put right.

    The folder appears only when every component is built; it is as before when not one step could be done.
    files: folders that belong to the run (name in it -> where it is now): they move into it first, because
    components may read them there.
    """
    check_free(out)
    device = machine.choose_device(recipe.device)
    clock = _Clock(Emitter(tuple(listeners)))
    run = RunDirectory.create(out, recipe.resolved, files) if files else None
    try:
        clock.begin("loading the prior")
        _check_later_stages(recipe)
        components = build(recipe.all_stages[0], device)
        state = _state(recipe, 0, components)
        run = run or RunDirectory.create(out, recipe.resolved)
        _run_and_finish(recipe, run, components, state, listeners, clock)
    except UserError:
        if run is not None and (not run.metrics.is_file() or run.metrics.stat().st_size == 0):
            run.discard()  # nothing in it is worth keeping
        raise
    return run


def resume(
    run: RunDirectory,
    listeners: Sequence[Listener] = (),
    device: str | None = None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Continues a run from its last checkpoint (or from the start) and finishes it; returns warnings.

    overrides: `key=value`, for what may change on another machine, such as renderer.backend.
    """
    recipe = read_resolved(run.recipe, overrides)
    if not declared(recipe.representation.cls, RepresentationRoles).learns:
        raise UserError(
            f"'{run.path}' is a composed scene: run the `threedgen compose` command that made it again to continue"
        )
    if device is not None:
        recipe = dataclasses.replace(
            recipe, device=device, stages=tuple(dataclasses.replace(s, device=device) for s in recipe.stages)
        )
    clock = _Clock(Emitter(tuple(listeners)))
    clock.begin("loading the prior")
    device = machine.choose_device(recipe.device)
    _check_later_stages(recipe)
    warnings = []
    if not checkpoint.exists(run.checkpoint):
        components = build(recipe.all_stages[0], device)
        state = _state(recipe, 0, components)
    else:
        stage = stage_of(run.checkpoint)
        components = build(recipe.all_stages[stage], device, blank_scene(recipe.all_stages[stage]))
        state = _state(recipe, stage, components)
        threads = load(run.checkpoint, state)
        clock.add("distilling", metrics.seconds(run.metrics, _steps_before(recipe, stage) + state.step))
        if threads not in (0, torch.get_num_threads()):
            warnings.append(
                f"the run was computed with {threads} threads and continues with {torch.get_num_threads()}: "
                "its last bits may differ from an uninterrupted run's (set OMP_NUM_THREADS to repeat them)"
            )
    _run_and_finish(recipe, run, components, state, listeners, clock)
    return warnings


def _steps_before(recipe: Recipe, stage: int) -> int:
    return sum(part.steps for part in recipe.all_stages[:stage])


def _state(recipe: Recipe, stage: int, components: Components) -> RunState:
    part = recipe.all_stages[stage]
    state = new_state(
        components.scene,
        components.guidances,
        steps=part.steps,
        # Every stage draws anew: the same noise twice would only repeat what was learned from it.
        seed=recipe.seed if stage == 0 else derive_seed(recipe.seed, "stage", stage),
        optimizer_config=part.fixed["optimizer"].config,
    )
    state.stage, state.steps_before = stage, _steps_before(recipe, stage)
    return state


def _run_and_finish(
    recipe: Recipe,
    run: RunDirectory,
    components: Components,
    state: RunState,
    listeners: Sequence[Listener],
    clock: _Clock,
) -> None:
    """The rest of the stages, then the files."""
    try:
        while True:
            stage, count = state.stage, len(recipe.all_stages)
            clock.begin("distilling", "" if count == 1 else f", stage {stage + 1} of {count}")
            _run_stage(recipe, run, components, state, listeners)
            if stage == count - 1:
                break
            clock.begin("preparing the next stage")
            device = machine.choose_device(recipe.device)
            components = build(
                recipe.all_stages[stage + 1], device, handover.next_scene(recipe, stage + 1, components.scene)
            )
            state = _state(recipe, stage + 1, components)
        # Before the files: an animation is written of a scene that was moved to the CPU.
        scores = held_out_scores(components.cameras, components.scene, components.renderer)
        held_out = components.cameras.held_out.tolist() if scores else None
        scores |= reference_scores(
            components.cameras, components.guidances, components.scene, components.renderer
        )
        facts = finish.write_assets(recipe, run, components, clock.begin)
        if held_out is not None:
            facts["held_out_views"] = held_out
        if declared(type(components.scene), RepresentationRoles).moves:
            clock.begin("measuring the motion")
            scores |= moving_scores(finish.moving_asset(recipe, components.scene))
        finish.write_report(recipe, run, facts, scores, clock.stop())
    except Diverged:
        save(run.checkpoint, state)
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.path) from None  # for whoever says how to continue


def _run_stage(
    recipe: Recipe, run: RunDirectory, components: Components, state: RunState, listeners: Sequence[Listener]
) -> None:
    part = recipe.all_stages[state.stage]
    saver = Checkpoints(recipe.fixed["checkpoint"].config, run.checkpoint, part.steps)
    mine: list[Listener] = [
        # Snapshots in memory where checkpoints are on disk: a rollback after a resume goes back as far.
        Watchdog(saver.every),
        MetricsFile(run.metrics),
        Previews(recipe.fixed["preview"].config, run.previews, part.steps),
        Stillness(recipe.prompt, f"stages.{state.stage}." if recipe.stages else ""),
        saver,
    ]
    with Interruption(run.checkpoint) as interruption:
        distill(
            components.scene,
            components.renderer,
            components.cameras,
            components.guidances,
            recipe.prompt,
            steps=part.steps,
            weights=[choice.weight for choice in part.guidance],
            background=components.background,
            regularizers=components.regularizers,
            listeners=[*mine, *listeners, interruption],
            state=state,
        )


class _Clock:
    """Seconds a phase; each beginning is announced to the listeners."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._seconds: dict[str, float] = {}
        self._phase: str | None = None
        self._since = 0.0

    def begin(self, phase: str, detail: str = "") -> None:
        self.stop()
        self._phase, self._since = phase, time.perf_counter()
        self._emit(PhaseStarted(phase + detail))

    def stop(self) -> dict[str, float]:
        if self._phase is not None:
            self.add(self._phase, time.perf_counter() - self._since)
            self._phase = None
        return self._seconds

    def add(self, phase: str, seconds: float) -> None:
        """Time that another process, or this one, spent in a phase."""
        self._seconds[phase] = round(self._seconds.get(phase, 0.0) + seconds, 3)
