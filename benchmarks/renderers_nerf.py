"""NeRF rows of benchmarks/renderers.py: fused plane sampling and ray marching against plain torch.

Seconds are the CPU time of one thread, medians of interleaved runs; the second thread is measured in wall time and
says nothing on a busy machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import RadianceField
from threedgen.kernels.plane_sampling import sample_planes, sample_planes_torch
from threedgen.renderers.volume import VolumeRenderer
from threedgen.representations import triplane

TITLE = "NeRF: forward + backward"
HEADER = ("what", "plain torch, ms", "native, ms", "ratio", "wanted", "2 threads (wall)")


def sampling(points: int = 1 << 20, channels: int = 32, resolution: int = 128) -> list[str]:
    """Points along rays, 64 a ray, as a renderer asks for them."""
    draw = torch.Generator().manual_seed(0)
    planes = torch.randn(3, resolution, resolution, channels, generator=draw).requires_grad_()
    start, way = torch.randn(2, points // 64, 1, 3, generator=draw)
    way = torch.nn.functional.normalize(way, dim=-1)
    places = (0.3 * start + way * torch.linspace(-0.8, 0.8, 64)[:, None]).clamp(-1, 1).reshape(-1, 3)
    cotangent = torch.randn(points, 3, channels, generator=draw)

    def run(sample: Callable[[Tensor, Tensor], Tensor]) -> None:
        torch.autograd.grad(sample(planes, places), planes, cotangent)

    name = f"planes 3 x {resolution}^2 x {channels}, {points / 1e6:.0f}M points"
    return _row(name, lambda: run(sample_planes_torch), lambda: run(sample_planes), 6.0)


def view(size: int = 64, samples: int = 64, occupied: float = 0.2) -> list[str]:
    """One view of a triplane whose matter fills a share of the box; both sides skip the rest."""
    scene = triplane.Triplane(triplane.Config(resolution=128, channels=32, hidden=64))
    cells = (torch.arange(64) + 0.5) / 32 - 1
    grid = torch.stack(torch.meshgrid(cells, cells, cells, indexing="ij"), dim=-1)
    field = scene.at()
    radius = (occupied * 8 * 3 / (4 * torch.pi)) ** (1 / 3)
    field = RadianceField(field.query, field.bounds, grid.norm(dim=-1) < radius)
    angle = torch.tensor([25.0])
    cameras = orbit(angle, angle, torch.tensor([3.2]), 40.0, size, size)
    weight = torch.randn(1, size, size, 3, generator=torch.Generator().manual_seed(0))

    def run(backend: str, sample: Callable[[Tensor, Tensor], Tensor]) -> None:
        # No early stop: both sides ask for the same samples.
        renderer = VolumeRenderer(
            VolumeRenderer.Config(backend=backend, samples=round(samples * 3**0.5), early_stop=0.0)
        )
        with mock.patch.object(triplane, "sample_planes", sample):
            output = renderer(field, cameras, torch.ones(3))
            torch.autograd.grad((output.rgb * weight).sum(), list(scene.parameters()))

    name = f"{size}^2 view, {samples} samples, {100 * occupied:.0f} % occupied"
    return _row(name, lambda: run("torch", sample_planes_torch), lambda: run("native", sample_planes), 1.8)


def rows() -> list[list[str]]:
    """One row of cells a claim, under HEADER."""
    return [sampling(), view()]


def _row(name: str, plain: Callable[[], None], native: Callable[[], None], wanted: float) -> list[str]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        native()
        runs = [(_seconds(plain), _seconds(native)) for _ in range(3)]
        slow, fast = (statistics.median(pair[side][0] for pair in runs) for side in (0, 1))
        one = statistics.median(pair[1][1] for pair in runs)
        torch.set_num_threads(2)
        native()
        two = statistics.median(_seconds(native)[1] for _ in range(3))
    finally:
        torch.set_num_threads(before)
    cells = [f"{slow * 1e3:.0f}", f"{fast * 1e3:.0f}", f"{slow / fast:.1f}", f">= {wanted}"]
    return [name, *cells, f"{two * 1e3:.0f} ms, {one / two:.2f} x"]


def _seconds(call: Callable[[], None]) -> tuple[float, float]:
    """CPU seconds of this thread and wall seconds."""
    cpu, wall = time.thread_time(), time.perf_counter()
    call()
    return time.thread_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    print(" | ".join(HEADER))
    for cells in rows():
        print(" | ".join(cells))
