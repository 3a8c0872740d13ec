"""Gradients and fixed points of the objectives, for priors of known score (docs/methods.md, "Predictions and their
conversions", "From a gradient to a loss", "Priors in closed form" and "Checks of an objective")."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import ring

from threedgen.core.errors import UserError
from threedgen.guidance.objectives.base import (
    WEIGHTS,
    Question,
    configure,
    find_objective,
    inject,
    weight_function,
)
from threedgen.guidance.objectives.sds import SDS, Reconstruction
from threedgen.guidance.priors import guided
from threedgen.guidance.priors.analytic import DiscPrior, MixturePrior, by_azimuth, by_prompt
from threedgen.guidance.priors.base import Condition, Prediction, Prior

SIZE = 4


def image(seed: int) -> torch.Tensor:
    return torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(std: float = 0.5, **images: torch.Tensor) -> MixturePrior:
    means = {prompt.replace("none", ""): picture for prompt, picture in images.items()}
    return MixturePrior(by_prompt(means), [std], SIZE)


def as_x(picture: torch.Tensor) -> torch.Tensor:
    return picture.permute(2, 0, 1) * 2 - 1


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 1000),
    st.floats(0.05, 0.95),
    st.floats(0.05, 2.0),
    st.sampled_from(list(WEIGHTS)),
)
def test_sds_gradient_is_the_closed_form(seed, t, std, weighting):
    """g = w [sigma alpha (x - mu) - alpha^2 s^2 eps] / D with D = alpha^2 s^2 + sigma^2, for each noise."""
    mean = image(seed)
    prior = gaussian(std, cube=mean)
    x, eps = noise(seed + 1, 2, 3, SIZE, SIZE), noise(seed + 2, 2, 3, SIZE, SIZE)
    times = torch.full((2,), t, dtype=torch.float64)
    named = weight_function(weighting)
    question = Question(prior, x, eps, times, Condition(("cube", "cube")), weighting=named)
    gradient = SDS(SDS.Config(), prior)(question).gradient
    alpha, sigma = prior.alpha(times)[0], prior.sigma(times)[0]
    spread = alpha**2 * std**2 + sigma**2
    expected = named(alpha, sigma) * (sigma * alpha * (x - as_x(mean)) - alpha**2 * std**2 * eps) / spread
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)
    # The same through x0, and the meaning of the weighting "recon": the plain residual in x0.
    through_x0 = Reconstruction(Reconstruction.Config(), prior)(question)
    torch.testing.assert_close(through_x0.gradient, gradient, rtol=1e-8, atol=1e-10)
    if weighting == "recon":
        torch.testing.assert_close(gradient, x - through_x0.x0, rtol=1e-8, atol=1e-10)


def test_mixture_is_the_score_of_its_density():
    """eps_hat = -sigma grad log p_t(z), with p_t as a density that is differentiated."""
    pictures = torch.stack([image(1), image(2), image(3)])
    stds, weights = torch.tensor([0.3, 0.6, 0.2]), torch.tensor([1.0, 2.0, 0.5])
    prior = MixturePrior(
        lambda c: pictures.expand(len(c), -1, -1, -1, -1), stds.tolist(), SIZE, weights.tolist()
    )
    t = torch.tensor([0.2, 0.5], dtype=torch.float64)
    z = (0.5 * noise(4, 2, 3, SIZE, SIZE)).requires_grad_()
    alpha, sigma = prior.alpha(t).reshape(2, 1, 1, 1), prior.sigma(t).reshape(2, 1, 1, 1)
    terms = []
    for k in range(3):
        spread = alpha**2 * stds[k].double() ** 2 + sigma**2
        normal = torch.distributions.Normal(alpha * as_x(pictures[k]), spread.sqrt())
        terms.append(weights[k].double().log() + normal.log_prob(z).sum((1, 2, 3)))
    log_density = torch.logsumexp(torch.stack(terms), 0).sum()
    (score,) = torch.autograd.grad(log_density, z)
    prediction = prior.predict(z.detach(), t, Condition(("", "")))
    torch.testing.assert_close(prediction.eps, -sigma * score, rtol=1e-6, atol=1e-7)


def descend(prior: Prior, x: torch.Tensor, steps: int, scale: float, render=lambda x: x, weighting="sds"):
    """Gradient descent on objectives.inject with antithetic noises, and a decaying learning rate."""
    x = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / steps) ** 2 + 1e-4)
    for step in range(steps):
        pictures = render(x)
        half = noise(step, 2, *pictures.shape[1:])
        eps = torch.cat([half, -half])
        t = torch.full((4,), 0.1 + 0.8 * ((step * 0.618) % 1.0), dtype=torch.float64)
        batch = pictures.expand(4, -1, -1, -1)
        named = weight_function(weighting)
        question = Question(
            prior, batch.detach(), eps, t, Condition(("cube",) * 4), scale=scale, weighting=named
        )
        loss = inject(batch, SDS(SDS.Config(), prior)(question).gradient)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return render(x).detach()


def test_descent_ends_at_the_mean():
    mean = image(5)
    end = descend(gaussian(0.1, cube=mean), torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64), 250, 1.0)
    assert (end - as_x(mean)).square().mean() < 1e-5  # > 56 dB over a range of 2


def test_guidance_extrapolates_the_fixed_point():
    """x* = mu_u + scale (mu_c - mu_u): a large scale over-saturates (docs/methods.md, "Priors in
    closed form")."""
    conditional, unconditional = image(6), image(7)
    prior = gaussian(0.3, cube=conditional, none=unconditional)
    end = descend(prior, torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64), 900, 3.0)
    mu_c, mu_u = as_x(conditional), as_x(unconditional)
    torch.testing.assert_close(end[0], mu_u + 3.0 * (mu_c - mu_u), rtol=0, atol=5e-3)


@pytest.mark.parametrize("weighting", ["sds", "recon", "fantasia3d"])
def test_a_linear_renderer_ends_at_least_squares(weighting):
    """x = A theta: theta* = argmin |A theta - mu|^2 for every positive w(t)."""
    matrix = noise(8, 3 * SIZE * SIZE, 5) / 4
    mean = image(9)
    theta = torch.linalg.lstsq(matrix, as_x(mean).flatten()).solution
    prior = gaussian(0.2, cube=mean)
    start = torch.zeros(5, dtype=torch.float64)
    end = descend(prior, start, 350, 1.0, lambda p: (matrix @ p).reshape(1, 3, SIZE, SIZE), weighting)
    torch.testing.assert_close(end.flatten(), matrix @ theta, rtol=0, atol=5e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 1000), st.floats(1e-8, 1e8))
def test_inject_gives_the_gradient_over_the_batch_to_the_last_bit(batch, seed, size):
    x = (noise(seed, batch, 3, 2, 2).float() * 100).requires_grad_()
    gradient = noise(seed + 1, batch, 3, 2, 2).float() * size
    loss = inject(x, gradient)
    (got,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(got, gradient / batch, rtol=2e-7, atol=0)
    torch.testing.assert_close(loss, 0.5 * gradient.square().sum() / batch)


def test_inject_sums_over_pixels_and_averages_over_the_batch():
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    gradient = torch.ones(1, 3, 4, 4)
    assert inject(x, gradient) == 24.0
    assert inject(x.expand(4, -1, -1, -1), gradient.expand(4, -1, -1, -1)) == 24.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(-5.0, 200.0))
def test_guidance_conventions(seed, scale):
    """cond + s (cond - uncond) is guidance at scale 1 + s; scale 1 is the conditional branch, scale 0 the other."""
    made = []
    for i in (0, 1):
        z, eps = noise(99, 1, 3, 2, 2), noise(seed + i, 1, 3, 2, 2)
        alpha = torch.tensor([0.8], dtype=torch.float64)
        made.append(Prediction.from_eps(z, eps, alpha, (1 - alpha**2).sqrt()))
    c, u = made
    pushed = guided.guide(c, u, 1.0 + scale)
    torch.testing.assert_close(pushed.eps, c.eps + scale * (c.eps - u.eps))
    # The forms are consistent: combining x0 and v is the same as combining eps.
    again = Prediction.from_eps(noise(99, 1, 3, 2, 2), pushed.eps, alpha, (1 - alpha**2).sqrt())
    torch.testing.assert_close(pushed.x0, again.x0)
    torch.testing.assert_close(pushed.v, again.v)
    torch.testing.assert_close(guided.guide(c, u, 1.0).eps, c.eps)
    torch.testing.assert_close(guided.guide(c, u, 0.0).eps, u.eps)


def test_rescale_restores_the_joint_contrast_of_a_group():
    alpha = torch.full((4,), 0.6, dtype=torch.float64)
    sigma = torch.full((4,), 0.8, dtype=torch.float64)
    z = noise(1, 4, 3, 4, 4)
    conditional = Prediction.from_x0(z, noise(2, 4, 3, 4, 4), alpha, sigma)
    loud = Prediction.from_x0(z, 7.0 * noise(3, 4, 3, 4, 4) + 1.0, alpha, sigma)
    full = guided.rescale(loud, conditional, z, alpha, sigma, 1.0, group=2)
    for pair in (slice(0, 2), slice(2, 4)):
        torch.testing.assert_close(full.x0[pair].std(), conditional.x0[pair].std())
        # One factor for each group: the views keep their contrast relative to each other.
        ratio = full.x0[pair] / loud.x0[pair]
        torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio))
    half = guided.rescale(loud, conditional, z, alpha, sigma, 0.5, group=2)
    torch.testing.assert_close(half.x0, 0.5 * full.x0 + 0.5 * loud.x0)
    torch.testing.assert_close(half.eps, Prediction.from_x0(z, half.x0, alpha, sigma).eps)
    with pytest.raises(ValueError, match="groups of 3"):
        guided.rescale(loud, conditional, z, alpha, sigma, 0.5, group=3)


def test_clipped_x0_stays_in_the_range_of_pictures():
    prior = gaussian(0.3, cube=image(1), none=1.0 - image(1))
    x, eps, t = (
        noise(1, 1, 3, SIZE, SIZE),
        noise(2, 1, 3, SIZE, SIZE),
        torch.tensor([0.5], dtype=torch.float64),
    )
    free = Question(prior, x, eps, t, Condition(("cube",)), scale=20.0).evaluate()
    clipped = Question(prior, x, eps, t, Condition(("cube",)), scale=20.0, clip_x0=True).evaluate()
    assert free.guided.x0.abs().max() > 1.5
    torch.testing.assert_close(clipped.guided.x0, free.guided.x0.clamp(-1, 1))


def test_camera_dependent_means_reach_each_view():
    pictures = torch.stack([image(i) for i in range(4)])
    prior = MixturePrior(by_azimuth(pictures), [1e-4], SIZE, camera_conditioned=True)
    x, t = torch.zeros(4, 3, SIZE, SIZE, dtype=torch.float64), torch.full((4,), 0.5, dtype=torch.float64)
    seen = Question(prior, x, noise(0, *x.shape), t, Condition(("a",) * 4, cameras=ring(4)), scale=2.0)
    torch.testing.assert_close(prior.decode(seen.evaluate().guided.x0), pictures, rtol=0, atol=1e-3)


def test_disc_prior_is_a_prior():
    prior = DiscPrior(size=16)
    assert isinstance(prior, Prior)
    picture = prior.decode(prior.predict(torch.zeros(1, 3, 16, 16), torch.ones(1), Condition(("x",))).x0)[0]
    torch.testing.assert_close(picture[8, 8], torch.tensor([0.8, 0.2, 0.2]), rtol=0, atol=0.02)
    torch.testing.assert_close(picture[0, 0], torch.ones(3), rtol=0, atol=0.02)


@pytest.mark.parametrize("find", [find_objective, weight_function])
def test_unknown_names_list_the_known_ones(find):
    with pytest.raises(UserError, match=r"unknown .* 'sdss'.*: (known|use one of|sds)"):
        find("sdss")


class Counted(MixturePrior):
    """Records all conditions it receives."""

    def __init__(self, **images: torch.Tensor) -> None:
        super().__init__(by_prompt({k.replace("none", ""): v for k, v in images.items()}), [0.3], SIZE)
        self.asked: list[Condition] = []

    def predict(self, z, t, condition):
        self.asked.append(condition)
        return super().predict(z, t, condition)


def descend_to(name: str, prior: Prior, steps: int, condition: Condition, **settings_) -> torch.Tensor:
    """The end of gradient descent on one sample, with opposite noises at t = 0.5."""
    options = settings_.pop("options", {})
    objective = find_objective(name)(configure(name, options), prior)
    x = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1.0 - step / steps) ** 2
        half = noise(step, 1, 3, SIZE, SIZE)
        t = torch.full((2,), 0.5, dtype=torch.float64)
        batch = x.expand(2, -1, -1, -1)
        both = Condition(condition.prompts * 2, condition.negative)
        question = Question(prior, batch.detach(), torch.cat([half, -half]), t, both, **settings_)
        loss = inject(batch, objective(question).gradient)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return x.detach()


def test_classifier_score_distillation_needs_different_spreads():
    """x* = (A_c mu_c - A_u mu_u) / (A_c - A_u), A = sigma / D; with equal spreads x diverges (docs/methods.md,
    "Linear combinations of branches")."""
    images = {"cube": image(6), "": image(7)}
    spreads = {"cube": 0.3, "": 2.0}

    def stds(condition: Condition) -> torch.Tensor:
        return torch.tensor([[spreads[str(text)]] for text in condition.prompts], dtype=torch.float64)

    prior = MixturePrior(by_prompt(images), stds, SIZE)
    level = torch.tensor([0.5], dtype=torch.float64)
    alpha, sigma = prior.alpha(level), prior.sigma(level)
    strength = {text: sigma / (alpha**2 * s**2 + sigma**2) for text, s in spreads.items()}
    c, u = strength["cube"], strength[""]
    expected = (c * as_x(images["cube"]) - u * as_x(images[""])) / (c - u)
    end = descend_to("csd", prior, 500, Condition(("cube",)))
    torch.testing.assert_close(end[0], expected, rtol=0, atol=5e-3)
    # With equal spreads the gradient is constant, and the same a hundred units away.
    flat = MixturePrior(by_prompt(images), [0.3], SIZE)
    csd = find_objective("csd")(configure("csd", {}), flat)

    def push(x: torch.Tensor) -> torch.Tensor:
        return csd(Question(flat, x, torch.zeros_like(x), level, Condition(("cube",)))).gradient

    here = push(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64))
    torch.testing.assert_close(push(torch.full((1, 3, SIZE, SIZE), 100.0, dtype=torch.float64)), here)
    drift = sigma**2 * sigma * alpha / (alpha**2 * 0.3**2 + sigma**2)
    torch.testing.assert_close(here[0], -drift * (as_x(images["cube"]) - as_x(images[""])))


def test_the_negative_of_classifier_score_distillation_takes_over_during_the_run():
    """The coarse stage of the reference code: a_n goes from 0 to -1 while a_0 goes from -1 to 0. Each step is one
    batch without unused branches."""
    prior = Counted(cube=image(1), ugly=image(2), none=image(3))
    options = {"negative": {"from": 0.0, "to": -1.0}, "empty": {"from": -1.0, "to": 0.0}}
    csd = find_objective("csd")(configure("csd", options), prior)
    x, eps = noise(1, 1, 3, SIZE, SIZE), noise(2, 1, 3, SIZE, SIZE)
    t = torch.tensor([0.5], dtype=torch.float64)
    found = []
    for step in (0, 5, 10):
        question = Question(prior, x, eps, t, Condition(("cube",), "ugly"), step=step, total=11)
        found.append(csd(question).gradient)
    assert [condition.prompts for condition in prior.asked] == [
        ("cube", ""),
        ("cube", "ugly", ""),
        ("cube", "ugly"),
    ]
    torch.testing.assert_close(found[1], (found[0] + found[2]) / 2)
    with pytest.raises(UserError, match=r"sum to -1 all the time.* -0.995 at 1% of the run"):
        configure("csd", {"negative": {"from": 0.0, "to": 0.5}})
    with pytest.raises(UserError, match=r"give -6 at 33% of the run"):
        configure("csd", {"negative": {0: 0, 0.333: -5, 0.338: 0}})


def test_noise_free_distillation_above_and_below_its_threshold():
    images = {"cube": image(1), "ugly": image(2), "": image(3)}
    prior = MixturePrior(by_prompt(images), [0.4], SIZE)
    nfsd = find_objective("nfsd")(configure("nfsd", {}), prior)
    x, eps = noise(1, 2, 3, SIZE, SIZE), noise(2, 2, 3, SIZE, SIZE)
    t = torch.tensor([0.1, 0.5], dtype=torch.float64)
    question = Question(
        prior,
        x,
        eps,
        t,
        Condition(("cube", "cube"), "ugly"),
        scale=7.5,
        weighting=WEIGHTS["uniform"],
    )
    z = question.noised()
    said = {text: prior.predict(z, t, Condition((text,) * 2)).eps for text in images}
    classifier = 7.5 * (said["cube"] - said[""])
    got = nfsd(question).gradient
    torch.testing.assert_close(got[0], (said[""] + classifier)[0])
    torch.testing.assert_close(got[1], (said[""] - said["ugly"] + classifier)[1])


def test_the_image_term_of_hifa_is_the_distance_to_the_decoded_picture():
    prior = gaussian(0.3, cube=image(1))
    x, eps = noise(1, 1, 3, SIZE, SIZE), noise(2, 1, 3, SIZE, SIZE)
    t = torch.tensor([0.4], dtype=torch.float64)
    question = Question(prior, x, eps, t, Condition(("cube",)), images=image(9).unsqueeze(0))
    for share in (0.1, 0.7):
        answer = find_objective("hifa")(configure("hifa", {"image": share}), prior)(question)
        kappa = share * prior.sigma(t) * prior.alpha(t)  # w alpha / sigma with w = sigma^2
        expected = kappa * (image(9) - prior.decode(answer.x0)[0])
        assert answer.image_gradient is not None
        torch.testing.assert_close(answer.image_gradient[0], expected)
        torch.testing.assert_close(answer.gradient, SDS(SDS.Config(), prior)(question).gradient)


def test_view_prompts_cure_a_prior_that_prefers_the_front():
    """A toy model of the Janus problem (docs/methods.md, "Checks of an objective"): without words for the view
    every side becomes a front, with them none does."""
    front, back = image(1), image(2)
    everywhere = MixturePrior(
        lambda c: torch.stack([front, back]).expand(len(c), 2, -1, -1, -1), [0.3, 0.3], SIZE, [9.0, 1.0]
    )
    told = MixturePrior(by_prompt({"front": front, "back": back}), [0.3], SIZE)
    blind = descend_to("sds", everywhere, 200, Condition(("back",)))
    seeing = descend_to("sds", told, 200, Condition(("back",)))

    def distance(x: torch.Tensor, picture: torch.Tensor) -> float:
        return float((x[0] - as_x(picture)).square().mean())

    assert distance(blind, front) < 0.1 * distance(blind, back)
    assert distance(seeing, back) < 1e-3 < 0.1 * distance(seeing, front)
