"""Stage-wise diffusion (f-DM, Gu et al. 2023): boundaries keep the distribution, stages sample it, and one stage is
ordinary diffusion."""

import pytest
import torch
from gaussian_codes import (
    Cosine,
    covariance_of,
    draw,
    draws,
    matrix,
    ordinary_ddim,
    projection,
    smooth_covariance,
    some_network,
)
from hypothesis import given
from hypothesis import strategies as st

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.guidance.priors.processes import NoiseSchedule
from threedgen.ssdnerf.losses import diffusion_loss
from threedgen.ssdnerf.resolutions import denoised, pool, upsample
from threedgen.ssdnerf.stage_wise import StageWiseDiffusion, boundary_scale, up

SIZE = 4
COUNT = 20000


class PerfectNetwork:
    """E[v | z] and E[delta | z] of Gaussian codes, at every stage."""

    def __init__(self, diffusion: StageWiseDiffusion, covariance: torch.Tensor) -> None:
        self.diffusion, self.covariance = diffusion, covariance

    def __call__(self, z, timesteps):
        t = timesteps[:1].double()
        scale = SIZE // z.shape[-1]
        stage = {self.diffusion.factor**k: k for k in range(self.diffusion.stages)}[scale]
        rho = self.diffusion.lost(stage, t)
        down_k = matrix(lambda x: pool(x, scale), SIZE)
        lost = torch.zeros_like(down_k)
        if stage < self.diffusion.stages - 1:
            lost = down_k - matrix(lambda x: projection(pool(x, scale), self.diffusion.factor), SIZE)
        signal = down_k - rho * lost
        alpha, sigma = self.diffusion.levels(stage, t)
        noisy = alpha**2 * signal @ self.covariance @ signal.T + sigma**2 * torch.eye(len(signal)).double()
        code = torch.linalg.solve(noisy, alpha * signal @ self.covariance).T  # E[x | z] = code z
        flat = z.double().flatten(1)
        x_t, delta = flat @ (signal @ code).T, flat @ (lost @ code).T
        v = (alpha * flat - x_t) / sigma
        return v.reshape(z.shape).float(), delta.reshape(z.shape).float()


def down(z, alpha, sigma, factor):
    """P z / c: the last z of a stage as the first z of the next one, with the noise levels of the finer stage."""
    return pool(z, factor) / boundary_scale(alpha, sigma, factor).to(z)


def test_pooling_undoes_upsampling_and_keeps_channels_apart():
    x = torch.randn(2, 5, 4, 4, generator=generator(0, "x", 0))
    for factor in (1, 2, 4):
        torch.testing.assert_close(pool(upsample(x, factor), factor), x)
    changed = x.clone()
    changed[:, 2] += 1.0
    assert (pool(changed, 2) != pool(x, 2)).flatten(2).any(2).tolist() == [
        [False, False, True, False, False]
    ] * 2


@given(st.floats(0.05, 0.95), st.integers(1, 3), st.integers(0, 2))
def test_the_next_stage_begins_where_the_boundary_leads(t, factor, stage):
    diffusion = StageWiseDiffusion(Cosine(), (0.1, 0.2, 0.3), factor)
    time = torch.tensor([t], dtype=torch.float64)
    alpha, sigma = diffusion.levels(stage, time)
    c = boundary_scale(alpha, sigma, factor)
    torch.testing.assert_close(diffusion.levels(stage + 1, time), (alpha / c, sigma / (factor * c)))


def test_going_down_undoes_going_up():
    z = torch.randn(3, 6, 4, 4, generator=generator(0, "z", 0), dtype=torch.float64)
    alpha, sigma = torch.tensor([0.6]).double(), torch.tensor([0.8]).double()
    noise = torch.randn(3, 6, 8, 8, generator=generator(0, "n", 0))
    torch.testing.assert_close(down(up(z, alpha, sigma, 2, noise), alpha, sigma, 2), z)


def test_the_covariance_on_both_sides_of_a_boundary_is_that_of_the_forward_process():
    diffusion = StageWiseDiffusion(Cosine(), (0.6,))
    x = draw(smooth_covariance(SIZE), COUNT)
    boundary = torch.full((COUNT,), 0.6)
    noise = torch.randn(x.shape, generator=generator(0, "noise", 0))
    high = diffusion.noised(0, x, boundary, noise)[0]
    low = diffusion.noised(1, x, boundary, noise)[0]
    alpha, sigma = diffusion.levels(0, boundary[:1])
    torch.testing.assert_close(down(high, alpha, sigma, 2), low)  # not only in distribution
    again = up(low, alpha, sigma, 2, torch.randn(high.shape, generator=generator(0, "fresh", 0)))
    torch.testing.assert_close(covariance_of(again), covariance_of(high), atol=0.03, rtol=0)
    # Both are computed directly: U P Sigma (U P)^T alpha^2 + sigma^2 I.
    both = matrix(lambda x: projection(x, 2), SIZE)
    exact = alpha.double() ** 2 * both @ smooth_covariance(SIZE) @ both.T + sigma.double() ** 2 * torch.eye(
        16
    )
    torch.testing.assert_close(covariance_of(again), exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("boundaries", [(0.5,), (0.3, 0.7)])
def test_with_a_perfect_network_samples_have_the_covariance_of_the_codes(boundaries):
    covariance = smooth_covariance(SIZE)
    diffusion = StageWiseDiffusion(Cosine(), boundaries)
    network = PerfectNetwork(diffusion, covariance)
    samples = diffusion.sample(network, (1, SIZE, SIZE), 240, draws(COUNT))
    torch.testing.assert_close(covariance_of(samples), covariance, atol=0.035, rtol=0)
    fine = matrix(
        lambda x: x - projection(x, 2), SIZE
    )  # what coarse stages cannot represent has less variance
    there = fine @ covariance_of(samples) @ fine.T
    torch.testing.assert_close(there, fine @ covariance @ fine.T, atol=0.01, rtol=0)


def test_one_stage_is_ordinary_ddim_bit_for_bit():
    schedule = NoiseSchedule.scaled_linear()
    diffusion = StageWiseDiffusion(schedule, ())
    ours = diffusion.sample(lambda z, t: (some_network(z, t), torch.zeros_like(z)), (6, 8, 8), 7, draws(3))
    ordinary = ordinary_ddim(some_network, schedule, 3, (6, 8, 8), 7)
    assert torch.equal(ours, ordinary)


def test_stages_that_do_not_pool_are_ordinary_ddim():
    schedule = NoiseSchedule.scaled_linear()
    diffusion = StageWiseDiffusion(schedule, (0.25, 0.5), factor=1)
    ours = diffusion.sample(lambda z, t: (some_network(z, t), torch.zeros_like(z)), (6, 8, 8), 8, draws(3))
    ordinary = ordinary_ddim(some_network, schedule, 3, (6, 8, 8), 8)
    torch.testing.assert_close(ours, ordinary, atol=1e-4, rtol=1e-4)


def _batch(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = generator(0, "batch", count)
    x = torch.randn(count, 6, 8, 8, generator=rng)
    t = torch.linspace(0.95, 0.05, count)
    return x, t, torch.randn(x.shape, generator=rng)


def test_one_stage_has_the_loss_of_ordinary_diffusion():
    x, t, noise = _batch(5)
    schedule = NoiseSchedule.scaled_linear()
    diffusion = StageWiseDiffusion(schedule, (), power=0.5)
    ours = diffusion.loss_at(lambda z, t: (some_network(z, t), z), x, t, noise)
    ordinary = diffusion_loss(some_network, x, t, noise, schedule, 0.5)
    torch.testing.assert_close(ours, ordinary)


def test_each_code_of_a_batch_has_the_loss_it_has_alone():
    x, t, noise = _batch(7)
    words = torch.arange(7.0)
    diffusion = StageWiseDiffusion(Cosine(), (0.3, 0.7))

    def network(z, timesteps, told):
        return some_network(z, timesteps) + told[:, None, None, None], 0.3 * z

    together = diffusion.loss_at(network, x, t, noise, (words,))
    alone = [
        diffusion.loss_at(network, x[i : i + 1], t[i : i + 1], noise[i : i + 1], (words[i : i + 1],))
        for i in range(7)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert diffusion.stage_of(t).tolist() == [2, 2, 1, 1, 1, 0, 0]
    assert diffusion.stage_of(torch.tensor([0.0, 0.3, 0.7, 1.0])).tolist() == [0, 1, 2, 2]


def test_the_loss_is_zero_for_the_truth_alone_and_weighs_the_residual():
    x, t, noise = _batch(1)
    t[:] = 0.2
    z, signal, delta, eps = StageWiseDiffusion(Cosine()).noised(0, x, t, noise)
    alpha, sigma = Cosine().alpha(t), Cosine().sigma(t)
    v = alpha * eps - sigma * signal
    torch.testing.assert_close(alpha * z - sigma * v, signal)
    for off, error in (
        ((v, delta), 0.0),
        ((v, delta + 1.0), 0.5 * 3.0),
        ((v + 1.0, delta), 0.5 * float(alpha) ** 2),
    ):
        diffusion = StageWiseDiffusion(Cosine(), residual=3.0)
        found = diffusion.loss_at(lambda z, t, off=off: off, x, t, noise)
        torch.testing.assert_close(found, torch.tensor([error]), atol=1e-6, rtol=1e-4)


def test_the_loss_reaches_the_codes():
    x, t, noise = _batch(4)
    x.requires_grad_()
    diffusion = StageWiseDiffusion(Cosine())

    def network(z, timesteps):
        return some_network(z, timesteps), 0.1 * z

    diffusion.loss_at(network, x, t, noise).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten(1).abs().sum(1).gt(0).all()


def test_clipped_samples_stay_inside_and_keep_their_noisy_code():
    z = torch.randn(4, 6, 8, 8, generator=generator(0, "z", 0))
    alpha, sigma = torch.tensor([0.6]), torch.tensor([0.8])
    x, eps = denoised(z, 3.0 * z, alpha, sigma, 0.5)
    assert float(x.abs().max()) == 0.5
    torch.testing.assert_close(alpha * x + sigma * eps, z)
    diffusion = StageWiseDiffusion(Cosine(), (), clip=0.5)
    samples = diffusion.sample(lambda z, t: (3.0 * z, z), (6, 8, 8), 3, draws(2))
    assert float(samples.abs().max()) == 0.5


def test_coarse_noise_is_white():
    diffusion = StageWiseDiffusion(Cosine(), (0.3, 0.6))
    noise = torch.randn(COUNT, 1, 8, 8, generator=generator(0, "noise", 1))
    eps = diffusion.noised(2, torch.zeros_like(noise), torch.full((COUNT,), 0.9), noise)[3]
    torch.testing.assert_close(covariance_of(eps), torch.eye(4).double(), atol=0.04, rtol=0)


@given(st.integers(3, 60), st.floats(0.01, 0.6), st.floats(0.01, 0.39))
def test_every_stage_gets_steps_and_they_run_from_one_to_zero(steps, first, more):
    times = StageWiseDiffusion(Cosine(), (first, first + more)).times(steps)
    assert sum(len(part) - 1 for part in times) == steps
    assert all(len(part) > 1 and bool((part.diff() < 0).all()) for part in times)
    assert times[-1][0] == 1.0
    assert times[0][-1] == 0.0
    assert [float(part[-1]) for part in times[1:]] == [float(part[0]) for part in times[:-1]]


@pytest.mark.parametrize("boundaries", [(0.5, 0.5), (0.0,), (1.0,), (0.7, 0.3), (float("nan"),)])
def test_boundaries_that_do_not_rise_are_refused(boundaries):
    with pytest.raises(UserError, match="boundaries"):
        StageWiseDiffusion(Cosine(), boundaries)


def _silent(z, timesteps):
    return torch.zeros_like(z), torch.zeros_like(z)


def test_too_few_steps_and_unfit_resolutions_are_named():
    diffusion = StageWiseDiffusion(Cosine(), (0.3, 0.7))
    with pytest.raises(UserError, match="at least 3 sampling steps"):
        diffusion.sample(_silent, (6, 8, 8), 2, draws(1))
    with pytest.raises(UserError, match="6 x 6"):
        diffusion.sample(_silent, (6, 6, 6), 9, draws(1))
    with pytest.raises(UserError, match="6 x 6"):
        diffusion.loss_at(_silent, torch.zeros(1, 6, 6, 6), torch.tensor([0.9]), torch.zeros(1, 6, 6, 6))
    with pytest.raises(UserError, match="factor"):
        StageWiseDiffusion(Cosine(), factor=0)
