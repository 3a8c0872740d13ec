"""A mesh goes along with the points that it was extracted from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.datasets import motions
from threedgen.datasets.solids import rotation_about
from threedgen.export.carrying import carried

MOMENTS = torch.linspace(0.0, 1.0, 5).tolist()


def turn(axis: str, degrees: float) -> Tensor:
    return torch.from_numpy(rotation_about(axis, degrees)).float()


def spread(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, generator=generator(seed, "spread", 0)) - 0.5


LINE = torch.linspace(-0.5, 0.5, 40)[:, None] * torch.tensor([1.0, 2.0, -0.5])
SHAPES = {
    "a cloud": spread(400),
    "a sheet": spread(400) * torch.tensor([1.0, 0.0, 1.0]),
    "a line": LINE,
    "two places": torch.tensor([0.0, 1.0]).repeat(20)[:, None] * torch.tensor([0.3, 0.2, 0.1]),
    "a few": spread(3),
    "one": torch.tensor([[0.1, 0.2, 0.3]]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 180.0, 300.0])
def test_turns_shifts_and_growth_of_the_whole_are_exact(shape: str, degrees: float) -> None:
    points, vertices = SHAPES[shape], spread(300, seed=1)
    whole = len(points) > 40 and shape != "a sheet"
    if not whole:  # nothing says how these turn about themselves, so only what lies on them can be asked for
        vertices = points
    matrix = 1.7 * turn("x", degrees) @ turn("y", 0.5 * degrees)
    shift = torch.tensor([0.5, -1.0, 2.0])
    for scale in (1.0, 0.3):
        seen = carried(vertices, points, (points @ (scale * matrix).T + shift)[None])[0]
        torch.testing.assert_close(seen, vertices @ (scale * matrix).T + shift, atol=1e-5, rtol=0)


def test_what_rests_stays_and_what_turns_about_another_place_is_exact() -> None:
    points, vertices = 3.0 + spread(300), 3.0 + spread(50, seed=1)
    there = carried(vertices, points, torch.stack([points, points @ turn("z", 180.0).T]))
    torch.testing.assert_close(there[0], vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(there[1], vertices @ turn("z", 180.0).T, atol=1e-5, rtol=0)


def on_surface(moving: motions.Moving, count: int, seed: int) -> tuple[Callable[[float], Tensor], Tensor]:
    """Random points on a moving object: where they are at a time, and the joint of each."""
    faces, corners = moving.rest.mesh.faces, moving.rest.mesh.vertices[moving.rest.mesh.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    rng = generator(seed, "surface", 0)
    chosen = faces[torch.multinomial(area, count, replacement=True, generator=rng)]
    share = -torch.rand(count, 3, generator=rng).log()
    share = (share / share.sum(1, keepdim=True))[:, :, None]
    return lambda time: (share * moving.vertices(time)[chosen]).sum(1), moving.joint[chosen[:, 0]]


PAIRS = [(motion, shape) for motion, how in motions.MOTIONS.items() for shape in how.shapes]


@pytest.mark.parametrize(("motion", "shape"), PAIRS)
def test_every_motion_of_the_shape_world_is_followed(motion: str, shape: str) -> None:
    moving = motions.build(motions.canonical(shape, "red", motion))
    (points, owner), (vertices, joint) = on_surface(moving, 3000, 0), on_surface(moving, 300, 1)
    seen = carried(vertices(0.0), points(0.0), torch.stack([points(time) for time in MOMENTS]))
    away = (seen - torch.stack([vertices(time) for time in MOMENTS])).norm(dim=2)
    corners = moving.rest.mesh.vertices
    diameter = float((corners.amax(0) - corners.amin(0)).norm())
    if moving.motion.body:
        assert float(away.max()) <= 1e-5 * diameter
        return
    # Where one piece lies on another, nothing says with which of them a vertex goes.
    others = torch.cdist(vertices(0.0), points(0.0)).masked_fill(owner == joint[:, None], math.inf)
    apart = others.amin(1) > 0.06
    assert float(apart.float().mean()) > 0.7
    assert float(away[:, apart].max()) <= 0.01 * diameter


def shifted(vertices: Tensor, rest: Tensor, moved: Tensor) -> Tensor:
    """The mean shift of the 4 nearest points, which turns nothing."""
    distance, nearest = torch.cdist(vertices, rest).topk(4, largest=False)
    weight = 1.0 / (distance.square() + 1e-8)
    weight = weight / weight.sum(1, keepdim=True)
    return vertices + (weight[None, :, :, None] * (moved - rest)[:, nearest]).sum(2)


def bent(points: Tensor) -> Tensor:
    angle = 2.0 * points[:, 0]
    return torch.stack(
        [(0.5 - points[:, 1]) * angle.sin(), 0.5 - (0.5 - points[:, 1]) * angle.cos(), points[:, 2]], dim=1
    )


def twisted(points: Tensor) -> Tensor:
    cos, sin = (math.pi * points[:, 0]).cos(), (math.pi * points[:, 0]).sin()
    y, z = points[:, 1], points[:, 2]
    return torch.stack([points[:, 0], cos * y - sin * z, sin * y + cos * z], dim=1)


def waving(points: Tensor) -> Tensor:
    return points + 0.1 * (6.0 * points[:, :1]).sin() * torch.tensor([0.0, 1.0, 0.0])


def stretched(points: Tensor) -> Tensor:
    return points * torch.tensor([2.0, 1.0, 0.7])


@pytest.mark.parametrize("bend", [bent, twisted, waving, stretched])
@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_what_bends_is_followed_better_than_by_mean_shifts(
    bend: Callable[[Tensor], Tensor], noise: float
) -> None:
    points, vertices = spread(1500), 0.9 * spread(500, seed=1)
    moved = bend(points) + noise * torch.randn(1500, 3, generator=generator(0, "noise", 0))

    def error(follow: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
        return float((follow(vertices, points, moved[None])[0] - bend(vertices)).norm(dim=1).mean())

    assert error(carried) < 0.9 * error(shifted)


def test_the_result_does_not_depend_on_blocks_or_on_how_the_numbers_lie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points, vertices = spread(500), spread(200, seed=1)
    moved = torch.stack([bent(points), twisted(points)])
    whole = carried(vertices, points, moved)
    monkeypatch.setattr("threedgen.export.carrying._AT_ONCE", 1)
    columns = points.T.contiguous().T  # as those of a table
    assert torch.equal(carried(vertices, columns, moved.transpose(0, 1).contiguous().transpose(0, 1)), whole)


def test_positions_that_are_not_finite_are_refused() -> None:
    moved = spread(50)[None].clone()
    moved[0, 3, 1] = np.nan
    with pytest.raises(UserError, match="the motion has positions that are not finite"):
        carried(spread(5), spread(50), moved)
