"""Splatting speed: the native kernels against the torch twin and against the least work that could be done.

    python benchmarks/splatting.py [--quick] [--no-twin]

Scenes (one view, SH degree 0, picture, alpha and depth, gradients of everything): "shell" is a trained-like surface
(flat opaque Gaussians on a sphere), "ball" a volume at its initialisation (opacity 0.1).

The floor is counted in the scene that is rendered and timed in the same run:
  blocks x seconds a block + bytes / bandwidth.
A block is 4x4 pixels of one Gaussian, of those that its ellipse alpha >= 1/255 meets while the block is not yet
opaque. The work on a block is little more than the vector operations that the equations need (about 27 forward and
42 backward); it is timed alone, on data that stays in the first-level cache. Bytes are the compulsory
ones: the cloud is read twice and its gradients written once, pictures written once and their gradients read once;
bandwidth is that of a large copy. Projection, sorting, binning and reductions are not in the floor, so that many
Gaussians on few pixels stay further above it.

One-thread times are the CPU time of that thread (neither other processes nor the waiting of an idle second OpenMP
thread count); two-thread times are wall time, and so is the one-thread time in their ratio: on a busy machine that
ratio says nothing, so the load is printed with it. Medians of interleaved runs.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, GaussianCloud
from threedgen.kernels import _native  # pyright: ignore[reportAttributeAccessIssue]
from threedgen.renderers.backends import native
from threedgen.renderers.backends import torch as twin

FIELDS = ("means", "quats", "scales", "opacities", "sh")


def scene(kind: str, count: int) -> GaussianCloud:
    """shell: discs that cover a sphere of radius 0.8 about three times. ball: the same spacing in its volume."""
    rng = torch.Generator().manual_seed(count)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=1)
    sh = torch.randn(count, 1, 3, generator=rng)
    if kind == "ball":
        radii = 0.8 * torch.rand(count, 1, generator=rng) ** (1 / 3)
        spacing = 0.8 * (4 * math.pi / 3 / count) ** (1 / 3)
        quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1)
        scales = torch.full((count, 3), 0.55 * spacing)
        return GaussianCloud(radii * directions, quats, scales, torch.full((count,), 0.1), sh)
    spacing = 0.8 * math.sqrt(4 * math.pi / count)
    scales = 0.55 * spacing * torch.exp(0.3 * torch.randn(count, 3, generator=rng))
    scales[:, 2] *= 0.1  # flat along the normal
    quats = torch.cat(
        [1 + directions[:, 2:], -directions[:, 1:2], directions[:, :1], torch.zeros(count, 1)], dim=1
    )
    opacities = torch.sigmoid(2 + 1.5 * torch.randn(count, generator=rng))
    return GaussianCloud(0.8 * directions, quats, scales, opacities, sh)


class Case:
    """One scene at one size; a call runs forward and backward and returns the gradients."""

    def __init__(self, kind: str, count: int, size: int) -> None:
        cloud = scene(kind, count)
        self.leaves = [getattr(cloud, name).requires_grad_() for name in FIELDS]
        angle = torch.tensor([25.0])
        self.cameras: Cameras = orbit(angle, angle, torch.tensor([2.6]), 45.0, size, size)
        self.means2d = torch.zeros(1, count, 2, requires_grad=True)
        rng = torch.Generator().manual_seed(0)
        self.cotangents = [torch.randn(1, size, size, channels, generator=rng) for channels in (3, 1, 1)]

    def __call__(self, splat: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        *images, _ = splat(GaussianCloud(*self.leaves), self.cameras, torch.zeros(1, 3), self.means2d)
        return torch.autograd.grad(images, [*self.leaves, self.means2d], self.cotangents)

    def blocks(self) -> int:
        """(4x4 pixel block, Gaussian) pairs of a render, counted by the kernel."""
        return native.count_blocks(GaussianCloud(*self.leaves), self.cameras)

    def bytes(self) -> int:
        cloud = sum(leaf.numel() for leaf in self.leaves)
        return 4 * (3 * cloud + 2 * sum(image.numel() for image in self.cotangents) + self.means2d.numel())


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy much larger than the caches."""
    source, target = torch.ones(1 << 25), torch.zeros(1 << 25)
    seconds = []
    for _ in range(5):
        begin = time.thread_time()
        target.copy_(source)
        seconds.append(time.thread_time() - begin)
    return 2 * source.nbytes / min(seconds)


def block_seconds() -> float:
    """Forward and backward together; the fastest of many short runs, so that no interruption is in it."""
    runs = [_native.splat_block_seconds(count=20000) for _ in range(100)]
    return min(run[0] for run in runs) + min(run[1] for run in runs)


def seconds(case: Case, splat: Callable[..., tuple[Tensor, ...]], threads: int) -> tuple[float, float]:
    """CPU seconds of the calling thread and wall seconds of one forward and backward."""
    torch.set_num_threads(threads)
    cpu, wall = time.thread_time(), time.perf_counter()
    case(splat)
    return time.thread_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one size per count")
    parser.add_argument("--no-twin", action="store_true", help="skip the slow torch twin")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bandwidth, block = copy_bandwidth(), block_seconds()
    table = Table(title="forward + backward, ms")
    for column in (
        "scene",
        "image",
        "N",
        "1 thread (CPU)",
        "floor",
        "x floor",
        "2 threads (wall)",
        "1 / 2 threads",
        "twin",
        "x twin",
    ):
        table.add_column(column, justify="right")
    sizes = {10_000: [128], 50_000: [256], 100_000: [512]}
    for kind in ("shell", "ball"):
        for count in (10_000, 50_000, 100_000):
            for size in sizes[count] if options.quick else (128, 256, 512):
                case = Case(kind, count, size)
                seconds(case, native.splat, 2)
                runs = [[seconds(case, native.splat, threads) for threads in (1, 2)] for _ in range(9)]
                cpu = statistics.median(one[0] for one, _ in runs)
                wall = statistics.median(one[1] for one, _ in runs)
                wall2 = statistics.median(two[1] for _, two in runs)
                floor = case.blocks() * block + case.bytes() / bandwidth
                cells = [kind, f"{size}", f"{count // 1000}k", f"{cpu * 1e3:.1f}", f"{floor * 1e3:.1f}"]
                cells += [f"{cpu / floor:.2f}", f"{wall2 * 1e3:.1f}", f"{wall / wall2:.2f}"]
                if (count, size) == (50_000, 256) and not options.no_twin:
                    slow = seconds(case, twin.splat, 1)[0]
                    cells += [f"{slow * 1e3:.0f}", f"{slow / cpu:.0f}"]
                table.add_row(*cells)
    console = Console(width=130)
    console.print(table)
    console.print(
        f"{native.variants()[0]} kernels; a block takes {block * 1e9:.1f} ns forward and backward; copies run at "
        f"{bandwidth / 1e9:.1f} GB/s; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
