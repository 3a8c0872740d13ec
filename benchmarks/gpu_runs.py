"""Whole runs on a device: density control, the same run twice, every job, a run that is killed, and what fails."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gpu_blocks import Block, Place, command, ended
from looks import both

from threedgen.cameras.orbit import OrbitSampler
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.guidance.priors.load import PriorConfig
from threedgen.guidance.score_distillation import ScoreDistillation
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.distill import distill
from threedgen.metrics.shape_world import score_asset
from threedgen.renderers import backends
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations.density_control import Config as Density
from threedgen.representations.gaussians import Gaussians

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import splatting_scenes  # pyright: ignore[reportMissingImports]
from faults.kills import write_inputs  # pyright: ignore[reportMissingImports]

_COUNTS, _DECIBELS, _IOU = 0.10, 0.5, 0.97


class Pictures:
    """A guidance: the squared distance to the pictures of a cloud, as the native kernels or torch draw them."""

    def __init__(self) -> None:
        self.cloud, self.renderer = (
            splatting_scenes.random_cloud(60, 0, seed=7, size=0.15),
            SplattingRenderer(),
        )
        self.psnr = math.nan

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        with torch.no_grad():
            truth = self.renderer(self.cloud, cameras.to("cpu"), torch.ones(3)).rgb.to(output.rgb)
        square = (output.rgb - truth).square()
        self.psnr = -10.0 * math.log10(max(float(square.detach().mean()), 1e-10))
        return Signal(20.0 * square.sum() / len(cameras), {"psnr": self.psnr})


def density_control(place: Place) -> Block:
    """The same fit by the backend of the device and by the native kernels (on the CPU: by these and by torch)."""
    block, found = Block(), {}
    own = backends.choose("splatting", "auto", place.device)
    other = ("native", "cpu") if place.on_gpu else ("torch", "cpu")
    steps, size = (40, 20) if place.small else (400, 64)
    for name, device in ((own, place.device), other):
        density = Density(refinements=4, begin=0.2, grow=1.5, max_count=2000 if place.small else 20_000)
        scene = Gaussians(Gaussians.Config(count=150 if place.small else 2000, density=density)).to(device)
        renderer = SplattingRenderer(SplattingRenderer.Config(backend=name))
        cameras = OrbitSampler(OrbitSampler.Config(batch=2, resolution=size))
        pictures = Pictures()
        distill(scene, renderer, cameras, (pictures,), "", steps=steps, background=_white)
        found[f"{name} on {device}"] = (len(scene.at().means), pictures.psnr)
    block.measured["Gaussians and PSNR"] = found
    (count, psnr), (wanted, reference) = found.values()
    block.must(wanted > 0, "nothing is left")
    block.at_most("difference of the counts", abs(count - wanted) / max(wanted, 1), _COUNTS)
    block.at_most("difference of PSNR, dB", abs(psnr - reference), _DECIBELS)
    return block


def _white(seed: int, step: int) -> torch.Tensor:
    return torch.ones(3)


def the_same_twice(place: Place) -> Block:
    """A distillation twice with one seed. Equal bits are promised on the CPU only; a GPU's spread is measured."""
    block, ends = Block(), []
    guide = ScoreDistillation(
        ScoreDistillation.Config(prior=PriorConfig(executor="eager")), torch.device(place.device)
    )
    for _ in range(2):
        scene = Gaussians(Gaussians.Config(count=200)).to(place.device)
        cameras = OrbitSampler(OrbitSampler.Config(batch=2, resolution=32))
        steps = 2 if place.small else 50
        distill(scene, SplattingRenderer(), cameras, (guide,), "a red cube", steps=steps)
        ends.append({name: value.cpu() for name, value in scene.state_dict().items()})
    first, second = ends
    alike = {name: first[name].shape == second[name].shape for name in first}
    finite = all(value.isfinite().all() for value in first.values())
    block.must(finite, "a parameter is not finite")
    block.measured["same numbers of Gaussians"] = all(alike.values())
    block.measured["largest difference"] = {
        name: max((first[name].double() - second[name].double()).abs().flatten().tolist(), default=0.0)
        for name, same in alike.items()
        if same
    }
    if not place.on_gpu:
        block.must(all(torch.equal(first[name], second[name]) for name in first), "the bits differ")
    return block


def runs(place: Place) -> Block:
    """Each job as a command, one of them killed and resumed, and how well the red cube is made."""
    block = Block()
    inputs = place.work / "inputs"
    write_inputs(inputs)
    short = ("--device", place.device, "--steps", "12", "checkpoint.every=2")
    jobs: dict[str, tuple[str, ...]] = {"fit": ("fit", str(inputs / "box.obj"), *short)}
    if not place.small:
        jobs |= {
            "text-to-3d": ("text-to-3d", "a penguin", *short),
            "text-to-3d of solids": ("text-to-3d", "a red cube", "--recipe", "sds", *short),
            "image-to-3d": ("image-to-3d", str(inputs / "ball.png"), *short),
            "text-to-4d": ("text-to-4d", "a red cube bouncing", *short),
        }
    for name, words in jobs.items():
        out = place.work / name.replace(" ", "-")
        began = place.now()
        found = _killed([*words, "--out", str(out)], out)
        block.must(found, f"{name}: it ended before it had a checkpoint, so that nothing was killed")
        status, errors = ended(["resume", str(out)])
        block.must(status == 0, f"{name}: resumed after SIGKILL, it ends with {status}: {errors[-300:]}")
        block.must(bool(list(out.glob("a*.glb"))), f"{name}: it leaves no mesh")
        block.measured[f"{name}, killed and resumed, seconds"] = place.now() - began
    if not place.small:
        out = place.work / "cube"
        words = ["text-to-3d", "a red cube", "--recipe", "sds", "--device", place.device, "--out", str(out)]
        status, errors = ended(words)
        block.must(status == 0, f"the red cube ends with {status}: {errors[-300:]}")
        scores = score_asset(both(out)[1], "cube", "red")
        block.measured["red cube"] = {"iou": scores.iou, "psnr": scores.psnr}
        block.must(scores.iou >= _IOU, f"the red cube has an IoU of {scores.iou:.3f}, less than {_IOU}")
    return block


def _killed(words: list[str], out: Path) -> bool:
    """Kills a command as soon as its run has a checkpoint; whether it was still at work then."""
    process = command(words)
    state = RunDirectory(out).checkpoint / "state.json"
    while process.poll() is None and not state.is_file():
        time.sleep(0.01)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


_HIDE_GSPLAT = (
    "import importlib.util as u\nfind = u.find_spec\n"
    "u.find_spec = lambda name, *rest: None if name.startswith('gsplat') else find(name, *rest)"
)
_HIDE_GPU = "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = ''"
_LITTLE = "import torch\ntorch.cuda.set_per_process_memory_fraction(0.002)"


def failures(place: Place) -> Block:
    """What a user meets when something is missing: status 2 and one line that names it."""
    block = Block()
    cube = [
        "text-to-3d",
        "a red cube",
        "--recipe",
        "sds",
        "--steps",
        "2",
        "--out",
        str(place.work / "failed"),
    ]
    here = [*cube, "--device", place.device]
    cases: dict[str, tuple[list[str], str, str]] = {
        "no device": ([*cube, "--device", "cuda"], _HIDE_GPU, "--device cuda"),
        "gsplat hidden": ([*here, "renderer.backend=gsplat"], _HIDE_GSPLAT, "gsplat"),
    }
    if place.on_gpu:
        cases["out of memory"] = ([*here, "cameras.resolution=1024"], _LITTLE, "out of memory")
    for name, (words, before, said) in cases.items():
        status, errors = ended(words, before)
        lines = errors.strip().splitlines()[-1:]  # before it are the notes of a run that has begun
        block.must(status == 2, f"{name}: it ends with {status}: {errors[-300:]}")
        named = any(line.startswith("threedgen: ") and said in line for line in lines)
        block.must(named, f"{name}: no line names it: {errors[-300:]}")
        block.must("Traceback" not in errors, f"{name}: there is a traceback")
        block.measured[name] = lines
    return block


BLOCKS: dict[str, Any] = {
    "density control": density_control,
    "the same twice": the_same_twice,
    "runs": runs,
    "failures": failures,
}
