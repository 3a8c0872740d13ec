"""One guided pass of each network that ships as a UNet: called, and compiled, in turns in one process.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/executors.py [--views 8] [--rounds 15] [--markdown FILE]

A pass is both branches of classifier-free guidance for all views, with everything around the network: texts,
cameras, noise and the forms of the prediction. Each compiled network takes turns with the one that is called. The
table has the medians of the rounds in ms of processor time of this process, so that other programs on the machine
count less, and the relative difference of the velocity at t = 0.5.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from tables import add_markdown, write_markdown

from threedgen.cameras.orbit import orbit
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.guided import Branches, branches
from threedgen.guidance.priors.load import PriorConfig, load_prior

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

    def seconds(prior: Any) -> float:
        started = time.process_time()
        ask(prior)
        return time.process_time() - started

    exact = ask(called).conditional.v
    row = f"| `{name}` |"
    for settings in COLUMNS:
        prior: Any = load_prior(PriorConfig(name=name, executor="openvino", **settings))
        error = float((ask(prior).conditional.v - exact).norm() / exact.norm())
        pairs = [(seconds(called), seconds(prior)) for _ in range(rounds)]
        before, after = (1e3 * statistics.median(values) for values in zip(*pairs, strict=True))
        way = prior.executor.used[0].get("precision", "called")
        row += f" {way}: {before:.0f} to {after:.0f} ({after / before:.2f}x, difference {error:.1e}) |"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    add_markdown(parser)
    arguments = parser.parse_args()
    rows = ["| Prior | `dtype: float32`, ms | as `auto` does, ms |", "|---|---|---|"]
    for name in NAMES:
        rows.append(measure(name, arguments.views, arguments.rounds))
        print(rows[-1], flush=True)
    write_markdown(arguments.markdown, "\n".join(rows))


if __name__ == "__main__":
    main()
