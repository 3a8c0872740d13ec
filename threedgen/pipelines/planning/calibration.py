"""How long a command takes on this machine, from the same command with few steps; kept for the next time.

Schedules, refinements and previews follow shares of a run, so that a run of few steps is the whole run in small:
its steps cost as much on average, and so do its files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedgen.core import cache, inside, machine
from threedgen.core.atomic import store
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.export.report import versions
from threedgen.guidance.priors.executors.executor import SHORTEST
from threedgen.guidance.priors.load import THINGS
from threedgen.jobs.listeners import metrics
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.load import read_resolved
from threedgen.recipes.recipe import WHOLE_RUN, Recipe

_SHARE, _FEWEST, _MOST = 8, 12, 60  # of the steps of the run; steps of each stage at least; steps at most
_LONGEST = 300.0  # seconds before a calibration is given up
_KEPT = 1 << 20  # bytes of calibrations on disk
_STEPS = "distilling"  # the phase of the steps in a report


@dataclass(frozen=True)
class Calibration:
    """What a short run took.

    steps: seconds of a step of each stage. once: seconds of each phase that do not depend on the number of steps.
    peak: bytes of memory. gpu_peak: bytes on the GPU, 0 without one.
    """

    steps: tuple[float, ...]
    once: Mapping[str, float]
    peak: int
    gpu_peak: int

    def seconds(self, recipe: Recipe) -> dict[str, float]:
        """The seconds of each phase of a whole run."""
        stages = recipe.all_stages
        spent = sum(each * stage.steps for each, stage in zip(self.steps, stages, strict=True))
        return {**self.once, _STEPS: self.once.get(_STEPS, 0.0) + spent}


def known(recipe: Recipe, device: str) -> Calibration | None:
    """The calibration that an earlier plan left for runs like this one on this machine; None if there is none."""
    path = _path(recipe, device)
    try:
        values = parse_json(inside.read_text(path, inside.DOCUMENT)) if path is not None else None
        if values is None:
            return None
        found = Calibration(**{**values, "steps": tuple(values["steps"])})
        found.seconds(recipe)
    except (OSError, UserError, ValueError, TypeError, KeyError, AttributeError):
        return None  # there is none, or one of another version
    return found


def calibrate(recipe: Recipe, device: str, words: Sequence[str]) -> Calibration:
    """Runs the command `words` with few steps in another process and keeps what it took.

    recipe: that of the command. Raises UserError if the command fails or takes longer than five minutes.
    """
    fewest = min(recipe.steps, max(recipe.steps // _SHARE, _FEWEST * len(recipe.all_stages)))
    steps = str(min(recipe.steps, max(min(fewest, _MOST), len(recipe.all_stages))))
    found, executors = _measured([*words, "--steps", steps])
    shortened = any("fewer than" in str(one.get("why")) for one in executors)
    if shortened and recipe.steps >= SHORTEST:
        # The whole run is long enough for a compiled network, and the short one was not.
        found, _ = _measured([*words, *_compiled(recipe), "--steps", steps])
    path = _path(recipe, device)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            store(path, json.dumps(dataclasses.asdict(found)).encode())
        except (OSError, UserError):
            return found  # it is made again the next time
        cache.prune(path.parent, "*.json", _KEPT)
    return found


def _measured(words: Sequence[str]) -> tuple[Calibration, Sequence[Mapping[str, Any]]]:
    """What a command took, and how its priors were computed."""
    with tempfile.TemporaryDirectory(prefix="threedgen-plan-") as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "threedgen", *words, "--out", str(out)]
        environment = {**os.environ, "WANDB_MODE": "disabled"}
        try:
            ended = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_LONGEST, check=False
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"the command takes longer than {_LONGEST:.0f} s even with few steps") from None
        if ended.returncode != 0:
            last = (ended.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            raise UserError(f"the command fails with few steps: {last.removeprefix('threedgen: ')}")
        run = RunDirectory.open(out)
        report = parse_json(inside.read_text(run.report, inside.DOCUMENT))
        stages = [stage.steps for stage in read_resolved(run.recipe).all_stages]
        rows = [row.get("seconds") or 0.0 for row in metrics.read(run.metrics)]
    once = {phase: spent for phase, spent in report["seconds"].items() if phase != "total"}
    means = list(_means(rows, stages))
    spent = sum(mean * count for mean, count in zip(means, stages, strict=True))
    once[_STEPS] = max(0.0, once[_STEPS] - spent)  # warming up, previews and checkpoints
    gpu = report.get("gpu") or {}
    peaks = report["peak_memory_bytes"] or 0, gpu.get("peak_memory_bytes", 0)
    return Calibration(tuple(means), once, *peaks), report["executors"]


def _means(rows: Sequence[float], stages: Sequence[int]) -> Iterator[float]:
    """Seconds of a step of each stage, without its first, which loads and compiles."""
    start = 0
    for count in stages:
        own = rows[start : start + count]
        start += count
        later = own[1:] or own
        yield sum(later) / max(1, len(later))


def _compiled(recipe: Recipe) -> Iterator[str]:
    """Settings that compile every network that a longer run compiles by itself."""
    for number, stage in enumerate(recipe.all_stages):
        place = f"stages.{number}." if recipe.stages else ""
        for index, guide in enumerate(stage.resolved["guidance"]):
            prior = guide.get("prior") or {}
            if prior.get("executor") == "auto" and prior["name"] != THINGS:
                yield f"{place}guidance.{index}.prior.executor=openvino"


def _path(recipe: Recipe, device: str) -> Path | None:
    import torch

    folder = cache.user_folder("calibrations")
    if folder is None:
        return None
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    here = [machine.processor(), os.cpu_count(), torch.get_num_threads(), gpu, versions()]
    kinds = [_kind(stage.resolved) for stage in recipe.all_stages]
    text = json.dumps([here, recipe.fixed["export"].config, kinds], sort_keys=True, default=str)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _kind(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What of a stage says how long a step takes: not its prompt, its seed and its number of steps."""
    return {key: value for key, value in resolved.items() if key not in (*WHOLE_RUN, "steps")}
