"""Samplers of codes: the flow that they follow, guidance, and what a sample depends on."""

import itertools

import pytest
import torch
from latent_scenes import some_model

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.ssdnerf.config import Diffusion
from threedgen.ssdnerf.network import noise_schedule
from threedgen.ssdnerf.sampling import (
    SAMPLERS,
    denoise_codes,
    draw_noise,
    integrate,
    interpolate,
    make_scheduler,
    sample_codes,
)

WORDS = ("a", "blue", "car", "red")
MEAN, DEVIATION = 0.7, torch.tensor([0.2, 0.5, 1.0, 1.5]).reshape(1, 4, 1, 1)
SCHEDULES = {"linear": noise_schedule(Diffusion()), "cosine": noise_schedule(Diffusion(schedule="cosine"))}


def noise(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 4, 2, 2, generator=generator(0, "noise", 0))


def gaussian(schedule):
    """E[x | z] of codes from N(MEAN, DEVIATION^2) by channel."""

    def denoise(z, t):
        alpha, sigma = schedule.alpha(t).reshape(-1, 1, 1, 1), schedule.sigma(t).reshape(-1, 1, 1, 1)
        gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        return MEAN + gain * (z - alpha * MEAN)

    return denoise


def flow(schedule, z: torch.Tensor) -> torch.Tensor:
    """The end of the probability flow of that Gaussian, along which the standardised z is constant."""
    t = torch.ones(1)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return MEAN + DEVIATION * (z - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2).sqrt()


def error(schedule, steps: int, sampler: str) -> float:
    z = noise()
    found = integrate(gaussian(schedule), z, schedule, steps, sampler)
    return float((found - flow(schedule, z)).abs().max())


@pytest.mark.parametrize("kind", SCHEDULES)
def test_ddim_follows_the_probability_flow(kind):
    """It is of first order: the error falls with the number of steps, also if this does not divide the table."""
    errors = [error(SCHEDULES[kind], steps, "ddim") for steps in (25, 75, 150, 400)]
    assert errors[3] < 0.02
    assert all(after < before / 1.7 for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_dpm_solver_agrees_with_ddim_and_needs_fewer_steps(kind):
    schedule = SCHEDULES[kind]
    both = [integrate(gaussian(schedule), noise(), schedule, 400, sampler) for sampler in SAMPLERS]
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=0.02)
    assert error(schedule, 20, "dpm-solver++") < 0.6 * error(schedule, 20, "ddim")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps_begin_at_pure_noise_and_what_is_told_is_where_they_are(sampler):
    schedule, seen = SCHEDULES["linear"], []

    def denoise(z, t):
        seen.extend(schedule.timestep(t[:1]).tolist())
        return torch.zeros_like(z)

    integrate(denoise, noise(1), schedule, 5, sampler)
    assert seen == [999, 799, 599, 399, 199]
    assert make_scheduler(schedule, 5, sampler).alphas_cumprod[[0, 500, 999]].tolist() == pytest.approx(
        schedule.alphas_cumprod[[0, 500, 999]].tolist(), rel=1e-4
    )


def test_what_comes_after_a_step_is_at_the_level_it_ends_at():
    schedule, seen = SCHEDULES["linear"], []

    def after(z, t, step):
        seen.append((step, int(schedule.timestep(t[:1]))))
        return torch.zeros_like(z)

    asked = []

    def denoise(z, t):
        asked.append(float(z.abs().max()))
        return z

    integrate(denoise, noise(1), schedule, 4, "ddim", after)
    assert seen == [(0, 749), (1, 499), (2, 249)]
    assert asked[0] > 0.0
    assert asked[1:] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [*(("plain", sampler) for sampler in SAMPLERS), ("stage-wise", "ddim"), ("matryoshka", "ddim")],
)
def test_a_sample_of_a_number_does_not_depend_on_the_others(kind, sampler):
    model = some_model(diffusion={"kind": kind})
    together = sample_codes(model, [0, 1, 5], seed=3, steps=6, sampler=sampler)
    alone = sample_codes(model, [5], seed=3, steps=6, sampler=sampler)
    torch.testing.assert_close(together[2:], alone, rtol=1e-4, atol=1e-4)
    assert float((together[0] - together[1]).abs().max()) > 0.1
    again = sample_codes(model, [5], seed=3, steps=6, sampler=sampler)
    other = sample_codes(model, [5], seed=4, steps=6, sampler=sampler)
    assert torch.equal(alone, again)
    assert not torch.allclose(alone, other, atol=0.1)
    assert float(together.abs().max()) <= 2.0


def test_guidance_of_scale_1_is_none_and_of_scale_0_is_unconditional():
    model = some_model(WORDS)
    told, z, t = model.denoiser.tokens(["a red car"] * 2), noise_of(model), torch.tensor([700, 300])
    said, unsaid = model.network(z, t, told), model.network(z, t)
    assert float((said - unsaid).abs().max()) > 1e-4  # words make a difference
    assert torch.equal(model.network(z, t, told, 1.0), said)
    torch.testing.assert_close(model.network(z, t, told, 0.0), unsaid, rtol=1e-4, atol=1e-5)
    expected = unsaid + 2.5 * (said - unsaid)
    torch.testing.assert_close(model.network(z, t, told, 2.5), expected, rtol=1e-3, atol=1e-5)
    plain, none, guided = (
        sample_codes(model, [0], caption=caption, scale=scale, steps=4)
        for caption, scale in ((None, 3.0), ("a red car", 0.0), ("a red car", 3.0))
    )
    torch.testing.assert_close(plain, none, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, guided, atol=1e-4)


def noise_of(model) -> torch.Tensor:
    return draw_noise(model, [0, 1], 0)


def test_words_mean_something_in_their_place():
    model = some_model(WORDS)
    z, t = noise_of(model)[:1], torch.tensor([500])
    answers = [
        model.network(z, t, model.denoiser.tokens([text])) for text in ("red car", "car red", "Red, CAR!")
    ]
    assert not torch.allclose(answers[0], answers[1], atol=1e-6)
    assert torch.equal(answers[0], answers[2])
    padded = model.denoiser.tokens(["red car", "a blue car a red car"])[:1]
    torch.testing.assert_close(model.network(z, t, padded), answers[0], rtol=1e-5, atol=1e-6)
    silent = model.denoiser.tokens([None, ""])
    assert not bool(silent.any())
    torch.testing.assert_close(model.network(z, t, silent[:1]), model.network(z, t))


@pytest.mark.parametrize(
    ("words", "caption", "said"),
    [
        (WORDS, "a green car", "this model does not know the word 'green'; it knows a, blue, car, red"),
        ((), "a car", "this model does not know the word 'a'; it knows none"),
        (WORDS, "a " * 40, "the caption has 40 words; it may have at most 32"),
    ],
)
def test_words_that_a_model_does_not_know_are_named(words, caption, said):
    with pytest.raises(UserError) as caught:
        sample_codes(some_model(words), [0], caption=caption, steps=2)
    assert said in str(caught.value)


def test_interpolation_begins_and_ends_at_its_ends():
    first, last = noise(2)
    between = interpolate(first, last, 5)
    torch.testing.assert_close(between[0], first)
    torch.testing.assert_close(between[-1], last, rtol=1e-4, atol=1e-5)
    even = interpolate(first / first.norm(), last / last.norm(), 5).flatten(1)
    torch.testing.assert_close(even.norm(dim=1), torch.ones(5))
    steps = (even[1:] * even[:-1]).sum(1)
    torch.testing.assert_close(steps, steps[:1].expand(4), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(interpolate(first, first, 3), first.expand(3, *first.shape))


def test_samples_of_interpolated_noises_begin_and_end_at_those_of_the_ends():
    model = some_model()
    ends = draw_noise(model, [2, 7], 0)
    found = denoise_codes(model, interpolate(ends[0], ends[1], 3), steps=4)
    expected = sample_codes(model, [2, 7], steps=4)
    torch.testing.assert_close(found[[0, 2]], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["stage-wise", "matryoshka"])
def test_coarse_to_fine_kinds_have_a_sampler_of_their_own(kind):
    model = some_model(WORDS, diffusion={"kind": kind})
    found, again = (sample_codes(model, range(2), caption="a car", scale=2.0, steps=4) for _ in range(2))
    assert found.shape == (2, *model.shape)
    assert float(found.abs().max()) <= 2.0
    assert torch.equal(found, again)
    assert not torch.equal(found, sample_codes(model, range(2), seed=1, caption="a car", scale=2.0, steps=4))
    for wrong in (
        lambda: sample_codes(model, [0], sampler="dpm-solver++"),
        lambda: denoise_codes(model, draw_noise(model, [0], 0)),
    ):
        with pytest.raises(UserError, match=kind):
            wrong()


@pytest.mark.parametrize("kind", ["plain", "stage-wise", "matryoshka"])
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_numbers_of_steps_that_cannot_be_are_reported(kind, steps):
    with pytest.raises(UserError, match="step"):
        sample_codes(some_model(diffusion={"kind": kind}), [0], steps=steps)


def test_an_unknown_sampler_is_named():
    with pytest.raises(UserError, match=r"unknown sampler 'euler': use ddim or dpm-solver\+\+"):
        sample_codes(some_model(), [0], sampler="euler")


@pytest.mark.parametrize("kind", ["plain", "stage-wise", "matryoshka"])
def test_centred_codes_are_sampled_where_they_lie(kind):
    """A denoiser that has learnt nothing makes codes with the mean and the size of the training codes."""
    model = some_model(diffusion={"kind": kind, "centred": True})
    center = torch.linspace(-1.0, 1.0, model.statistics.center.numel()).reshape(model.shape)
    model.statistics.center.copy_(center)
    model.statistics.mean_square.fill_(1e-6)
    found = sample_codes(model, range(2), steps=4)
    assert float((found - center).abs().max()) < 0.1
    assert float((found - center).abs().max()) > 0.0
