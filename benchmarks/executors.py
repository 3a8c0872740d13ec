"""One guided pass of each network that ships as a UNet: called, and compiled, in turns in one process.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/executors.py [--views 8] [--rounds 15] [--compile]
                                                                  [--markdown FILE]

A pass is both branches of classifier-free guidance for all views, with everything around the network: texts,
cameras, noise and the forms of the prediction. Each compiled network takes turns with the one that is called. The
table has the medians of the rounds in ms of processor time of this process, so that other programs on the machine
count less, and the relative difference of the velocity at t = 0.5.

--compile measures torch.compile instead, with an empty cache: on a tiny Stable Diffusion and on a UNet with half
the widths of Stable Diffusion 1.5 for one view of 32 x 32 latents, both with random weights, and on `embedded`. Its
seconds of compilation are those of this process and of the compilers that it starts, and contain two passes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tables import add_markdown, write_markdown

from threedgen.cameras.orbit import orbit
from threedgen.guidance.priors.adapters.image import DiffusersImagePrior
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.codec import Latents
from threedgen.guidance.priors.executors.executor import Executor
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.priors.guided import Branches, branches
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.priors.processes import NoiseSchedule

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny_pipelines  # pyright: ignore[reportMissingImports]

NAMES = ("embedded", "embedded-view", "embedded-video")
COLUMNS: tuple[dict[str, Any], ...] = ({"dtype": "float32"}, {})  # settings of the compiled priors


def question(prior: Any, views: int) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """A red disc on white, noised: (z, t, condition)."""
    size, frames = prior.image_size, prior.frames
    line = torch.linspace(-1.0, 1.0, size)
    disc = (line[:, None].square() + line.square() < 0.3).float()[..., None]
    picture = disc * torch.tensor([0.8, 0.2, 0.1]) + 1.0 - disc
    x = prior.encode(picture.expand(views * frames, -1, -1, -1))
    t = torch.full((views,), 0.5)
    azimuths, ones = torch.arange(views) * (360.0 / views), torch.ones(views)
    condition = Condition(
        ("a red cube bouncing",) * views,
        cameras=orbit(azimuths, 15.0 * ones, 2.85 * ones, 40.0, size, size),
        reference=ReferenceView(picture, 0.0, 15.0, 2.85),
        times=torch.linspace(0.0, 1.0, frames).expand(views, -1),
    )
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return prior.add_noise(x, eps, t), t, condition


def measure(name: str, views: int, rounds: int) -> str:
    """The row of one prior."""
    called = load_prior(PriorConfig(name=name, executor="eager"))
    z, t, condition = question(called, views)

    def ask(prior: Any) -> Branches:
        return branches(prior, z, t, condition, unconditional=True)

    exact = ask(called).conditional.v
    row = f"| `{name}` |"
    for settings in COLUMNS:
        prior: Any = load_prior(PriorConfig(name=name, executor="openvino", **settings))
        error = float((ask(prior).conditional.v - exact).norm() / exact.norm())
        before, after = in_turns(lambda: ask(called), lambda prior=prior: ask(prior), rounds)
        way = prior.executor.used[0].get("precision", "called")
        row += f" {way}: {before:.0f} to {after:.0f} ({after / before:.2f}x, difference {error:.1e}) |"
    return row


def in_turns(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """The medians of the ms of processor time of both."""

    def seconds(once: Callable[[], Any]) -> float:
        started = time.process_time()
        once()
        return time.process_time() - started

    pairs = [(seconds(first), seconds(second)) for _ in range(rounds)]
    before, after = (1e3 * statistics.median(values) for values in zip(*pairs, strict=True))
    return before, after


def measure_compile(name: str, prior: Any, views: int, rounds: int) -> str:
    """The row of one prior, whose executor is replaced."""
    z, t, condition = question(prior, views)
    called, compiled = (Executor(prior.network, name, choice) for choice in ("eager", "compile"))

    def ask(executor: Executor) -> torch.Tensor:
        prior.executor = executor
        return branches(prior, z, t, condition, unconditional=True).conditional.v

    exact = ask(called)
    started = sum(os.times()[:4])
    answer = ask(compiled)
    spent = sum(os.times()[:4]) - started
    error = float((answer - exact).norm() / exact.norm())
    before, after = in_turns(lambda: ask(called), lambda: ask(compiled), rounds)
    way = compiled.used[0]["executor"]
    return (
        f"| {name}, views: {views} | {before:.0f} | {way}: {after:.0f} ({after / before:.2f}x, "
        f"difference {error:.1e}) | {spent:.0f} |"
    )


def tiny_stable_diffusion() -> Any:
    with tempfile.TemporaryDirectory() as name:
        torch.manual_seed(0)
        tiny_pipelines.stable_diffusion(Path(name))
        prior: Any = load_prior(PriorConfig(path=name, executor="eager"))
        prior.prepare(["a red cube bouncing", ""])
    return prior


def half_size() -> Any:
    """A UNet with half the widths of Stable Diffusion 1.5, with random weights."""
    unet = tiny_pipelines.diffusers().UNet2DConditionModel(
        sample_size=32, block_out_channels=(160, 320, 640, 640), cross_attention_dim=384
    )
    vae = tiny_pipelines.autoencoder()  # halves the sides of a picture
    for network in (unet, vae):
        network.requires_grad_(False).eval()
    states = torch.zeros(77, 384)
    text = TextEmbedder(lambda: lambda texts: {"states": states.expand(len(texts), -1, -1)}, "random")
    unet = unet.to(memory_format=torch.channels_last)
    prior = DiffusersImagePrior(unet, Latents(vae, 64), text, NoiseSchedule.scaled_linear(), "epsilon", 100.0)
    prior.prepare(["a red cube bouncing", ""])
    return prior


def compile_rows(views: int, rounds: int) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        # An empty cache, and compilers started by this process, whose time is then counted.
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": name, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        rows = ["| Network | called, ms | compiled, ms | compilation, s |", "|---|---|---|---|"]
        for title, make, count in (
            ("tiny Stable Diffusion", tiny_stable_diffusion, views),
            ("half of Stable Diffusion 1.5", half_size, 1),
            ("`embedded`", lambda: load_prior(PriorConfig(executor="eager")), views),
        ):
            rows.append(measure_compile(title, make(), count, rounds))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    add_markdown(parser)
    arguments = parser.parse_args()
    if arguments.compile:
        write_markdown(arguments.markdown, "\n".join(compile_rows(arguments.views, arguments.rounds)))
        return
    rows = ["| Prior | `dtype: float32`, ms | as `auto` does, ms |", "|---|---|---|"]
    for name in NAMES:
        rows.append(measure(name, arguments.views, arguments.rounds))
        print(rows[-1], flush=True)
    write_markdown(arguments.markdown, "\n".join(rows))


if __name__ == "__main__":
    main()
