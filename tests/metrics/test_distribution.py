"""FID and KID: closed forms, invariances and bias."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from threedgen.metrics.distribution import few_samples, fid, frechet_distance, kid


def draw(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(draw(size, size, seed=9))[0]


def covariance(size: int, rank: int, seed: int) -> Tensor:
    factor = draw(size, rank, seed)
    return factor @ factor.T


def test_the_distance_of_equal_sets_is_zero_for_few_samples_and_many():
    for count in (3, 10, 200):
        x = draw(count, 20) * 5.0 + 3.0
        assert fid(x, x) == pytest.approx(0.0, abs=1e-6)
        assert fid(x, x.flip(0)) == pytest.approx(0.0, abs=1e-6), "a set has no order"


def test_gaussians_have_a_closed_form():
    mean, other = torch.tensor([1.0, 2.0]), torch.tensor([-2.0, 6.0])
    same = covariance(2, 2, 0)
    assert frechet_distance(mean, same, other, same) == pytest.approx(25.0)
    # Commuting covariances: the sum of squared differences of the standard deviations along the common axes.
    axes = rotation(4)
    a, b = torch.tensor([4.0, 1.0, 9.0, 0.0]).double(), torch.tensor([1.0, 1.0, 0.0, 16.0]).double()
    zero = torch.zeros(4)
    distance = frechet_distance(zero, axes * a @ axes.T, zero, axes * b @ axes.T)
    assert distance == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()))  # 1 + 0 + 9 + 16


def test_it_agrees_with_the_root_of_the_product_if_that_exists():
    from scipy.linalg import sqrtm

    a, b = covariance(6, 6, 1), covariance(6, 6, 2)
    root: Any = sqrtm((a @ b).numpy())
    wanted = float(a.trace() + b.trace()) - 2.0 * float(root.real.trace())
    assert frechet_distance(torch.zeros(6), a, torch.zeros(6), b) == pytest.approx(wanted)


def test_singular_covariances_lose_nothing():
    """If all variation is in a subspace, further axes change nothing."""
    a, b = draw(40, 3, 1), draw(40, 3, 2) * 2.0 + 1.0
    axes = rotation(50)[:3]
    assert fid(a @ axes, b @ axes) == pytest.approx(fid(a, b), rel=1e-6)


def test_turning_the_features_changes_nothing():
    a, b = draw(30, 8, 1), draw(30, 8, 2) * 1.5 + 0.3
    turn = rotation(8)
    assert fid(a @ turn, b @ turn) == pytest.approx(fid(a, b))
    assert kid(a @ turn, b @ turn).mean == pytest.approx(kid(a, b).mean)


def test_fid_is_symmetric_grows_with_the_difference_and_is_biased_by_few_samples():
    a, b = draw(400, 8, 1), draw(400, 8, 2)
    assert fid(a, b) == pytest.approx(fid(b, a))
    distances = [fid(a, b + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert distances == sorted(distances)
    assert fid(a[:20], b[:20]) > 5.0 * distances[0], "both sets are of the same Gaussian"
    assert few_samples(20, 20) == "FID is biased: 20 samples of 20 features"
    assert few_samples(21, 20) is None


def test_kid_is_the_sum_over_pairs_of_its_definition():
    a, b = draw(4, 3, 1).tolist(), draw(5, 3, 2).tolist()

    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 3 + 1) ** 3

    within = [
        sum(k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j) / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    across = sum(k(x, y) for x in a for y in b) / 20
    found = kid(torch.tensor(a), torch.tensor(b))
    assert found.mean == pytest.approx(within[0] + within[1] - 2 * across, rel=1e-5)
    assert found.deviation is None, "there is one subset: the whole set"


def test_kid_of_two_halves_is_zero_on_average_and_may_be_negative():
    halves = [draw(80, 6, seed).chunk(2) for seed in range(200)]
    estimates = torch.tensor([kid(one, other).mean for one, other in halves])
    error = float(estimates.std() / len(estimates) ** 0.5)
    assert abs(float(estimates.mean())) < 4.0 * error
    assert float(estimates.min()) < 0.0 < float(estimates.max())
    shifted = torch.tensor([kid(draw(40, 6, seed), draw(40, 6, seed + 500) + 1.0).mean for seed in range(20)])
    assert float(shifted.mean()) > 20.0 * error


def test_large_sets_are_split_into_subsets_by_the_seed():
    a, b = draw(300, 4, 1), draw(260, 4, 2) + 0.5
    whole = kid(a, b)
    found = kid(a, b, seed=1, subsets=40, subset=100)
    assert found == kid(a, b, seed=1, subsets=40, subset=100)
    assert found != kid(a, b, seed=2, subsets=40, subset=100)
    assert found.deviation is not None
    assert abs(found.mean - whole.mean) < 4.0 * found.deviation


@pytest.mark.parametrize("measure", [fid, kid])
def test_one_vector_is_no_set(measure):
    with pytest.raises(ValueError, match="at least two"):
        measure(draw(1, 3), draw(5, 3))
    with pytest.raises(ValueError, match="of one size"):
        measure(draw(4, 3), draw(5, 2))
