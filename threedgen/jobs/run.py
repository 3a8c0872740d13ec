"""Starts and resumes runs: builds the components, runs the loop with its listeners and writes the files."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from threedgen.core import checkpoint, machine, memory, threads
from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.guidance.priors.executors.executor import executors_of, used_by
from threedgen.jobs import handover
from threedgen.jobs.build import Components, blank_scene, build, without_scene
from threedgen.jobs.listeners import metrics
from threedgen.jobs.listeners.checkpoints import Checkpoints, load, save, stage_of
from threedgen.jobs.listeners.interruption import Interruption
from threedgen.jobs.listeners.metrics import MetricsFile
from threedgen.jobs.listeners.notes import Notes
from threedgen.jobs.listeners.previews import Previews
from threedgen.jobs.listeners.stillness import Stillness
from threedgen.jobs.listeners.verdicts import Hopeless, StopWhenHopeless, Verdicts
from threedgen.jobs.lock import holding, is_held, require_held
from threedgen.jobs.run_directory import RunDirectory, check_free
from threedgen.jobs.sizes import what_to_lower
from threedgen.jobs.standing import standing
from threedgen.loop.distill import distill, new_state
from threedgen.loop.events import Emitter, Listener, PhaseStarted
from threedgen.loop.state import RunState
from threedgen.loop.watchdog import Diverged, Watchdog
from threedgen.recipes.checks import check_recipe
from threedgen.recipes.load import read_resolved
from threedgen.recipes.recipe import Recipe
from threedgen.representations.base import Representation

_NO_FILES: Mapping[str, Path] = MappingProxyType({})


def _check_later_stages(recipe: Recipe) -> None:
    """UserError for every mistake in the later stages that can be found before the first step."""
    check_recipe(recipe)
    for stage in recipe.all_stages[1:]:
        without_scene(stage)


def start(
    recipe: Recipe,
    out: Path,
    listeners: Sequence[Listener] = (),
    files: Mapping[str, Path] = _NO_FILES,
    stop_when_hopeless: bool = False,
) -> RunDirectory:
    """Runs `recipe` into the new folder `out`. Raises UserError for every mistake that a user can correct.

    The folder is made when every component is built. If not a single step can be done, it is removed again.
    files: folders that belong to the run (name in the run -> present path). They are moved into it first, because
    components may read them there. stop_when_hopeless: raise Hopeless after a verdict (see listeners.verdicts).
    """
    check_free(out)
    notes = Notes(RunDirectory(out))
    listeners = _also_stopping(listeners, notes, stop_when_hopeless)
    device = machine.choose_device(recipe.device)
    clock = _Clock(Emitter(tuple(listeners)))
    run: RunDirectory | None = None
    with notes.listening(), ExitStack() as held:

        def create() -> RunDirectory:
            held.enter_context(holding(out, partial(standing, out)))
            made = RunDirectory.create(out, recipe.resolved, files, recipe.origin)
            notes.write()
            return made

        try:
            run = create() if files else None
            with _fitting(recipe, out, clock):
                clock.begin("loading the prior")
                _check_later_stages(recipe)
                components = build(recipe.all_stages[0], device)
                state = _state(recipe, 0, components)
                run = run or create()
                _write_sheets(run, components.scene)
                _run_and_finish(recipe, run, components, state, listeners, clock)
        except UserError:
            unused = run is not None and (not run.metrics.is_file() or run.metrics.stat().st_size == 0)
            if run is not None and unused and is_held(out):
                run.discard()  # no step was done, so nothing in it is worth keeping
            raise
    return run


def _also_stopping(listeners: Sequence[Listener], notes: Notes, stop: bool) -> Sequence[Listener]:
    """The listeners, and the one that stops the run after a verdict if it shall."""
    keep = partial(save, notes.run.checkpoint)
    return [*listeners, StopWhenHopeless(notes.verdicts, keep)] if stop else listeners


def _write_sheets(run: RunDirectory, scene: Any) -> None:
    """What a new scene has to show beside itself."""
    from threedgen.export.video import write_contact_sheet

    for name, frames in scene.sheets.items() if isinstance(scene, Representation) else ():
        write_contact_sheet(run.path / f"{name}.png", frames, len(frames))


def resume(
    run: RunDirectory,
    listeners: Sequence[Listener] = (),
    device: str | None = None,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    stop_when_hopeless: bool = False,
) -> list[str]:
    """Continues a run from its last checkpoint, or from the start if there is none, and finishes it.

    device: another one than that of the recipe. overrides: `key=value`, for what may differ on another machine,
    such as renderer.backend. steps: how many the whole run shall have, also if it was finished with fewer; its
    recipe is changed. stop_when_hopeless: as in `start`. Returns warnings. Raises UserError for every
    mistake that a user can correct, and if another process writes into the run.
    """
    notes = Notes(run)
    listeners = _also_stopping(listeners, notes, stop_when_hopeless)
    with notes.listening(), holding(run.path, partial(standing, run.path)):
        if steps is not None:
            _set_steps(run, steps)
        return _resume(run, listeners, device, overrides)


def _set_steps(run: RunDirectory, steps: int) -> None:
    """Changes the number of steps of the whole run by those of its last stage. Raises UserError if as many have
    been done."""
    recipe = read_resolved(run.recipe)
    last = len(recipe.all_stages) - 1
    stage, own = 0, 0
    if checkpoint.exists(run.checkpoint):
        stage, own = stage_of(run.checkpoint, recipe), checkpoint.load_state(run.checkpoint).get("step") or 0
    begun = _steps_before(recipe, last)
    done = _steps_before(recipe, stage) + own
    if steps <= max(begun, done):
        earlier = f", and its stages before the last have {begun}" if begun > done else ""
        raise UserError(
            f"--steps {steps}: '{run.path}' has done {done} steps{earlier}; name the steps of the whole run, "
            "which must be more"
        )
    run.set_steps(steps - begun)


def _resume(
    run: RunDirectory, listeners: Sequence[Listener], device: str | None, overrides: Sequence[str]
) -> list[str]:
    """What `resume` does while this process holds the run."""
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
    with _fitting(recipe, run.path, clock):
        return _continue(recipe, run, listeners, clock)


def _continue(recipe: Recipe, run: RunDirectory, listeners: Sequence[Listener], clock: _Clock) -> list[str]:
    """What of `resume` needs the components of the recipe."""
    clock.begin("loading the prior")
    device = machine.choose_device(recipe.device)
    _check_later_stages(recipe)
    warnings = []
    if not checkpoint.exists(run.checkpoint):
        components = build(recipe.all_stages[0], device)
        state = _state(recipe, 0, components)
    else:
        checkpoint.tidy(run.checkpoint)
        clock.stage = stage = stage_of(run.checkpoint, recipe)
        components = build(recipe.all_stages[stage], device, blank_scene(recipe.all_stages[stage]))
        state = _state(recipe, stage, components)
        before = load(run.checkpoint, state)
        for executor in executors_of(components.guidances):
            executor.begin(recipe.all_stages[stage].steps, before.executors)
        clock.add("distilling", metrics.seconds(run.metrics, _steps_before(recipe, stage) + state.step))
        if threads.may_be(before.threads):
            torch.set_num_threads(before.threads)
        if before.threads not in (0, torch.get_num_threads()):
            warnings.append(
                f"the run was computed with {before.threads} threads and continues with {torch.get_num_threads()}: "
                "its last bits may differ from an uninterrupted run's "
                f"(--threads {before.threads} would repeat them)"
            )
    executors = executors_of(components.guidances)
    if not run.finished:
        run.report.unlink(
            missing_ok=True
        )  # of fewer steps: with it, the run would look finished before it is
    _run_and_finish(recipe, run, components, state, listeners, clock)
    return warnings + [executor.change for executor in executors if executor.change]


def _fitting(recipe: Recipe, path: Path, clock: _Clock) -> AbstractContextManager[None]:
    """Turns memory that runs out into one line: what to change, and where the run in the folder `path` stands."""

    def advice(error: BaseException) -> str:
        change = what_to_lower(recipe, clock.stage, memory.asker(error))
        begun = checkpoint.exists(path / "checkpoint")
        return change + (f" in a new run; {standing(path)} where more is free" if begun else "")

    return memory.in_one_line(advice)


def _steps_before(recipe: Recipe, stage: int) -> int:
    return sum(earlier.steps for earlier in recipe.all_stages[:stage])


def _state(recipe: Recipe, stage: int, components: Components) -> RunState:
    """The state at the beginning of stage `stage`."""
    own = recipe.all_stages[stage]
    state = new_state(
        components.scene,
        components.guidances,
        steps=own.steps,
        # Each stage has its own random draws: the same noise again would only repeat what was learned from it.
        seed=recipe.seed if stage == 0 else derive_seed(recipe.seed, "stage", stage),
        optimizer_config=own.fixed["optimizer"].config,
    )
    state.stage, state.steps_before = stage, _steps_before(recipe, stage)
    for executor in executors_of(components.guidances):
        executor.begin(own.steps)
    return state


def _run_and_finish(
    recipe: Recipe,
    run: RunDirectory,
    components: Components,
    state: RunState,
    listeners: Sequence[Listener],
    clock: _Clock,
) -> None:
    """The remaining steps of this stage, the later stages, and the files."""
    count = len(recipe.all_stages)
    try:
        while True:
            clock.begin("distilling", "" if count == 1 else f", stage {state.stage + 1} of {count}")
            _run_stage(recipe, run, components, state, listeners)
            if state.stage == count - 1:
                break
            clock.begin("preparing the next stage")
            clock.stage = following = state.stage + 1
            executors = [*state.executors, *used_by(components.guidances)]
            scene = handover.next_scene(recipe, following, components.scene)
            components = build(recipe.all_stages[following], machine.choose_device(recipe.device), scene)
            state = _state(recipe, following, components)
            state.executors = executors
        _finish(recipe, run, components, [*state.executors, *used_by(components.guidances)], clock)
    except Hopeless as stopped:
        from threedgen.jobs import finish

        used = [*state.executors, *used_by(components.guidances)]
        finish.write_report(recipe, run, {}, {}, clock.stop(), used, stopped_after=state.steps_in_run)
        raise Hopeless(
            f"{stopped} ({run.page} says why); `threedgen resume {run.path}` goes on all the same"
        ) from stopped
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.path) from None  # the command prints how this run is continued


def _run_stage(
    recipe: Recipe, run: RunDirectory, components: Components, state: RunState, listeners: Sequence[Listener]
) -> None:
    """The remaining steps of one stage."""
    stage = recipe.all_stages[state.stage]
    saver = Checkpoints(recipe.fixed["checkpoint"].config, run.checkpoint, stage.steps)
    own: list[Listener] = [
        lambda event: require_held(run.path),
        # Snapshots in memory at the steps of the checkpoints on disk: a rollback after a resume goes back as far.
        Watchdog(saver.every),
        MetricsFile(run.metrics),
        Previews(recipe.fixed["preview"].config, run.previews, stage.steps),
        Verdicts(recipe.prompt),
        Stillness(recipe.prompt, f"stages.{state.stage}." if recipe.stages else ""),
        saver,
    ]
    try:
        with Interruption(run.checkpoint) as interruption:
            distill(
                components.scene,
                components.renderer,
                components.cameras,
                components.guidances,
                recipe.prompt,
                steps=stage.steps,
                weights=[choice.weight for choice in stage.guidance],
                background=components.background,
                regularizers=components.regularizers,
                listeners=[*own, *listeners, interruption],
                state=state,
            )
    except Diverged:
        save(run.checkpoint, state)
        raise


def _finish(
    recipe: Recipe,
    run: RunDirectory,
    components: Components,
    executors: Sequence[Mapping[str, Any]],
    clock: _Clock,
) -> None:
    """The scores, the files of the asset and the report of a run whose steps are done.

    executors: how the priors of all stages were computed, for the report.
    """
    # Imported here, so that the first step comes sooner.
    from threedgen.jobs import finish
    from threedgen.jobs.scores.held_out import held_out_scores
    from threedgen.jobs.scores.motion import moving_scores
    from threedgen.jobs.scores.reference import reference_scores

    cameras, scene, renderer = components.cameras, components.scene, components.renderer
    # The scores come before the files, because writing an animation moves the scene to the CPU.
    scores = held_out_scores(cameras, scene, renderer)
    held_out = cameras.held_out.tolist() if scores else None
    scores |= reference_scores(cameras, components.guidances, scene, renderer)
    require_held(run.path)
    facts, of_the_mesh = finish.write_assets(recipe, run, components, clock.begin)
    scores |= of_the_mesh
    if held_out is not None:
        facts["held_out_views"] = held_out
    if declared(type(scene), RepresentationRoles).moves:
        clock.begin("measuring the motion")
        scores |= moving_scores(finish.moving_asset(recipe, scene))
    finish.write_report(recipe, run, facts, scores, clock.stop(), executors)


class _Clock:
    """Measures the duration of each phase in seconds and tells the listeners when a phase begins.

    stage: the stage of the recipe that is under way.
    """

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._seconds: dict[str, float] = {}
        self._phase: str | None = None
        self._since = 0.0
        self.stage = 0

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
        """Adds time that this process, or an earlier one, spent in a phase."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
