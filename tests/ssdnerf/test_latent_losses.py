"""The two losses (SSDNeRF, Chen, Gu et al. 2023): values, gradients, and the code at which they balance."""

import math

import pytest
import torch
from gaussian_codes import Cosine, some_network
from torch import nn

from threedgen.core.random import generator
from threedgen.ssdnerf.code_bank import Records
from threedgen.ssdnerf.code_optimizer import CodeOptimizer
from threedgen.ssdnerf.config import Diffusion
from threedgen.ssdnerf.decoder import activate
from threedgen.ssdnerf.losses import diffusion_loss, rendering_loss
from threedgen.ssdnerf.network import noise_schedule
from threedgen.ssdnerf.statistics import CodeStatistics

STEPS = 100  # of the noise table


class GaussianPrior:
    """Codes [B, K, 1, 1] from N(mean, covariance): the exact v of noisy codes, and the expectation of the loss over
    t and noise."""

    def __init__(self, mean: torch.Tensor, covariance: torch.Tensor, schedule) -> None:
        self.mean, self.covariance, self.schedule = mean, covariance, schedule
        self.values, self.vectors = torch.linalg.eigh(covariance)

    def levels(self, timesteps):
        cumulative = self.schedule.alphas_cumprod[timesteps]
        return cumulative.sqrt(), (1.0 - cumulative).sqrt()

    def __call__(self, z, timesteps):
        alpha, sigma = (level[:, None] for level in self.levels(timesteps))
        flat = z.flatten(1)
        off = (flat - alpha * self.mean) @ self.vectors
        clean = self.mean + (alpha * self.values / (alpha**2 * self.values + sigma**2) * off) @ self.vectors.T
        return ((alpha * flat - clean) / sigma).reshape(z.shape)

    def pull(self, power: float) -> torch.Tensor:
        """Q, where the mean over t and noise of the gradient of 1/2 w(t) |x_hat - x|^2 = Q (x - mean).

        x_hat - x = -sigma^2 M^-1 (x - mean) + alpha sigma C M^-1 eps with M = alpha^2 C + sigma^2, so that Q is the
        mean over t of w(t) sigma^4 M^-2; a uniform t falls on the table's steps with equal probability, but on the
        first with half of it, and on the last with one and a half.
        """
        count = len(self.schedule.alphas_cumprod)
        share = torch.full((count,), 1.0 / count, dtype=torch.float64)
        share[0], share[-1] = 0.5 / count, 1.5 / count
        alpha, sigma = (level[:, None] for level in self.levels(torch.arange(count)))
        weight = (alpha / sigma) ** (2 * power)
        inverse = 1.0 / (alpha**2 * self.values + sigma**2)
        diagonal = (share[:, None] * weight * sigma**4 * inverse**2).sum(0)
        return self.vectors @ torch.diag(diagonal) @ self.vectors.T


def every_noise(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One code as a batch with every time step, as often as a uniform t takes it, and each noise with both signs,
    so that means of what is linear in the noise are exact."""
    count = 4 * STEPS
    t = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    eps = torch.randn(count, *codes.shape, generator=generator(0, "eps", 0), dtype=torch.float64)
    return codes.expand(2 * count, *codes.shape), torch.cat([t, t]), torch.cat([eps, -eps])


@pytest.fixture(scope="module")
def prior() -> GaussianPrior:
    drawn = torch.randn(6, 6, generator=generator(0, "prior", 0), dtype=torch.float64)
    mean = 0.3 * torch.randn(6, generator=generator(0, "mean", 0), dtype=torch.float64)
    covariance = 0.05 * drawn @ drawn.T + 0.05 * torch.eye(6, dtype=torch.float64)
    return GaussianPrior(mean, covariance, noise_schedule(Diffusion(), STEPS))


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
def test_the_expected_pull_of_a_gaussian_prior_is_its_closed_form(prior, power):
    x = torch.randn(6, generator=generator(0, "x", 0), dtype=torch.float64).reshape(6, 1, 1).requires_grad_()
    codes, t, eps = every_noise(x)
    diffusion_loss(prior, codes, t, eps, prior.schedule, power).mean().backward()
    assert x.grad is not None
    expected = prior.pull(power) @ (x.detach().flatten() - prior.mean) / 6  # the loss is a mean over elements
    torch.testing.assert_close(x.grad.flatten(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_both_losses_meet_at_the_ridge_solution(prior, power):
    """A linear decoder and a Gaussian prior: Adam on the codes ends at the solution of the normal equations
    (s A^T A + lambda Q / K) x = s A^T y + lambda Q mean / K, s = 2 weight (1 - exp(-views / 10)) / rays."""
    decoder = torch.randn(9, 6, generator=generator(0, "decoder", 0), dtype=torch.float64)
    true = torch.rand(9, generator=generator(0, "picture", 0), dtype=torch.float64)
    weight, views = 3.0, 4
    statistics = CodeStatistics((6, 1, 1), centred=False)
    statistics.mean_square.fill_(0.3)
    prior_weight = statistics.weight(4.0).double()
    parameters = nn.Parameter(torch.full((6, 1, 1), 1e-3, dtype=torch.float64))
    zeros = torch.zeros(1, 6, 1, 1, dtype=torch.float64)
    records = Records(zeros, zeros, zeros, torch.zeros(1, dtype=torch.int64), zeros)
    optimizer = CodeOptimizer([parameters], records, 5e-2)
    _, t, eps = every_noise(parameters)
    for step in range(500):
        for group in optimizer._adam.param_groups:
            group["lr"] = 5e-2 * 0.98**step
        parameters.grad = None
        code = activate(parameters)
        pulled = diffusion_loss(prior, code.expand(len(t), 6, 1, 1), t, eps, prior.schedule, power).mean()
        seen = (decoder @ code.flatten()).reshape(3, 3)
        (prior_weight * pulled + rendering_loss(seen, true.reshape(3, 3), weight, views)).backward()
        optimizer.step()
    scale = 2.0 * weight * (1.0 - math.exp(-0.1 * views)) / 3
    pull = prior_weight / 6 * prior.pull(power)
    solution = torch.linalg.solve(
        scale * decoder.T @ decoder + pull, scale * decoder.T @ true + pull @ prior.mean
    )
    found = activate(parameters.detach()).flatten()
    assert float((found - solution).norm() / solution.norm()) < 1e-3
    least_squares = torch.linalg.lstsq(decoder, true).solution  # what it would be without a prior
    assert float((found - least_squares).norm() / solution.norm()) > 0.05


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_the_gradient_in_the_codes_is_that_of_finite_differences(power):
    codes, eps = torch.randn(2, 2, 3, 2, 2, generator=generator(0, "codes", 0), dtype=torch.float64)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)

    def loss(values):
        return diffusion_loss(some_network, values, t, eps, Cosine(), power)

    assert torch.autograd.gradcheck(loss, codes.requires_grad_(), eps=1e-6, atol=1e-8)


def test_the_gradient_goes_through_noising_and_network_and_target():
    codes, eps = torch.randn(2, 1, 3, 2, 2, generator=generator(0, "codes", 0), dtype=torch.float64)
    t = torch.tensor([0.4], dtype=torch.float64)
    codes.requires_grad_()

    def gradient(network) -> torch.Tensor:
        return torch.autograd.grad(diffusion_loss(network, codes, t, eps, Cosine(), 0.5).sum(), codes)[0]

    whole = gradient(some_network)
    target_alone = gradient(lambda z, t: some_network(z.detach(), t))
    alpha, sigma = Cosine().alpha(t), Cosine().sigma(t)
    v = some_network(alpha * codes.detach() + sigma * eps, t)
    apart = v - (alpha * eps - sigma * codes.detach())
    expected = alpha * sigma * apart * sigma / 12  # 1/2 w sigma^2 d/dx mean |v_hat - alpha eps + sigma x|^2
    torch.testing.assert_close(target_alone, expected)
    assert float((whole - target_alone).norm() / whole.norm()) > 0.1


def test_a_perfect_answer_costs_nothing_and_the_weight_is_the_papers():
    codes, eps = torch.randn(2, 3, 3, 2, 2, generator=generator(0, "codes", 0), dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = (level.reshape(3, 1, 1, 1) for level in (Cosine().alpha(t), Cosine().sigma(t)))
    target = alpha * eps - sigma * codes
    none = diffusion_loss(lambda z, t: target, codes, t, eps, Cosine(), 0.5)
    assert torch.equal(none, torch.zeros_like(none))
    for power in (0.25, 0.5):
        found = diffusion_loss(lambda z, t: torch.zeros_like(z), codes, t, eps, Cosine(), power)
        estimate = alpha * (alpha * codes + sigma * eps)  # x_hat of v = 0
        squared = (estimate - codes).square().flatten(1).mean(1)
        ratio = (alpha / sigma).flatten()
        torch.testing.assert_close(found, 0.5 * ratio ** (2 * power) * squared)


def test_the_rendering_loss_is_a_sum_over_rgb_and_a_mean_over_rays():
    seen, true = torch.rand(2, 7, 3, generator=generator(0, "rays", 0))
    expected = 20.0 * (1.0 - math.exp(-5.0)) * float((seen - true).square().sum()) / 7
    assert float(rendering_loss(seen, true, 20.0, 50)) == pytest.approx(expected, rel=1e-6)
    few = rendering_loss(seen, true, 20.0, 1) / rendering_loss(seen, true, 20.0, 50)
    assert float(few) == pytest.approx((1.0 - math.exp(-0.1)) / (1.0 - math.exp(-5.0)), rel=1e-5)
