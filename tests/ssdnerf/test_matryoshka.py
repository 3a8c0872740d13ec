"""Matryoshka diffusion (Gu et al. 2024): one sampler gives every level its distribution, and the levels agree."""

import pytest
import torch
from gaussian_codes import (
    Cosine,
    covariance_of,
    draws,
    matrix,
    ordinary_ddim,
    smooth_covariance,
    some_network,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.guidance.priors.processes import NoiseSchedule
from threedgen.ssdnerf.losses import diffusion_loss
from threedgen.ssdnerf.matryoshka import MatryoshkaDiffusion, NestedUNet
from threedgen.ssdnerf.resolutions import pool

SIZE = 4
COUNT = 20000


class PerfectNetwork:
    """E[v | both noisy levels] of Gaussian codes."""

    def __init__(self, diffusion: MatryoshkaDiffusion, covariance: torch.Tensor) -> None:
        self.diffusion, self.covariance = diffusion, covariance
        self.views = [matrix(lambda x, s=scale: pool(x, s), SIZE) for scale in (1, 2)]

    def __call__(self, noisy, timesteps):
        t = timesteps[:1].double()
        levels = [self.diffusion.levels(index, t) for index in range(2)]
        seen = torch.cat([alpha * view for (alpha, _), view in zip(levels, self.views, strict=True)])
        noise = torch.cat(
            [sigma.expand(len(view)) for (_, sigma), view in zip(levels, self.views, strict=True)]
        )
        flat = torch.cat([z.double().flatten(1) for z in noisy], 1)
        spread = seen @ self.covariance @ seen.T + torch.diag(noise.square())
        code = flat @ torch.linalg.solve(spread, seen @ self.covariance)  # E[x | z]
        answers = []
        for z, (alpha, sigma), view in zip(noisy, levels, self.views, strict=True):
            v = (alpha * z.double().flatten(1) - code @ view.T) / sigma
            answers.append(v.reshape(z.shape).float())
        return answers


def random_loss(diffusion, network, x, rng, told=()):
    """The loss of each code at a uniform t, with separate noise at every level."""
    t = torch.rand(len(x), generator=rng)
    return diffusion.loss_at(network, x, t, diffusion.noises(len(x), x.shape[1:], rng), told)


def test_with_a_perfect_network_both_levels_have_their_covariance_and_agree():
    covariance = smooth_covariance(SIZE)
    diffusion = MatryoshkaDiffusion(Cosine())
    network = PerfectNetwork(diffusion, covariance)
    fine, coarse = diffusion.sample_pyramid(network, (1, SIZE, SIZE), 160, draws(COUNT))
    down = network.views[1]
    torch.testing.assert_close(covariance_of(fine), covariance, atol=0.035, rtol=0)
    torch.testing.assert_close(covariance_of(coarse), down @ covariance @ down.T, atol=0.035, rtol=0)
    torch.testing.assert_close(covariance_of(pool(fine, 2)), covariance_of(coarse), atol=0.01, rtol=0)
    assert (
        float((pool(fine, 2) - coarse).square().mean()) < 1e-3
    )  # in every sample, and not only in distribution


def test_one_level_is_ordinary_ddim_bit_for_bit():
    schedule = NoiseSchedule.scaled_linear()
    diffusion = MatryoshkaDiffusion(schedule, resolutions=1)
    ours = diffusion.sample(lambda z, t: [some_network(z[0], t)], (6, 8, 8), 7, draws(3))
    assert torch.equal(ours, ordinary_ddim(some_network, schedule, 3, (6, 8, 8), 7))


def test_one_level_has_the_loss_of_ordinary_diffusion():
    x = torch.randn(5, 6, 8, 8, generator=generator(0, "x", 0))
    t, eps = torch.linspace(0.05, 0.95, 5), torch.randn(x.shape, generator=generator(0, "noise", 0))
    schedule = NoiseSchedule.scaled_linear()
    diffusion = MatryoshkaDiffusion(schedule, resolutions=1, power=0.5)
    ours = diffusion.loss_at(lambda z, t: [some_network(z[0], t)], x, t, [eps])
    torch.testing.assert_close(ours, diffusion_loss(some_network, x, t, eps, schedule, 0.5))


@given(st.floats(0.05, 0.95), st.floats(0.0, 2.0))
def test_the_signal_to_noise_ratio_is_divided_by_the_scale_but_not_at_the_coarsest(t, shift):
    diffusion, time = MatryoshkaDiffusion(Cosine(), 3, shift=shift), torch.tensor([t], dtype=torch.float64)
    ratios = []
    for index in range(3):
        alpha, sigma = diffusion.levels(index, time)
        torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(alpha))
        ratios.append(float((alpha / sigma).square()))
    assert ratios[2] == pytest.approx(float((Cosine().alpha(time) / Cosine().sigma(time)).square()))
    assert ratios[2] / ratios[1] == pytest.approx(2.0**shift)
    assert ratios[2] / ratios[0] == pytest.approx(4.0**shift)


def test_the_noise_of_one_level_says_nothing_of_the_others():
    diffusion, seen = MatryoshkaDiffusion(Cosine()), []

    def network(noisy, timesteps):
        seen.append([z / diffusion.levels(i, timesteps)[1][:, None, None, None] for i, z in enumerate(noisy)])
        return noisy

    random_loss(diffusion, network, torch.zeros(COUNT, 1, SIZE, SIZE), generator(0, "loss", 0))
    diffusion.sample(network, (1, SIZE, SIZE), 1, draws(COUNT))
    for fine, coarse in seen:
        together = torch.cat([2.0 * pool(fine, 2).flatten(1), coarse.flatten(1)], 1)
        torch.testing.assert_close(torch.corrcoef(together.T), torch.eye(8).to(together), atol=0.035, rtol=0)


def test_the_loss_sums_over_levels_and_reaches_the_codes():
    x = torch.randn(4, 6, 8, 8, generator=generator(0, "x", 1)).requires_grad_()
    diffusion = MatryoshkaDiffusion(Cosine(), resolutions=3)

    def network(noisy, timesteps, told):
        return [some_network(z, timesteps) + told[:, None, None, None] for z in noisy]

    random_loss(diffusion, network, x, generator(0, "loss", 1), (torch.arange(4.0),)).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten(1).abs().sum(1).gt(0).all()
    noises, t = diffusion.noises(4, (6, 8, 8), generator(0, "n", 0)), torch.linspace(0.1, 0.9, 4)
    parts = []
    for index, (clean, eps) in enumerate(zip(diffusion.pyramid(x), noises, strict=True)):
        alpha, sigma = (level[:, None, None, None] for level in diffusion.levels(index, t))
        z = alpha * clean + sigma * eps
        eps_hat = sigma * z + alpha * (some_network(z, t) + torch.arange(4.0)[:, None, None, None])
        parts.append(0.5 * (eps_hat - eps).square().flatten(1).mean(1))
    torch.testing.assert_close(diffusion.loss_at(network, x, t, noises, (torch.arange(4.0),)), sum(parts))


class Inner(nn.Module):
    """A coarse denoiser with some weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, z, timesteps, *told):
        return self.layer(z) + sum(told) + 1e-3 * timesteps[:, None, None, None]


def _nested() -> tuple[NestedUNet, list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    nested = NestedUNet(Inner(6), 6, width=16)
    rng = generator(0, "nested", 0)
    noisy = [torch.randn(2, 6, 8, 8, generator=rng), torch.randn(2, 6, 4, 4, generator=rng)]
    return nested, noisy, torch.tensor([10, 700])


def test_new_outer_blocks_leave_the_inner_network_as_it_is_and_answer_nothing():
    nested, noisy, timesteps = _nested()
    fine, coarse = nested(noisy, timesteps, torch.tensor(0.5))
    assert torch.equal(coarse, nested.inner(noisy[1], timesteps, torch.tensor(0.5)))
    assert torch.equal(fine, torch.zeros_like(noisy[0]))


def test_the_levels_of_a_nested_network_hear_of_each_other_and_of_the_time():
    nested, noisy, timesteps = _nested()
    with torch.no_grad():
        for layer in (nested.leave, nested.inward):
            nn.init.normal_(layer.weight, std=0.3)
    before = nested(noisy, timesteps)
    for level in (0, 1):
        changed = list(noisy)
        changed[level] = changed[level] + 1.0
        after = nested(changed, timesteps)
        assert not torch.allclose(after[1 - level], before[1 - level])
    (reached,) = torch.autograd.grad(before[0].square().sum(), [*nested.inner.parameters()][:1])
    assert reached.abs().sum() > 0
    for name, weight in nested.named_parameters():
        if name == "after.0.second.weight":
            nn.init.normal_(weight)
    nn.init.zeros_(
        nested.outward.weight
    )  # the dependence of the inner network on the time is not tested here
    before = nested(noisy, timesteps)
    assert not torch.allclose(nested(noisy, timesteps)[0], nested(noisy, timesteps + 100)[0])


def test_a_nested_network_learns_both_levels():
    nested, _, _ = _nested()
    diffusion = MatryoshkaDiffusion(Cosine(), power=0.5)
    optimizer = torch.optim.Adam(nested.parameters(), 3e-3)
    code = (
        torch.randn(1, 6, 4, 4, generator=generator(0, "code", 0))
        .repeat_interleave(2, -1)
        .repeat_interleave(2, -2)
    )
    losses = []
    for step in range(60):
        loss = random_loss(diffusion, nested, code.expand(8, -1, -1, -1), generator(0, "train", step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_the_real_denoiser_fits_into_the_nest():
    from threedgen.ssdnerf.config import Codes, Diffusion
    from threedgen.ssdnerf.network import CodeDenoiser, noise_schedule

    settings = Diffusion(widths=(8, 16), attention=(False, False), layers=1, head=8)
    nested = NestedUNet(CodeDenoiser(Codes(2, 8), settings), 6, width=8)
    diffusion = MatryoshkaDiffusion(noise_schedule(settings), clip=2.0)
    x = torch.randn(2, 6, 16, 16, generator=generator(0, "x", 3))
    assert random_loss(diffusion, nested, x, generator(0, "loss", 0)).shape == (2,)
    samples = diffusion.sample(nested, (6, 16, 16), 2, draws(2))
    assert samples.shape == x.shape
    assert float(samples.abs().max()) <= 2.0


def test_unfit_pyramids_are_named():
    with pytest.raises(UserError, match="6 x 6"):
        MatryoshkaDiffusion(Cosine(), 3).pyramid(torch.zeros(1, 6, 6, 6))
    for bad in ({"resolutions": 0}, {"factor": 1}):
        with pytest.raises(UserError, match="pyramid"):
            MatryoshkaDiffusion(Cosine(), **bad)
    with pytest.raises(UserError, match="multiple of 8"):
        NestedUNet(Inner(6), 6, width=20)
