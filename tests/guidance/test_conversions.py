"""Laws of the noise schedule, of the three forms of a prediction, and of resizing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import diffusers, ring

from threedgen.core.pictures import resize_images
from threedgen.guidance.priors.base import Condition, Prediction
from threedgen.guidance.priors.processes import NoiseSchedule

levels = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**31)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(seeds, st.lists(levels, min_size=2, max_size=2))
def test_the_three_forms_agree_whichever_one_starts_from(seed, squares):
    alpha = torch.tensor(squares, dtype=torch.float64).sqrt()
    sigma = (1 - alpha**2).sqrt()
    x, eps = draw(seed, 2, 3, 4, 4), draw(seed + 1, 2, 3, 4, 4)
    a, s = alpha.reshape(2, 1, 1, 1), sigma.reshape(2, 1, 1, 1)
    z, v = a * x + s * eps, a * eps - s * x
    truth = Prediction(eps=eps, x0=x, v=v)
    for made in (
        Prediction.from_eps(z, eps, alpha, sigma),
        Prediction.from_v(z, v, alpha, sigma),
        Prediction.from_x0(z, x, alpha, sigma),
    ):
        for name in ("eps", "x0", "v"):
            torch.testing.assert_close(getattr(made, name), getattr(truth, name), rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(seeds, levels)
def test_the_identity_behind_every_distillation_loss(seed, square):
    """x - x0 = (sigma / alpha)(eps_hat - eps), for any output of the network (docs/methods.md,
    "Predictions and their conversions")."""
    alpha = torch.tensor([square], dtype=torch.float64).sqrt()
    sigma = (1 - alpha**2).sqrt()
    x, eps, answer = (draw(seed + i, 1, 3, 2, 2) for i in range(3))
    made = Prediction.from_eps(alpha * x + sigma * eps, answer, alpha, sigma)
    torch.testing.assert_close(x - made.x0, sigma / alpha * (answer - eps), rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_noise_schedule(first, second):
    """It is variance preserving, the signal falls with t, and t = 0.98 is step 980."""
    schedule = NoiseSchedule.scaled_linear()
    t = torch.tensor(sorted((first, second)), dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    assert alpha[0] >= alpha[1]
    assert schedule.timestep(torch.tensor([0.0, 0.02, 0.98, 1.0])).tolist() == [0, 20, 980, 999]


def test_scaled_linear_is_the_table_of_stable_diffusion():
    table = (
        diffusers()
        .DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        .alphas_cumprod
    )
    torch.testing.assert_close(NoiseSchedule.scaled_linear().alphas_cumprod.float(), table)


def test_resizing_keeps_the_mean_and_spreads_the_gradient():
    images = torch.rand(2, 48, 48, 3, dtype=torch.float64, requires_grad=True)
    halved = resize_images(images, 24)
    torch.testing.assert_close(halved, images.reshape(2, 24, 2, 24, 2, 3).mean((2, 4)))
    assert resize_images(images, 48) is images
    for size in (20, 24, 32):
        (gradient,) = torch.autograd.grad(resize_images(images, size).sum(), images)
        share = (size / 48) ** 2  # every source pixel carries its share of the result, none is skipped
        assert 0.5 * share < gradient.min()
        assert gradient.max() < 1.6 * share
    flat = torch.full((1, 16, 16, 3), 0.3)
    torch.testing.assert_close(resize_images(flat, 40), torch.full((1, 40, 40, 3), 0.3))
    with pytest.raises(ValueError, match="square"):
        resize_images(images[:, :24], 24)


def test_condition_checks_itself():
    with pytest.raises(ValueError, match="3 prompts for 2 cameras"):
        Condition(("a", "b", "c"), cameras=ring(2))
    one = Condition(("a", "b"), negative="ugly", cameras=ring(2))
    both = one.followed_by(one.unconditional())
    assert both.prompts == ("a", "b", "ugly", "ugly")
    assert both.cameras is not None
    assert one.cameras is not None
    torch.testing.assert_close(both.cameras.centers, one.cameras.centers.repeat(2, 1))
    with pytest.raises(ValueError, match="same cameras"):
        one.followed_by(Condition(("a", "b"), cameras=ring(2)))
