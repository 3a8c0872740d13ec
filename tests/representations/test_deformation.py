"""Deformation fields: no motion at the start and at time 0, and the motions that each can represent."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.representations.deformation import RISE, SOONEST, Config, make_field, rise

KINDS = ("mlp", "hexplane", "fourier")
SMALL: dict[str, Any] = {"width": 8, "depth": 2, "resolution": 4, "moments": 3, "channels": 4}


def points(count: int = 20) -> torch.Tensor:
    return 2.0 * torch.rand(count, 3, generator=generator(0, "points", 0)) - 1.0


def moving(kind: Any, count: int = 20) -> Any:
    """A field as it may be after training: no weight is zero."""
    torch.manual_seed(0)
    field = make_field(Config(kind=kind, **SMALL), count)
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return field


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_moves_at_first(kind):
    field = make_field(Config(kind=kind, **SMALL), 20)
    assert torch.equal(field(points(), torch.tensor([0.0, 0.5, 1.0])), torch.zeros(3, 20, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_ever_moves_at_time_0_and_everything_later(kind):
    moved = moving(kind)(points(), torch.tensor([0.0, 0.3, 1.0]))
    assert torch.equal(moved[0], torch.zeros(20, 3))
    assert float(moved[1:].detach().norm(dim=2).min()) > 1e-4
    assert not torch.allclose(moved[1], moved[2], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_moment_does_not_depend_on_the_others(kind):
    field, times = moving(kind), torch.tensor([0.1, 0.4, 0.9])
    together = field(points(), times)
    for index in range(3):
        torch.testing.assert_close(field(points(), times[index : index + 1])[0], together[index])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_at_every_time(kind):
    """The slope of xi is infinite at 0, so no gradient may pass through it."""
    field = moving(kind)
    times = torch.tensor([0.0, SOONEST / 2, SOONEST, 1.0], requires_grad=True)
    field(points(), times).square().sum().backward()
    assert times.grad is not None
    assert bool(times.grad.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in field.parameters() if p.grad is not None)
    assert sum(float(p.grad.abs().sum()) for p in field.parameters() if p.grad is not None) > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    field, where = moving(kind, 3).double(), points(3).double()
    times = torch.tensor([0.2, 0.7], dtype=torch.float64)
    weights = list(field.parameters())

    def loss(*values):
        return torch.func.functional_call(
            field, dict(zip(dict(field.named_parameters()), values, strict=True)), (where, times)
        )

    assert torch.autograd.gradcheck(loss, tuple(p.detach().requires_grad_() for p in weights))


@given(st.floats(SOONEST, 1.0))
def test_xi_is_the_papers(time):
    assert float(rise(torch.tensor([time]))) == pytest.approx(time**RISE, rel=1e-5)


@torch.no_grad()
def test_fourier_can_go_round_a_circle():
    """A full turn is a sum of two of its terms."""
    field: Any = make_field(Config(kind="fourier", degree=2, terms=2), 1)
    times = torch.linspace(0.02, 1.0, 60)
    columns = []
    for index in range(len(field.coefficients)):
        field.coefficients.zero_()
        field.coefficients[index, 0, 0] = 1.0
        columns.append(field(torch.zeros(1, 3), times)[:, 0, 0])
    basis, angle = torch.stack(columns, dim=1).double(), 2.0 * torch.pi * times.double()
    for true in (angle.cos() - 1.0, angle.sin()):
        best = basis @ torch.linalg.lstsq(basis, true[:, None]).solution
        assert float((best[:, 0] - true).abs().max()) < 1e-5


def test_a_series_is_of_its_own_points():
    with pytest.raises(ValueError, match="the series are of 20 points, 3 were given"):
        moving("fourier")(points(3), torch.tensor([0.5]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"bands": -1}, "bands is -1"),
        ({"extent": float("nan")}, "extent is nan"),
        ({"kind": "fourier", "degree": 0, "terms": 0}, "nothing could move"),
    ],
)
def test_bad_settings_are_reported(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)
