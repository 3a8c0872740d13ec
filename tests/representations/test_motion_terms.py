"""Terms on motion, against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from threedgen.core.random import generator
from threedgen.representations.motion_terms import MovedPoints, jensen_shannon, nearest, rigidity, smoothness


def cloud(count: int = 400) -> torch.Tensor:
    """Points with a mean of exactly 0 and a variance of exactly 1 on every axis."""
    points = torch.randn(count, 3, generator=generator(0, "cloud", 0), dtype=torch.float64)
    points = points - points.mean(0)
    return points / points.std(0, correction=0)


def moved(points: torch.Tensor, *later: torch.Tensor) -> MovedPoints:
    return MovedPoints(points, torch.stack(later), nearest(points, 5))


@given(st.floats(-3.0, 3.0))
def test_the_divergence_of_a_shift_is_an_eighth_of_its_square(shift):
    points = cloud()
    there = points + torch.tensor([shift, 0.0, 2.0 * shift], dtype=torch.float64)
    assert float(jensen_shannon(moved(points, there))) == pytest.approx(5.0 * shift**2 / 8.0, abs=1e-9)


@given(st.floats(0.2, 4.0))
def test_the_divergence_of_growth_is_its_closed_form(factor):
    points = cloud()
    expected = 3.0 * (0.5 * math.log((1.0 + factor**2) / 2.0) - 0.5 * math.log(factor))
    assert float(jensen_shannon(moved(points, factor * points))) == pytest.approx(expected, abs=1e-9)


def test_moments_are_averaged_and_rest_is_not_pulled():
    points = cloud().requires_grad_()
    there = (points.detach() + 1.0).requires_grad_()
    loss = jensen_shannon(MovedPoints(points, torch.stack([points.detach(), there]), nearest(points, 3)))
    assert float(loss.detach()) == pytest.approx(3.0 / 16.0)
    loss.backward()
    assert points.grad is None
    assert there.grad is not None


def turned(points: torch.Tensor, degrees: float) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]], dtype=points.dtype).T


@given(st.floats(-180.0, 180.0), st.floats(-2.0, 2.0))
def test_solids_move_for_free(degrees, shift):
    points = cloud()
    assert float(rigidity(moved(points, turned(points, degrees) + shift))) == pytest.approx(0.0, abs=1e-9)
    assert float(rigidity(moved(points, 1.5 * points))) == pytest.approx(0.25, rel=1e-3)


def test_what_moves_alike_is_smooth():
    points = cloud()
    assert float(smoothness(moved(points, points + 3.0))) == pytest.approx(0.0, abs=1e-12)
    one, two = (float(smoothness(moved(points, turned(points, angle)))) for angle in (5.0, 10.0))
    assert 0.0 < one < 0.5 * two


def test_neighbours_are_the_nearest_others():
    points = cloud(60)
    found = nearest(points, 4)
    distances = torch.cdist(points, points).fill_diagonal_(float("inf"))
    assert torch.equal(found.sort(1).values, distances.topk(4, largest=False).indices.sort(1).values)
    assert nearest(points[:3], 10).shape == (3, 2)
    same = nearest(torch.zeros(5, 3), 2)  # all in one place
    assert not bool((same == torch.arange(5)[:, None]).any())
