"""Distances to nearest neighbours, against scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from threedgen.kernels import load_native, why_absent
from threedgen.representations.initialisers import neighbour_distance

pytestmark = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")


def clouds() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    even = torch.randn(3000, 3, generator=draw)
    return {
        "even": even,
        "clusters and one far away": torch.cat([even[:500] * 1e-3, even[:500] * 1e-3 + 1.0, even[:1] + 1e4]),
        "in a plane": even * torch.tensor([1.0, 1.0, 0.0]),
        "all at one place": torch.ones(200, 3),
        "few": even[:5],
    }


@pytest.mark.parametrize("name", clouds())
@pytest.mark.parametrize("neighbours", [1, 3])
def test_they_are_those_of_scipy(name: str, neighbours: int) -> None:
    points = clouds()[name].double()
    expected, _ = KDTree(points.numpy()).query(points.numpy(), k=neighbours + 1)
    found = neighbour_distance(points, neighbours)
    np.testing.assert_allclose(found.numpy(), expected[:, 1:].mean(axis=1), rtol=1e-12, atol=1e-15)


def test_the_number_of_threads_does_not_matter() -> None:
    native: Any = load_native()
    points = clouds()["even"].double()
    one, three = torch.empty(len(points)).double(), torch.empty(len(points)).double()
    native.neighbour_distances(points, 3, 1, one)
    native.neighbour_distances(points, 3, 3, three)
    assert torch.equal(one, three)


def test_what_it_does_not_take() -> None:
    native: Any = load_native()
    out = torch.empty(4, dtype=torch.float64)
    points = torch.zeros(4, 3, dtype=torch.float64)
    for wrong, neighbours in ((points[:, :2].contiguous(), 1), (points, 4), (points, 0), (points / 0.0, 1)):
        with pytest.raises(ValueError, match="neighbour_distances"):
            native.neighbour_distances(wrong, neighbours, 1, out)
