"""Mesh rendering speed: the z-buffer against embreex, and a differentiable step against its budget.

`rows()` is what benchmarks/renderers.py prints. One-thread times are CPU time of that thread; the gain of a
second thread is in wall time, which says nothing on a busy machine. Medians of interleaved runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import trimesh

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, TriMesh
from threedgen.renderers.backends import native_mesh
from threedgen.renderers.mesh import MeshRenderer
from threedgen.renderers.mesh_shading import rays, to_camera

TITLE = "Meshes"
HEADER = ("what", "measured", "wanted", "met")
RUNS = 7


def ball(faces: int) -> TriMesh:
    """A rippled sphere of that many faces (of the next finer icosphere, cut off)."""
    level = 0
    while 20 * 4**level < faces:
        level += 1
    body = trimesh.creation.icosphere(subdivisions=level)
    vertices = torch.tensor(np.asarray(body.vertices)).float() * 0.8
    return TriMesh(
        vertices + 0.02 * torch.sin(20 * vertices), torch.tensor(np.asarray(body.faces)).long()[:faces]
    )


def camera(size: int) -> Cameras:
    angle = torch.tensor([25.0])
    return orbit(angle, angle, torch.tensor([2.6]), 45.0, size, size)


def milliseconds(work: Callable[[], object], threads: int = 1) -> tuple[float, float]:
    """CPU time of this thread, and wall time."""
    torch.set_num_threads(threads)
    cpu, wall = time.thread_time(), time.perf_counter()
    work()
    return 1e3 * (time.thread_time() - cpu), 1e3 * (time.perf_counter() - wall)


def medians(works: list[tuple[Callable[[], object], int]]) -> list[tuple[float, float]]:
    """(CPU, wall) of each (work, threads), interleaved."""
    for work, threads in works:
        milliseconds(work, threads)
    runs = [[milliseconds(work, threads) for work, threads in works] for _ in range(RUNS)]
    torch.set_num_threads(1)
    return [
        (statistics.median(run[i][0] for run in runs), statistics.median(run[i][1] for run in runs))
        for i in range(len(works))
    ]


def rows() -> list[list[str]]:
    """One row of cells a claim, under HEADER."""
    return [*_visibility(), *_step()]


def _met(claim: bool) -> str:
    return "yes" if claim else "no"


def _visibility() -> list[list[str]]:
    mesh, view = ball(50_000), camera(512)
    points = to_camera(mesh.vertices, view)

    def zbuffer() -> object:
        return native_mesh.visible_faces(points, mesh.faces, view, False)

    name, wanted = "visibility, 50k faces, 512^2", ">= 5x embreex build + trace"
    found = medians([(zbuffer, 1), (zbuffer, 2)])
    gain = found[0][1] / found[1][1]
    second = ["second thread, visibility (wall)", f"{gain:.2f}x", ">= 1.6x", _met(gain >= 1.6)]
    try:
        from embreex import rtcore_scene  # pyright: ignore[reportMissingImports]
        from embreex.mesh_construction import TriangleMesh  # pyright: ignore[reportMissingImports]
    except ImportError:
        return [[name, f"{found[0][0]:.1f} ms", wanted, "not measured: pip install embreex"], second]
    line, column = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
    directions = torch.stack([*rays(view.intrinsics[0], line, column), torch.ones(512, 512)], dim=-1).view(
        -1, 3
    )
    corners = points[0][mesh.faces].numpy()
    origins, rays_ = np.zeros((512 * 512, 3), np.float32), directions.numpy().astype(np.float32)

    def embree() -> object:
        scene = rtcore_scene.EmbreeScene()  # pyright: ignore[reportAttributeAccessIssue]
        TriangleMesh(scene, corners)
        return scene.run(origins, rays_)

    ((peer, _),) = medians([(embree, 1)])
    own = found[0][0]
    measured = f"{own:.1f} ms, embreex {peer:.0f} ms: {peer / own:.1f}x"
    return [[name, measured, wanted, _met(peer >= 5 * own)], second]


def _step() -> list[list[str]]:
    mesh, view, render = ball(20_480), camera(256), MeshRenderer()
    rng = torch.Generator().manual_seed(0)
    vertices = mesh.vertices.requires_grad_()
    colors = torch.rand(len(vertices), 3, generator=rng).requires_grad_()
    weights = [torch.randn(1, 256, 256, channels, generator=rng) for channels in (3, 1)]
    scene = TriMesh(vertices, mesh.faces, vertex_colors=colors)

    def step() -> object:
        output = render(scene, view, torch.ones(3))
        return torch.autograd.grad([output.rgb, output.alpha], [vertices, colors], weights)

    (own, wall), (_, wall2) = medians([(step, 1), (step, 2)])
    name = "forward + backward, 20k faces, 256^2"
    return [
        [name, f"{own:.1f} ms (1 thread)", "<= 40 ms", _met(own <= 40)],
        ["second thread, forward + backward (wall)", f"{wall / wall2:.2f}x", "", ""],
    ]


if __name__ == "__main__":
    for row in rows():
        print(" | ".join(row))
