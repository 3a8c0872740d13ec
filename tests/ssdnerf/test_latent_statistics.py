"""The running mean code and size of codes, and the weight of the prior that follows from it."""

import math

import pytest
import torch

from threedgen.core.random import generator
from threedgen.ssdnerf.statistics import CodeStatistics

SHAPE = (2, 4, 4)


def codes(count: int = 6, size: float = 0.3) -> torch.Tensor:
    rng = generator(0, "codes", 0)
    return torch.randn(SHAPE, generator=rng) + size * torch.randn(count, *SHAPE, generator=rng)


def followed(centred: bool, size: float = 0.3, steps: int = 60) -> CodeStatistics:
    statistics = CodeStatistics(SHAPE, centred)
    for _ in range(steps):
        statistics.update(codes(size=size), 0.2)
    return statistics


def test_uncentred_codes_are_seen_as_they_are():
    statistics = followed(False)
    assert torch.equal(statistics.normalise(codes()), codes())
    assert torch.equal(statistics.denormalise(codes()), codes())
    assert not bool(statistics.center.any())
    assert float(statistics.mean_square) == pytest.approx(float(codes().square().mean()), rel=1e-4)


def test_centred_codes_are_seen_without_their_mean_and_at_unit_size():
    statistics = followed(True)
    torch.testing.assert_close(statistics.center, codes().mean(0), rtol=1e-4, atol=1e-4)
    seen = statistics.normalise(codes())
    assert float(seen.square().mean()) == pytest.approx(1.0, rel=1e-3)
    torch.testing.assert_close(seen.mean(0), torch.zeros(SHAPE), rtol=0, atol=1e-3)
    torch.testing.assert_close(statistics.denormalise(seen), codes(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("centred", [False, True])
def test_the_weighted_loss_does_not_depend_on_how_large_codes_are(centred):
    """The denoiser has a constant relative error: its x_hat is 0.9 of the normalised code."""
    found = []
    for scale in (1.0, 7.0):
        statistics = CodeStatistics(SHAPE, centred)
        for _ in range(60):
            statistics.update(scale * codes(), 0.2)
        wrong = (0.1 * statistics.normalise(scale * codes())).square().mean()
        found.append(float(statistics.weight(4.0) * wrong))
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[0] == pytest.approx(0.04, rel=1e-3)


@pytest.mark.parametrize("centred", [False, True])
def test_codes_that_are_all_alike_do_no_harm(centred):
    statistics = CodeStatistics(SHAPE, centred)
    nothing = torch.zeros(2, *SHAPE)
    for _ in range(400):
        statistics.update(nothing, 0.2)
    assert math.isfinite(float(statistics.weight(4.0)))
    assert bool(statistics.normalise(nothing).isfinite().all())


def test_every_process_follows_the_codes_of_all():
    """Each process has half of the codes, and `average` adds those of the other."""
    whole, half = CodeStatistics(SHAPE, True), CodeStatistics(SHAPE, True)
    first, second = codes().split(3)

    def average(tensors):
        for tensor in tensors:
            tensor.copy_(others.pop(0))

    for _ in range(3):
        mean = codes().mean(0)
        center = half.center.lerp(mean, 0.2)
        others = [mean, (torch.cat([first, second]) - center).square().mean()]
        whole.update(codes(), 0.2)
        half.update(first, 0.2, average)
        torch.testing.assert_close(half.center, whole.center)
        torch.testing.assert_close(half.mean_square, whole.mean_square)
