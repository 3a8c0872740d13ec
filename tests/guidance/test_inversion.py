"""ISM and SDI with Gaussian priors, whose probability flow is known in closed form (docs/methods.md,
"Priors in closed form" and "Interval score matching (ism)")."""

from __future__ import annotations

import itertools

import pytest
import torch

from threedgen.core.errors import UserError
from threedgen.guidance.objectives.base import Question, configure, find_objective, weight_function
from threedgen.guidance.objectives.inversion import rungs
from threedgen.guidance.priors.analytic import MixturePrior, by_prompt, gaussian
from threedgen.guidance.priors.base import Condition

SIZE = 4


def picture(seed: int) -> torch.Tensor:
    return torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(seed: int, count: int = 1) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIZE, SIZE, generator=rng, dtype=torch.float64)


def ask(name: str, prior, x, t, seed: int = 0, text: str = "cube", scale: float = 1.0, **options):
    objective = find_objective(name)(configure(name, options), prior)
    question = Question(
        prior,
        x,
        noise(seed, len(x)),
        torch.as_tensor(t, dtype=torch.float64).expand(len(x)),
        Condition((text,) * len(x)),
        scale=scale,
        weighting=weight_function("uniform"),
        seed=seed,
    )
    return objective(question)


def level(prior, t: float, std: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """alpha, sigma and sqrt(alpha^2 s^2 + sigma^2)."""
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = prior.alpha(time), prior.sigma(time)
    return alpha, sigma, (alpha**2 * std**2 + sigma**2).sqrt()


def test_the_gradient_of_interval_score_matching_is_the_closed_form():
    """u [sigma_t / D_t - sigma_s / D_s] with u = (x - mu) / s, in the limit of short steps, without any noise."""
    std, t = 0.4, 0.5
    mean = picture(1)
    prior, x = gaussian(mean, std), noise(2)
    u = (x - (mean.permute(2, 0, 1) * 2 - 1)) / std
    _, sigma_t, d_t = level(prior, t, std)
    errors = []
    for step in (0.04, 0.02, 0.01):
        _, sigma_s, d_s = level(prior, t - step, std)
        expected = u * (sigma_t / d_t - sigma_s / d_s)
        options = {"delta_t": step, "delta_s": step, "max_steps": 50}
        gradient = ask("ism", prior, x, t, **options).gradient
        errors.append(float((gradient - expected).abs().max() / expected.abs().max()))
        assert torch.equal(gradient, ask("ism", prior, x, t, seed=5, **options).gradient)
        assert bool((gradient * u >= 0.0).all())  # so descent leads to the mean
    assert errors[1] < 0.6 * errors[0], errors
    assert errors[2] < 0.6 * errors[1] < 0.06, errors


def test_interval_score_matching_compares_the_guided_text_with_the_empty_one():
    """Each step is a linear map of z - alpha mu for the Gaussian of the empty text."""
    images, std = {"cube": picture(1), "": picture(2)}, 0.4
    prior, x = MixturePrior(by_prompt(images), [std], SIZE), noise(3)
    mu = {text: image.permute(2, 0, 1) * 2 - 1 for text, image in images.items()}
    levels = [0.0, 0.2, 0.4, 0.42, 0.5]
    offset = level(prior, 0.0, std)[0] * (x - mu[""])
    for here, there in itertools.pairwise(levels):
        (a, s, d), (a_, s_, _) = level(prior, here, std), level(prior, there, std)
        before = s * offset / d**2
        offset = offset * (a_ * a * std**2 + s_ * s) / d**2
    a, s, d = level(prior, 0.5, std)
    z = offset + a * mu[""]
    eps = {text: s * (z - a * mu[text]) / d**2 for text in mu}
    expected = eps[""] + 7.5 * (eps["cube"] - eps[""]) - before
    answer = ask("ism", prior, x, 0.5, scale=7.5, delta_t=0.08, delta_s=0.2, max_steps=5)
    torch.testing.assert_close(answer.gradient, expected, rtol=1e-6, atol=1e-8)


def test_the_calls_of_interval_score_matching():
    """ceil(s / delta_s) calls up to s, one at s, whose prediction is both the next step and the target, and one
    at t."""

    class Counted(MixturePrior):
        asked = 0

        def predict(self, z, t, condition):
            Counted.asked += 1
            return super().predict(z, t, condition)

    prior = Counted(by_prompt({"cube": picture(1), "": picture(2)}), [0.3], SIZE)
    for t, expected in ((0.05, 2), (0.28, 3), (0.98, 7)):
        Counted.asked = 0
        ask("ism", prior, noise(1), t, scale=7.5)
        assert Counted.asked == expected, t
    # With too few steps to start from the clean sample it starts from a noised one, so the noise matters.
    one = ask("ism", prior, noise(1), 0.9, seed=1, max_steps=2).gradient
    assert not torch.equal(one, ask("ism", prior, noise(1), 0.9, seed=2, max_steps=2).gradient)


def test_the_rungs_of_samples_that_end_at_different_levels():
    ends = torch.tensor([0.1, 0.5, 0.95], dtype=torch.float64)
    ladder = torch.stack(rungs(ends, 0.2, 3), 1)
    assert torch.allclose(ladder[:, 0], torch.tensor([0.0, 0.0, 0.35], dtype=torch.float64))
    assert torch.equal(ladder[:, -1], ends)
    steps = ladder.diff(dim=1)
    assert bool(((steps >= 0.0) & (steps <= 0.2 + 1e-9)).all())
    assert [len(rungs(torch.tensor([t]), 0.2, 5)) for t in (0.0, 0.1, 0.4, 0.41)] == [1, 2, 3, 4]


def test_inversion_finds_the_noise_that_leads_back():
    """z_t = alpha mu + D u in the limit of short steps, so eps_inv = (z_t - alpha x) / sigma and g are known."""
    std, t = 0.4, 0.6
    mean = picture(4)
    prior, x = gaussian(mean, std), noise(5)
    mu = mean.permute(2, 0, 1) * 2 - 1
    a, s, d = level(prior, t, std)
    z = a * mu + d * (x - mu) / std
    expected = s * (z - a * mu) / d**2 - (z - a * x) / s
    errors = []
    for steps in (10, 100, 1000):
        answer = ask("sdi", prior, x, t, inversion_scale=1.0, inversion_steps=steps, eta=0.0)
        errors.append(float((answer.gradient - expected).abs().max() / expected.abs().max()))
    assert errors[0] > 2.0 * errors[1] > 4.0 * errors[2], errors
    assert errors[2] < 0.02, errors


def test_fresh_noise_keeps_the_variance_of_every_level():
    """Samples of the prior, inverted with eta = 1, are samples of the noised prior."""
    std, t, count = 0.5, 0.7, 500
    prior = gaussian(picture(6), std)
    mean = picture(6).permute(2, 0, 1) * 2 - 1
    x = mean + std * noise(7, count)
    a, _, d = level(prior, t, std)
    for eta in (0.0, 0.5, 1.0):
        answer = ask("sdi", prior, x, t, inversion_scale=1.0, inversion_steps=100, eta=eta)
        # From the predicted x0 back to z: x0 = mu + alpha s^2 (z - alpha mu) / D^2.
        z = (answer.x0 - mean) * d**2 / (a * std**2)
        assert float(z.std() / d) == pytest.approx(1.0, abs=0.03)
        # At eta = 1 all noise is replaced, at 0 none.
        kept = float(((z / d) * ((x - mean) / std)).mean())
        assert kept > 0.95 if eta == 0.0 else 0.1 < kept < 0.9 if eta == 0.5 else kept < 0.5


def test_fresh_noise_comes_from_the_seed():
    prior, x = gaussian(picture(1), 0.3), noise(2)
    first = ask("sdi", prior, x, 0.6, seed=1).gradient
    assert torch.equal(first, ask("sdi", prior, x, 0.6, seed=1).gradient)
    assert not torch.equal(first, ask("sdi", prior, x, 0.6, seed=2).gradient)
    assert torch.equal(
        ask("sdi", prior, x, 0.6, seed=1, eta=0.0).gradient,
        ask("sdi", prior, x, 0.6, seed=2, eta=0.0).gradient,
    )


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ism", {"delta_t": 0.0}, r"^options\.delta_t is 0; it must be greater than 0 and at most 1"),
        ("ism", {"delta_s": 2.0}, "delta_s is 2; it must be greater than 0 and at most 1"),
        ("ism", {"max_steps": 0}, "max_steps is 0; it must be at least 1"),
        ("ism", {"delta": 0.1}, "did you mean 'options.delta_t'"),
        ("sdi", {"inversion_steps": 0}, "inversion_steps is 0; it must be at least 1"),
        ("sdi", {"eta": 1.5}, "eta is 1.5; it must be between 0 and 1"),
        ("sds", {"eta": 0.5}, "unknown key 'options.eta'"),
        ("hifa", {"image": -1}, "image is -1; it must be at least 0"),
        ("nfsd", {"threshold": 2}, "threshold is 2; it must be between 0 and 1"),
    ],
)
def test_wrong_options_are_one_line(name, options, expected):
    with pytest.raises(UserError, match=expected):
        configure(name, options)
