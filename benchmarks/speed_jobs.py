"""The jobs of benchmarks/speed.py that are calls of Python, and what each costs.

    python speed_jobs.py JOB [ARGUMENT ...]

It is run by the interpreters of both versions that are compared, so it uses only what both have. It prints the CPU
seconds of one repetition, the median of several after a first one that is not counted.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from splatting import Case

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras
from threedgen.guidance.priors import guided
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.renderers.backends import native

VIEWS = 8
GUIDED = ("embedded", "embedded-view", "embedded-video")  # the others answer without a second branch


def median(call: Callable[[], object], repeats: int) -> float:
    """CPU seconds of a call."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.process_time()
        call()
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds[1:])


def cameras(count: int, size: int) -> Cameras:
    full = torch.ones(count)
    return orbit(torch.arange(count) * 360.0 / count, 15.0 * full, 2.85 * full, 40.0, size, size)


def guided_pass(name: str) -> float:
    """One call of a prior for VIEWS views (clips of a video prior: one), with both branches if it is guided."""
    prior: Any = load_prior(PriorConfig(name=name))
    draw = torch.Generator().manual_seed(0)
    clip = name == "embedded-video"
    count = 1 if clip else VIEWS
    views = cameras(count, prior.image_size)
    picture = torch.rand(prior.image_size, prior.image_size, 3, generator=draw)
    reference = ReferenceView(picture, azimuth=0.0, elevation=10.0, distance=2.85)
    frames = prior.frames if clip else 1
    z = torch.randn(count, 3 * frames, prior.image_size, prior.image_size, generator=draw)
    t = torch.full((count,), 0.5)
    times = torch.linspace(0.0, 1.0, frames).expand(count, -1) if clip else None
    prior.prepare(["a red cube"])
    begin = getattr(getattr(prior, "executor", None), "begin", None)
    if begin is not None:
        begin(1000)  # as a run of so many steps does

    def call() -> None:
        # A new condition, as in every step: a prior may keep what it rendered for the last one.
        condition = Condition(("a red cube",) * count, cameras=views, reference=reference, times=times)
        guided.branches(prior, z, t, condition, unconditional=name in GUIDED)

    return median(call, 7)


def splatting(kind: str, size: str, count: str) -> float:
    """Forward and backward of benchmarks/splatting.py's scenes."""
    case = Case(kind, int(count), int(size))
    return median(lambda: case(native.splat), 15)


def export(run: str) -> float:
    """Everything that a finished run writes: splats, mesh, turntable, contact sheet."""
    from threedgen.jobs import finish
    from threedgen.jobs.build import build, load_scene
    from threedgen.jobs.run_directory import RunDirectory
    from threedgen.recipes.load import read_resolved

    directory = RunDirectory.open(Path(run))
    recipe = read_resolved(directory.recipe)
    parts = build(recipe, "cpu", load_scene(directory, recipe))
    begin = time.process_time()
    finish.write_assets(recipe, directory, parts, lambda _: None)
    return time.process_time() - begin


def train_prior(kind: str) -> float:
    """One step of a training of a prior with the settings of its command, its batch included, on a small bank.

    A batch of `train prior --kind KIND` has 32 pictures (text: 16), so pictures per core-hour are 3600 times that
    over this number.
    """
    from threedgen.commands.train_prior import KINDS

    with tempfile.TemporaryDirectory() as name:
        few: Any = {"object_scenes": 0, "class_scenes": 0, "assemblies": 24, "shapes": 8}
        config: Any = KINDS[kind](**few) if kind in ("picture", "view") else KINDS[kind]()
        trainer, bank = _PRIORS[kind](config, Path(name))
        return median(lambda: trainer.train_step(trainer.next_batch(bank)), 9)


def _field_prior(config: Any, folder: Path) -> tuple[Any, Any]:
    from threedgen.guidance.priors.load import EMBEDDED_THINGS_WEIGHTS
    from threedgen.training.field_trainer import FieldTrainer
    from threedgen.training.text_reader import TextReader
    from threedgen.training.things_bank import ThingsBank

    bank = ThingsBank(32, 0, ["apple", "mug", "chair", "car"], None, instances=4, scene_count=20)
    return FieldTrainer(config, TextReader(EMBEDDED_THINGS_WEIGHTS), 32, folder), bank


def _picture_prior(config: Any, folder: Path) -> tuple[Any, Any]:
    from threedgen.training.picture_trainer import PictureFieldTrainer
    from threedgen.training.view_bank import ViewBank

    return PictureFieldTrainer(config, 64, folder), ViewBank(config, 64, 0)


def _text_prior(config: Any, folder: Path) -> tuple[Any, Any]:
    from threedgen.training.prior_model import for_size
    from threedgen.training.prior_trainer import PriorTrainer
    from threedgen.training.render_bank import RenderBank

    return PriorTrainer(config, for_size(32), folder), RenderBank(160, 32, 0, config.pair_share)


def _view_prior(config: Any, folder: Path) -> tuple[Any, Any]:
    from threedgen.training.prior_model import for_size
    from threedgen.training.view_bank import ViewBank
    from threedgen.training.view_trainer import ViewTrainer

    return ViewTrainer(config, for_size(32), folder), ViewBank(config, 32, 0)


def _video_prior(config: Any, folder: Path) -> tuple[Any, Any]:
    from threedgen.training.clip_bank import ClipBank
    from threedgen.training.video_model import VideoArchitecture
    from threedgen.training.video_trainer import VideoTrainer

    size, frames = VideoArchitecture.size, VideoArchitecture.frames
    return VideoTrainer(config, VideoArchitecture(), folder), ClipBank(40, size, frames, 0)


_PRIORS = {
    "field": _field_prior,
    "picture": _picture_prior,
    "text": _text_prior,
    "view": _view_prior,
    "video": _video_prior,
}
JOBS = {"guided-pass": guided_pass, "splatting": splatting, "export": export, "train-prior": train_prior}

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(JOBS[sys.argv[1]](*sys.argv[2:]))
