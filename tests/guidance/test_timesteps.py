"""The named orders of t (docs/methods.md, "Noise levels over a run")."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from threedgen.core.errors import UserError
from threedgen.core.schedule_checks import require_times
from threedgen.guidance.priors.analytic import DiscPrior, MixturePrior
from threedgen.guidance.priors.processes import FlowSchedule
from threedgen.guidance.timesteps import timesteps

PRIOR: MixturePrior = DiscPrior(4)


def at(
    order,
    step: int,
    total: int = 101,
    schedule: object = (0.02, 0.98),
    prior: MixturePrior = PRIOR,
    count: int = 4,
) -> float:
    t = timesteps(order, schedule, prior, count, count, step, total, torch.Generator().manual_seed(step))
    assert t.shape == (count,)
    assert len(t.unique()) == 1
    return float(t[0])


@pytest.mark.parametrize("order", ["annealed", "sqrt", "dreamtime"])
@pytest.mark.parametrize("schedule", [(0.02, 0.98), {"from": [0.5, 0.98], "to": [0.02, 0.55]}])
def test_the_ordered_ones_fall_from_the_top_to_the_bottom(order, schedule):
    path = [at(order, step, schedule=schedule) for step in range(101)]
    assert path[0] == pytest.approx(0.98, abs=2e-3)
    assert path[-1] == pytest.approx(0.02, abs=2e-3)
    assert all(after <= before for before, after in itertools.pairwise(path))


def test_square_root_and_straight():
    assert at("annealed", 25) == pytest.approx(0.98 - 0.96 * 0.25)
    assert at("sqrt", 25) == pytest.approx(0.98 - 0.96 * 0.5)


def test_dreamtime_spends_time_where_its_weight_is():
    """The share of steps above t is the share of the area of W above t, which is summed here independently."""
    total, grid = 1001, 4000
    path = torch.tensor([at("dreamtime", step, total) for step in range(0, total, 10)])
    t = torch.tensor([0.02 + 0.96 * (index + 0.5) / grid for index in range(grid)], dtype=torch.float64)
    ratio = PRIOR.sigma(t) / PRIOR.alpha(t)
    weight = ratio * torch.tensor([math.exp(-((value - 0.8) ** 2) / 0.18) for value in t.tolist()])
    for value in (0.3, 0.6, 0.8, 0.9):
        area = float(weight[t > value].sum() / weight.sum())
        assert float((path > value).double().mean()) == pytest.approx(area, abs=0.02)


def test_dreamtime_of_a_flow_that_starts_from_pure_noise():
    prior = MixturePrior(lambda c: torch.zeros(len(c), 1, 4, 4, 3), [0.5], 4, schedule=FlowSchedule())
    path = [at("dreamtime", step, 21, (0.0, 1.0), prior) for step in range(21)]
    assert all(math.isfinite(t) for t in path)
    assert path[0] == pytest.approx(1.0, abs=2e-3)


def test_a_range_outside_is_refused():
    with pytest.raises(UserError, match=r"inside \[0, 1\], got \[0.5, 0.2\]"):
        require_times((0.5, 0.2))
