"""What a prepared recipe would do and take on this machine: parameters, models, memory, time, and what is wrong."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedgen.core import machine, memory
from threedgen.core.errors import UserError
from threedgen.guidance.priors.load import THINGS, load_prior
from threedgen.jobs.sizes import what_to_lower
from threedgen.loop.optim import check_groups
from threedgen.pipelines.planning.calibration import Calibration, calibrate, known
from threedgen.pipelines.planning.models import Model, models_of, priors_of
from threedgen.pipelines.prepared import Prepared
from threedgen.recipes.checks import never_happening
from threedgen.recipes.recipe import Recipe

_COPIES = 4  # of a parameter in float32: itself, its gradient and the two moments of Adam
_BYTES = 4


@dataclass(frozen=True)
class Group:
    """A group of the optimizer. count: numbers in it. rate: of learning, at the first step."""

    name: str
    count: int
    rate: float


@dataclass(frozen=True)
class Plan:
    """What a command would do.

    groups: of the first stage's optimizer; no_groups: why they are not known, or "". took: the calibration of this
    machine, None if there is none; no_time: why, or "". free: bytes of memory; None if the system does not tell.
    """

    recipe: Recipe
    device: str
    groups: Sequence[Group]
    no_groups: str
    models: Sequence[Model]
    took: Calibration | None
    no_time: str
    free: int | None
    warnings: Sequence[str]

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of memory by part, as far as they can be counted without a run."""
        learnt = _COPIES * _BYTES * sum(group.count for group in self.groups)
        weights = {
            f"{model.name}, {part}": size for model in self.models for part, size in model.parts.items()
        }
        return {**({"what is optimised": learnt} if learnt else {}), **weights}

    @property
    def peak(self) -> int | None:
        """Bytes at the peak on the device, as a short run measured them; None without one."""
        if self.took is None:
            return None
        return (self.took.gpu_peak if self.device == "cuda" else self.took.peak) or None


def plan(prepared: Prepared, words: Sequence[str], calibrating: bool = True) -> Plan:
    """The plan of a recipe, of which nothing is fetched.

    words: the command that prepared it. calibrating: whether a short run measures time and memory if none did
    before and nothing has to be fetched. Raises UserError for what the command itself would refuse.
    """
    recipe = prepared.recipe
    device = machine.choose_device(recipe.device)
    groups, no_groups = _groups(recipe)
    models = models_of(recipe, device)
    took, no_time = known(recipe, device), ""
    if took is None:
        took, no_time = _calibrated(recipe, device, words, models, calibrating)
    free = memory.free_memory(device)
    made = Plan(recipe, device, groups, no_groups, models, took, no_time, free, ())
    return Plan(**{**vars(made), "warnings": tuple(_warnings(made))})


def _calibrated(
    recipe: Recipe, device: str, words: Sequence[str], models: Sequence[Model], calibrating: bool
) -> tuple[Calibration | None, str]:
    """What a short run takes, or why there was none."""
    if any(model.fetch != 0 for model in models):
        return None, "a model has to be fetched first"
    if not calibrating:
        return None, "no run like this was measured on this machine"
    try:
        return calibrate(recipe, device, words), ""
    except UserError as error:
        return None, str(error)


def _groups(recipe: Recipe) -> tuple[list[Group], str]:
    """The groups of the first stage, from its representation as the run begins with it."""
    try:
        scene = recipe.all_stages[0].representation.make(recipe.seed)
        groups = {name: list(parameters) for name, parameters in scene.parameter_groups().items()}
        check_groups(groups, scene.named_parameters())
    except UserError as error:
        return [], str(error)
    except (MemoryError, RuntimeError, ValueError) as error:
        if not memory.ran_out(error):
            raise
        return [], f"{memory.described(error)}; {what_to_lower(recipe, 0, memory.REPRESENTATION)}"
    rates = scene.learning_rates()
    return [
        Group(name, sum(one.numel() for one in members), rates[name]) for name, members in groups.items()
    ], ""


def _warnings(made: Plan) -> Iterator[str]:
    recipe = made.recipe
    if made.peak is not None and made.free is not None and made.peak > made.free:
        lower = what_to_lower(recipe, 0, memory.VIEWS)
        yield f"it needs {made.peak / 1e9:.1f} GB and {made.free / 1e9:.1f} GB are free: {lower}"
    elif made.free is not None and sum(made.parts.values()) > made.free:
        lower = what_to_lower(recipe, 0, memory.REPRESENTATION)
        yield f"what can be counted alone is more than the {made.free / 1e9:.1f} GB that are free: {lower}"
    yield from _unfetchable(made)
    for number, stage in enumerate(recipe.all_stages):
        place = f"stages.{number}" if recipe.stages else ""
        for path, every in never_happening(stage, place):
            yield f"'{path}' is every {every:g} steps of {stage.steps}: it never happens"
    yield from _unknown_words(recipe)


def _unfetchable(made: Plan) -> Iterator[str]:
    fetch = sum(model.fetch or 0 for model in made.models)
    if fetch:
        from huggingface_hub import constants

        place = next(
            folder
            for folder in (Path(constants.HF_HUB_CACHE), *Path(constants.HF_HUB_CACHE).parents)
            if folder.is_dir()
        )
        free = shutil.disk_usage(place).free
        if fetch > free:
            yield f"{fetch / 1e9:.1f} GB have to be fetched and {place} has {free / 1e9:.1f} GB: free some space"


def _unknown_words(recipe: Recipe) -> Iterator[str]:
    """What the embedded prior of things has not learnt of the prompt."""
    for config in priors_of(recipe):
        if config.name == THINGS and not config.path:
            from threedgen.guidance.priors.known_words import report

            prior: Any = load_prior(config)  # a field of texts, which knows its words
            unknown = prior.words.check(recipe.prompt)
            if unknown:
                yield report(unknown)
            return


def lines(made: Plan, prepared: Prepared) -> Iterator[str]:
    """The plan as text."""
    recipe, origin = made.recipe, made.recipe.origin
    about = recipe.resolved.get("description")
    yield f"recipe      {origin.get('recipe', 'of a run')}" + (f": {about}" if about else "")
    stages = " + ".join(str(stage.steps) for stage in recipe.all_stages)
    yield f"run         '{recipe.prompt}', seed {recipe.seed}, {stages} steps on {made.device}"
    yield f"into        {prepared.path}"
    for name, (before, now) in origin.get("changed", {}).items():
        yield f"            {name}: {now} in place of {before}"
    for stage in recipe.all_stages:
        guides = ", ".join(guide.name for guide in stage.guidance)
        yield f"stage       {stage.representation.name}, drawn by {stage.renderer.name}, guided by {guides}"
    if made.groups:
        yield f"parameters  {sum(group.count for group in made.groups):,}"
        yield from (f"            {one.name}: {one.count:,}, rate {one.rate:g}" for one in made.groups)
    else:
        yield f"parameters  not known: {made.no_groups}"
    for model in made.models:
        yield f"model       {model.name}: {_where(model)}"
    yield f"memory      {_peak(made)}"
    yield from (f"            {name}: {_bytes(size)}" for name, size in made.parts.items())
    if made.took is None:
        yield f"time        not known: {made.no_time}"
    else:
        seconds = made.took.seconds(recipe)
        yield f"time        about {_duration(sum(seconds.values()))}"
        yield from (f"            {phase}: {_duration(spent)}" for phase, spent in seconds.items())
    yield from (f"warning     {text}" for text in made.warnings)


def _where(model: Model) -> str:
    if model.fetch is None:
        return f"what has to be fetched is not known: {model.note}"
    if model.fetch:
        return f"{_bytes(model.fetch)} have to be fetched"
    return f"here ({model.note})" if model.note else "here"


def _peak(made: Plan) -> str:
    free = "" if made.free is None else f", {_bytes(made.free)} are free"
    if made.peak is not None:
        return f"about {_bytes(made.peak)} at the peak{free}; of these"
    said = made.recipe.resolved.get("memory")
    return f"the recipe says {said or 'nothing'}{free}; what can be counted"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _duration(seconds: float) -> str:
    if seconds < 600.0:
        return f"{seconds:.{1 if seconds < 100.0 else 0}f} s"
    minutes = math.ceil(seconds / 60.0)
    return f"{minutes} min" if minutes < 100 else f"{seconds / 3600.0:.1f} h"
