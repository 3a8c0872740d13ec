"""Denoise-and-match against priors whose probability-flow solution is known in closed form."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import ring

from threedgen.core.errors import UserError
from threedgen.core.types import RenderOutput
from threedgen.guidance.denoise_and_match import DenoiseAndMatch, denoised
from threedgen.guidance.priors.analytic import MixturePrior
from threedgen.guidance.priors.base import Condition


def gaussian(std: float, mean: float = 0.6) -> MixturePrior:
    return MixturePrior(lambda c: torch.full((len(c), 1, 6, 6, 3), mean, dtype=torch.float64), [std], 6)


def sample(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_many_steps_follow_the_probability_flow_of_a_gaussian():
    """The solution keeps (z - alpha mu) / sqrt(alpha^2 s^2 + sigma^2), which at t = 0 is (x - mu) / s."""
    std, t = 0.3, 0.6
    prior, x, eps = gaussian(std), sample(0), sample(1)
    mean = 2.0 * 0.6 - 1.0
    time = torch.full((2,), t, dtype=torch.float64)
    alpha, sigma = prior.alpha(time)[0], prior.sigma(time)[0]
    z = alpha * x + sigma * eps
    exact = mean + std * (z - alpha * mean) / torch.sqrt(alpha**2 * std**2 + sigma**2)
    errors = []
    for steps in (5, 40, 300):
        result = denoised(prior, x, eps, t, Condition(("", "")), 1.0, steps)
        errors.append(float((result - exact).abs().mean()))
    assert errors[0] > 3.0 * errors[1] > 9.0 * errors[2], errors
    assert errors[2] < 0.01


def test_a_narrow_prior_names_the_target_whatever_the_noise():
    result = denoised(gaussian(1e-4), sample(2), sample(3), 0.4, Condition(("", "")), 1.0, 4)
    torch.testing.assert_close(result, torch.full_like(result, 0.2), atol=1e-3, rtol=0)


def test_little_noise_keeps_what_the_render_shows():
    prior, x = gaussian(1.0, mean=0.5), sample(4).clamp(-1, 1)
    distances = [
        float((denoised(prior, x, sample(5), t, Condition(("", "")), 1.0, 10) - x).abs().mean())
        for t in (0.02, 0.2, 0.8)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.1


def render() -> RenderOutput:
    rgb = torch.rand(2, 6, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return RenderOutput(rgb=rgb.requires_grad_(), alpha=torch.ones(2, 6, 6, 1))


def ask(step: int = 0, seed: int = 0):
    output = render()
    guidance = DenoiseAndMatch(DenoiseAndMatch.Config(t=0.3, scale=1.0), prior=gaussian(0.2))
    signal = guidance(output, ring(2), "a cube", step, 10, seed)
    (gradient,) = torch.autograd.grad(signal.loss, output.rgb)
    return signal, gradient


def test_the_gradient_is_the_distance_to_the_target_and_draws_depend_on_seed_and_step():
    signal, gradient = ask()
    assert torch.equal(gradient, ask()[1])
    assert not torch.equal(gradient, ask(step=1)[1])
    assert not torch.equal(gradient, ask(seed=1)[1])
    assert signal.preview is not None
    assert signal.preview().shape == (6, 12, 3)
    # d/drgb of 1/2 |x - target|^2 / B with x = 2 rgb - 1 is 2 (x - target) / B.
    length = float(signal.metrics["distance"]) * (2 * 6 * 6 * 3) ** 0.5
    assert float(gradient.norm()) == pytest.approx(2.0 / 2.0 * length, rel=1e-9)


def test_bad_settings():
    with pytest.raises(UserError, match="t is 0; it must be greater than 0 and at most 1"):
        DenoiseAndMatch.Config(t=0.0)
    with pytest.raises(UserError, match="denoise_steps is 0; it must be at least 1"):
        DenoiseAndMatch.Config(denoise_steps=0)
    broken = {"from": 0.5, "to": float("nan")}
    with pytest.raises(
        UserError, match="t holds nan; every number of it must be greater than 0 and at most 1"
    ):
        DenoiseAndMatch.Config(t=broken)
    with pytest.raises(UserError, match="scale holds nan; every number of it must be a finite number"):
        DenoiseAndMatch.Config(scale=broken)
