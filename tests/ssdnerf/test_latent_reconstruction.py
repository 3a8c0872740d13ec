"""Codes of given views: guidance, finetuning, and both."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from latent_scenes import some_model

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.pictures import psnr
from threedgen.core.random import generator
from threedgen.datasets.multiview import PosedPictures
from threedgen.guidance.priors.processes import per_sample
from threedgen.ssdnerf.decoder import as_pictures
from threedgen.ssdnerf.model import LatentModel
from threedgen.ssdnerf.reconstruction import (
    Finetuning,
    Guiding,
    Reconstructed,
    Reconstruction,
    _Rays,
    finetuned,
    guided_sample,
    reconstruct,
)
from threedgen.ssdnerf.sampling import sample_codes
from threedgen.ssdnerf.views import render_code

SIZE = 12  # pixels of the training pictures of the model
VARIANCE = 0.25  # of the codes of the denoiser
NO_PRIOR = Finetuning(outer=8, inner=4, learning_rate=0.03, prior=0.0)


class GaussianModel(LatentModel):
    """A model of codes from N(0, VARIANCE), with an exact denoiser."""

    def network(self, noisy: Any, timesteps: torch.Tensor, told: Any = None, scale: float = 1.0) -> Any:
        t = timesteps / len(self.schedule.alphas_cumprod)
        alpha, sigma = (
            per_sample(level, noisy) for level in (self.schedule.alpha(t), self.schedule.sigma(t))
        )
        clean = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * noisy
        return (alpha * noisy - clean) / sigma


def gaussian_model(**changes) -> LatentModel:
    model = some_model(**changes)
    model.__class__ = GaussianModel
    model.viewpoint = replace(model.viewpoint, size=SIZE)
    return model


def cameras(count: int = 1, size: int = SIZE):
    full = torch.ones(count)
    return orbit(30.0 + 90.0 * torch.arange(count), 20.0 * full, 2.85 * full, 40.0, size, size)


def true_code(model: LatentModel) -> torch.Tensor:
    return VARIANCE**0.5 * torch.randn(model.shape, generator=generator(0, "true", 0)).clamp(-2.0, 2.0)


def seen(model: LatentModel, code: torch.Tensor, count: int = 1, size: int = SIZE) -> PosedPictures:
    """Pictures of the code."""
    images = render_code(model, code, cameras(count, size)).rgb
    return PosedPictures(images, torch.ones_like(images[..., :1]), cameras(count, size))


def quality(model: LatentModel, code: torch.Tensor, views: PosedPictures) -> float:
    return float(psnr(render_code(model, code, views.cameras).rgb, views.images).mean())


@pytest.fixture(scope="module")
def model() -> LatentModel:
    return gaussian_model()


@pytest.fixture(scope="module")
def views(model) -> PosedPictures:
    return seen(model, true_code(model))


@pytest.mark.parametrize("power", [0.25, 0.5])
@pytest.mark.parametrize("steps", [1, 20])
def test_guidance_moves_samples_towards_the_views(views, power, steps):
    """A single step has the right sign, too."""
    model = gaussian_model(diffusion={"power": power})
    free, little, more = (
        quality(model, guided_sample(model, views, Guiding(steps=steps, gain=gain, rays=10_000)), views)
        for gain in (0.0, 0.2, 1.0)
    )
    assert free < little < more


def test_guidance_without_a_gain_is_the_ordinary_sample(model, views):
    free = guided_sample(model, views, Guiding(steps=6, gain=0.0), seed=2)
    torch.testing.assert_close(free, sample_codes(model, [0], seed=2, steps=6)[0])


def test_guidance_counts_all_pixels_whichever_rays_it_looks_at(model, views):
    """Some rays stand for all pixels, and have an effect of the same size."""
    start = guided_sample(model, views, Guiding(steps=1, gain=0.0))
    moves = [
        guided_sample(model, views, Guiding(steps=1, gain=1e-3, rays=rays)) - start for rays in (10_000, 72)
    ]
    ratio = float(moves[1].norm() / moves[0].norm())
    assert 0.5 < ratio < 2.5
    assert float(torch.cosine_similarity(moves[0].flatten(), moves[1].flatten(), 0)) > 0.3


def test_guidance_is_as_strong_by_large_pictures_as_by_small_ones(model, views):
    large = seen(model, true_code(model), size=4 * SIZE)
    start = guided_sample(model, views, Guiding(steps=1, gain=0.0))
    small_move, large_move = (
        guided_sample(model, given, Guiding(steps=1, gain=1e-3, rays=10_000)) - start
        for given in (views, large)
    )
    assert float(large_move.norm() / small_move.norm()) == pytest.approx(1.0, abs=0.15)


def test_guidance_adds_up_the_pixels_of_all_views(model, views):
    """The same view twice has twice the effect."""
    images, alpha = views.images.repeat(2, 1, 1, 1), views.alpha.repeat(2, 1, 1, 1)
    twice = PosedPictures(images, alpha, views.cameras[[0, 0]])
    start = guided_sample(model, views, Guiding(steps=1, gain=0.0))
    one, two = (
        guided_sample(model, given, Guiding(steps=1, gain=1e-3, rays=10_000)) - start
        for given in (views, twice)
    )
    torch.testing.assert_close(two, 2.0 * one, rtol=1e-2, atol=1e-6)


def test_finetuning_raises_the_psnr_of_the_given_view(model, views):
    start = guided_sample(model, views, Guiding(steps=4, gain=0.05))
    before = quality(model, start, views)
    few = quality(model, finetuned(model, start, views, replace(NO_PRIOR, outer=2)), views)
    many = quality(model, finetuned(model, start, views, NO_PRIOR), views)
    assert before + 0.5 < few
    assert few + 1.0 < many


def test_the_prior_holds_finetuning_near_what_it_knows(model, views):
    """It starts from a code that is much larger than those of the prior, with a single pixel of the views."""
    start = 1.5 * torch.ones(model.shape)
    free, held = (
        finetuned(model, start, views, Finetuning(outer=6, learning_rate=0.05, prior=prior))
        for prior in (0.0, 300.0)
    )
    assert float(held.square().mean()) < 0.8 * float(free.square().mean())


def test_a_whole_reconstruction_sees_the_view_and_is_the_same_again(model, views):
    how = Reconstruction(Guiding(steps=8, gain=1.0), replace(NO_PRIOR, outer=3, prior=0.1))
    first, again, other = (reconstruct(model, views, how, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == model.shape
    assert float(first.abs().max()) <= 2.0
    free = sample_codes(model, [0], seed=1, steps=8)[0]
    assert quality(model, first, views) > quality(model, free, views) + 2.0


def test_several_views_are_all_looked_at(model):
    two = seen(model, true_code(model), count=2)
    one = PosedPictures(two.images[:1], two.alpha[:1], two.cameras[:1])
    behind = PosedPictures(two.images[1:], two.alpha[1:], two.cameras[1:])
    start = torch.zeros(model.shape)
    with_one, with_two = (finetuned(model, start, given, NO_PRIOR) for given in (one, two))
    assert quality(model, with_two, behind) > quality(model, with_one, behind) + 0.5


def test_correctors_run_and_change_the_sample(model, views):
    plain, corrected, again = (
        guided_sample(model, views, Guiding(steps=4, gain=0.5, correctors=count)) for count in (0, 2, 2)
    )
    assert bool(corrected.isfinite().all())
    assert torch.equal(corrected, again)
    assert not torch.allclose(plain, corrected, atol=1e-3)


def test_correctors_keep_the_distribution_of_a_level():
    """Langevin steps with an exact denoiser do not change the size of noisy codes."""
    from threedgen.ssdnerf.reconstruction import _corrector

    model = gaussian_model()
    denoise = lambda z, t: model.clean(z, t)  # noqa: E731
    t = torch.full((40,), 0.4)
    alpha, sigma = float(model.schedule.alpha(t)[0]), float(model.schedule.sigma(t)[0])
    size = (alpha**2 * VARIANCE + sigma**2) ** 0.5
    z = size * torch.randn(40, *model.shape, generator=generator(0, "z", 0))
    moved = _corrector(model, denoise, Guiding(correctors=30, delta=0.1), 0)(z, t, 0)
    assert float(moved.std()) / size == pytest.approx(1.0, abs=0.05)
    assert float((moved * z).mean()) / size**2 < 0.5  # and they have changed


def test_finetuning_begins_at_the_code_that_it_is_given(model, views):
    start = true_code(model)
    still = finetuned(model, start, views, Finetuning(outer=1, inner=1, learning_rate=1e-9, prior=0.0))
    torch.testing.assert_close(still, start, rtol=1e-3, atol=1e-3)
    assert finetuned(model, start, views, Finetuning(outer=0)) is start


def test_the_learning_rate_falls_from_step_to_step(model, views):
    """It falls by the factor `decay`. The first steps of Adam have the length of the learning rate, so that a code
    moves less in later steps."""
    start = torch.zeros(model.shape)
    short, long = (
        finetuned(model, start, views, Finetuning(outer=count, inner=1, decay=1e-3, prior=0.0))
        for count in (1, 6)
    )
    assert float((short - start).abs().max()) == pytest.approx(2.0 * 5e-3, rel=1e-2)
    torch.testing.assert_close(short, long, rtol=0, atol=1e-4)


def test_the_networks_stay_as_they_are(views):
    model = gaussian_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reconstruct(model, views, Reconstruction(Guiding(steps=2), replace(NO_PRIOR, outer=1, prior=1.0)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rays_are_pixels_of_the_views():
    size = 12
    images = torch.rand(2, size, size, 3, generator=generator(0, "images", 0))
    given = PosedPictures(images, torch.ones(2, size, size, 1), cameras(2))
    some = _Rays(given, 50, torch.device("cpu"), 0, "rays")
    (first, colors), (_, others) = next(some), next(some)
    assert (len(first), first.height, first.width) == (50, 1, 1)
    assert not torch.equal(colors, others)
    everything = set(map(tuple, images.reshape(-1, 3).tolist()))
    assert set(map(tuple, colors.tolist())) <= everything
    for count in (0, 288, 10_000):
        whole, colors = next(_Rays(given, count, torch.device("cpu"), 0, "rays"))
        assert whole.height == size
        assert torch.equal(colors, images.reshape(-1, 3))


def test_coarse_to_fine_kinds_are_finetuned_but_not_guided(views):
    model = some_model(diffusion={"kind": "stage-wise"})
    with pytest.raises(UserError, match="guided sampling needs a plain diffusion"):
        reconstruct(model, views)
    how = Reconstruction(Guiding(steps=0), Finetuning(outer=2, inner=1))
    assert reconstruct(model, views, how).shape == model.shape


def test_without_guidance_it_begins_at_nothing(model, views):
    nothing = reconstruct(model, views, Reconstruction(Guiding(steps=0), Finetuning(outer=0)))
    assert torch.equal(nothing, torch.zeros(model.shape))


def test_it_answers_where_it_is_asked(model, views):
    how = Reconstruction(Guiding(steps=2), replace(NO_PRIOR, outer=1))
    answer = Reconstructed(model, how)(views, cameras(3), seed=0)
    assert answer.rgb.shape == (3, 12, 12, 3)
    code = reconstruct(model, views, how, 0)
    torch.testing.assert_close(answer.rgb, render_code(model, code, cameras(3)).rgb)
    assert torch.equal(as_pictures(model.planes(code[None])), code[None])


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (Guiding, "steps", -1),
        (Guiding, "rays", 0),
        (Guiding, "gain", -1.0),
        (Guiding, "gain", float("nan")),
        (Guiding, "correctors", -1),
        (Guiding, "delta", 0.0),
        (Finetuning, "outer", -1),
        (Finetuning, "inner", 0),
        (Finetuning, "rays", -1),
        (Finetuning, "prior", -1.0),
        (Finetuning, "learning_rate", 0.0),
        (Finetuning, "decay", 1.5),
    ],
)
def test_numbers_out_of_bounds_are_named(section, name, value):
    with pytest.raises(UserError, match=f"^{name} is {value:g}; it must be "):
        section(**{name: value})
