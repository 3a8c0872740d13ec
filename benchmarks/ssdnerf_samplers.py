"""How few steps a trained SSDNeRF needs: its samplers against many steps of DDIM from the same noise.

    python benchmarks/ssdnerf_samplers.py RUN

The error is the mean squared difference of the codes, as a share of their variance between samples; that of the
mean code is the share that says nothing. The one-step sampler has a row where `threedgen train one-step RUN`
was there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from threedgen.ssdnerf.model import load_model
from threedgen.ssdnerf.one_step import DOCUMENT, FOLDER, load_one_step, sample_one_step
from threedgen.ssdnerf.sampling import draw_noise, sample_codes

REFERENCE = 200  # steps of DDIM
ROWS = (("ddim", 5), ("ddim", 10), ("ddim", 20), ("ddim", 50), ("dpm-solver++", 5), ("dpm-solver++", 10))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=16)
    arguments = parser.parse_args()
    model, numbers = load_model(arguments.run), range(arguments.count)
    true = sample_codes(model, numbers, steps=REFERENCE)
    variance = (true - true.mean(0)).square().mean()
    noise = draw_noise(model, numbers, 0)
    print(f"| sampler | share of the variance | ms a sample |\n|---|---|---|\n| ddim {REFERENCE} | 0 | |")

    def row(name: str, sample: Callable[[], Tensor]) -> None:
        begun = time.perf_counter()
        made = sample()
        milliseconds = 1e3 * (time.perf_counter() - begun) / arguments.count
        share = float((made - true).square().mean() / variance)
        print(f"| {name} | {share:.4f} | {milliseconds:.0f} |", flush=True)

    for sampler, steps in ROWS:
        row(f"{sampler} {steps}", lambda s=sampler, n=steps: sample_codes(model, numbers, steps=n, sampler=s))
    if (arguments.run / FOLDER / DOCUMENT).is_file():
        student = load_one_step(model, arguments.run)
        row("one step", lambda: sample_one_step(model, student, noise))
    row("the mean code", lambda: model.codes_of(torch.zeros_like(noise)))


if __name__ == "__main__":
    main()
