"""3D consistency: perfect for a true surface, worse if its colours change from view to view."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, RenderOutput, TriMesh
from threedgen.datasets import world
from threedgen.metrics.consistency import consistency, neighbours
from threedgen.renderers.rasterize import interpolate, rasterize

VIEWS = 12


def ring(size: int = 64, views: int = VIEWS) -> Cameras:
    full = torch.ones(views)
    return orbit(torch.arange(views) * (360.0 / views), 20.0 * full, 2.85 * full, 40.0, size, size)


def seen(mesh: TriMesh, cameras: Cameras) -> RenderOutput:
    """Exact colour and depth at the centre of every pixel, on white."""
    visible = rasterize(mesh, cameras)
    assert mesh.vertex_colors is not None
    alpha = (visible.face_id >= 0).float().unsqueeze(-1)
    depth = alpha / visible.inverse_z.unsqueeze(-1).clamp_min(1e-9)
    return RenderOutput(interpolate(visible, mesh.faces, mesh.vertex_colors) + 1.0 - alpha, alpha, depth)


def car(paint: str) -> TriMesh:
    mesh = world.build(world.canonical("car", "red")).mesh
    colors = (
        torch.full_like(mesh.vertices, 0.4)
        if paint == "plain"
        else 0.5 + 0.4 * torch.sin(3.0 * mesh.vertices)
    )
    return TriMesh(mesh.vertices, mesh.faces, vertex_colors=colors)


@pytest.fixture(scope="module")
def true() -> RenderOutput:
    return seen(car("smooth"), ring())


def test_a_surface_without_texture_is_perfectly_consistent():
    found = consistency(seen(car("plain"), ring()), ring())
    assert found is not None
    assert found.psnr == 100.0
    assert found.error < 1e-6
    assert 0.5 < found.share < 1.0, "some of what a view shows is hidden in the next"


def test_a_coloured_surface_differs_by_resampling_only(true):
    coarse, fine = consistency(true, ring()), consistency(seen(car("smooth"), ring(128)), ring(128))
    assert coarse is not None
    assert fine is not None
    assert coarse.psnr > 38.0
    assert coarse.error < 0.004
    assert fine.psnr > coarse.psnr + 2.0, "resampling changes fine pictures less"
    assert fine.share > coarse.share


def test_views_of_other_colours_are_inconsistent(true):
    rng = torch.Generator().manual_seed(0)
    values = []
    for strength in (0.0, 0.03, 0.1):
        tint = strength * torch.randn(VIEWS, 1, 1, 3, generator=rng)
        found = consistency(replace(true, rgb=(true.rgb + tint).clamp(0, 1)), ring())
        assert found is not None
        values.append(found)
    assert values[0].psnr > values[1].psnr + 3.0 > values[2].psnr + 6.0
    assert values[0].error < values[1].error < values[2].error
    assert values[0].share == values[2].share, "depth decides what can be compared"


def test_views_of_other_objects_share_little(true):
    """Every second view of a car is replaced by one of a chair."""
    other = seen(world.paint(world.canonical("chair", "blue")), ring())
    every_second = (torch.arange(VIEWS) % 2 == 0)[:, None, None, None]
    assert other.depth is not None
    assert true.depth is not None
    mixed = RenderOutput(
        torch.where(every_second, true.rgb, other.rgb),
        torch.where(every_second, true.alpha, other.alpha),
        torch.where(every_second, true.depth, other.depth),
    )
    found, honest = consistency(mixed, ring()), consistency(true, ring())
    assert honest is not None
    assert found is None or found.share < 0.4 * honest.share


def test_depth_is_divided_by_alpha(true):
    """The depth of RenderOutput is a weighted sum, so a thinner surface at the same position has less of it."""
    assert true.depth is not None
    found = consistency(replace(true, alpha=0.97 * true.alpha, depth=0.97 * true.depth), ring())
    honest = consistency(true, ring())
    assert found is not None
    assert honest is not None
    assert found.share == pytest.approx(honest.share, abs=1e-3)
    assert found.psnr == pytest.approx(honest.psnr, abs=0.05)


def test_position_and_size_of_the_world_do_not_matter():
    """The measure does not change under a rigid motion and a scale of cameras and depth together."""
    place = torch.arange(VIEWS).float()
    full = torch.ones(VIEWS)  # with uneven steps no two neighbours are equally near
    cameras = orbit(20.0 * place + place.square(), 20.0 * full, 2.85 * full, 40.0, 64, 64)
    true, scale = seen(car("smooth"), cameras), 3.0
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    turn = turn * torch.linalg.det(turn)
    poses = cameras.world_from_camera.clone()
    poses[:, :3, :3] = turn @ poses[:, :3, :3]
    poses[:, :3, 3] = scale * poses[:, :3, 3] @ turn.T + torch.tensor([5.0, -2.0, 1.0])
    assert true.depth is not None
    moved = consistency(replace(true, depth=scale * true.depth), replace(cameras, world_from_camera=poses))
    here = consistency(true, cameras)
    assert moved is not None
    assert here is not None
    assert moved.psnr == pytest.approx(here.psnr, abs=0.05)
    assert moved.share == pytest.approx(here.share, abs=0.005)


def test_neighbours_are_the_nearest_cameras():
    assert dict(neighbours(ring()[torch.tensor([0, 6, 1, 7])])) == {0: 2, 2: 0, 1: 3, 3: 1}


def test_there_is_no_value_without_depth_or_a_second_view(true):
    assert consistency(replace(true, depth=None), ring()) is None
    one = slice(0, 1)
    assert true.depth is not None
    assert consistency(RenderOutput(true.rgb[one], true.alpha[one], true.depth[one]), ring()[one]) is None
    empty = RenderOutput(
        torch.ones_like(true.rgb), torch.zeros_like(true.alpha), torch.zeros_like(true.depth)
    )
    assert consistency(empty, ring()) is None
