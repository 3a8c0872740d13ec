"""Changed distances between neighbours, against the same in torch in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from threedgen.kernels import why_absent
from threedgen.kernels.rigidity import can_compare, changed_distances
from threedgen.representations.motion_terms import MovedPoints, nearest, rigidity

pytestmark = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")


def cloud(moments: int, count: int = 60, neighbours: int = 5) -> MovedPoints:
    draw = torch.Generator().manual_seed(0)
    rest = torch.randn(count, 3, generator=draw)
    moved = rest + 0.3 * torch.randn(moments, count, 3, generator=draw)
    return MovedPoints(rest, moved.requires_grad_(), nearest(rest, neighbours))


def loss_and_gradient(points: MovedPoints) -> tuple[Tensor, Tensor]:
    loss = rigidity(points)
    return loss.detach(), torch.autograd.grad(3.0 * loss, points.moved)[0]


@pytest.mark.parametrize("moments", [1, 7, 8, 16, 19])
@pytest.mark.parametrize(("count", "neighbours"), [(60, 5), (2, 1), (9, 8)])
def test_loss_and_gradient_are_those_of_double_precision(moments: int, count: int, neighbours: int) -> None:
    points = cloud(moments, count, neighbours)
    exact = MovedPoints(
        points.rest.double(), points.moved.detach().double().requires_grad_(), points.neighbours
    )
    assert can_compare(points.rest, points.moved)
    assert not can_compare(exact.rest, exact.moved)
    (loss, gradient), (expected, slope) = loss_and_gradient(points), loss_and_gradient(exact)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float((gradient - slope).norm()) <= 1e-5 * float(slope.norm())


def test_points_at_one_place_have_a_finite_gradient() -> None:
    rest, moved = torch.zeros(4, 3), torch.zeros(3, 4, 3).requires_grad_()
    loss, gradient = loss_and_gradient(MovedPoints(rest, moved, nearest(torch.randn(4, 3), 2)))
    assert bool(loss.isfinite())
    assert not bool(gradient.any())


def test_the_number_of_threads_does_not_matter() -> None:
    points, before = cloud(40), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(loss_and_gradient(points))
    finally:
        torch.set_num_threads(before)
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_points_at_rest_that_learn_are_left_to_torch() -> None:
    points = cloud(2)
    assert not can_compare(points.rest.requires_grad_(), points.moved)
    rigidity(points).backward()
    assert points.rest.grad is not None
    assert bool(points.rest.grad.any())


@pytest.mark.parametrize("wrong", [-1, 60])
def test_a_neighbour_that_there_is_not_is_refused(wrong: int) -> None:
    points = cloud(2)
    points.neighbours[3, 1] = wrong
    with pytest.raises(ValueError, match="there is no such neighbour"):
        changed_distances(points.rest, points.moved, points.neighbours, 1e-8)


def test_shapes_that_do_not_fit_are_refused() -> None:
    points = cloud(2)
    with pytest.raises(ValueError, match="must be"):
        changed_distances(points.rest[:-1], points.moved, points.neighbours, 1e-8)
