"""NeRF-guided distillation (NerfDiff, Gu et al. 2023, algorithm 1) with denoisers whose predictions are known."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nerfdiff_scenes import cube_source, seen, tiny_model, virtual

from threedgen.core.errors import UserError
from threedgen.core.pictures import psnr
from threedgen.loop.background import ColorBackground
from threedgen.loop.distill import distill
from threedgen.nerfdiff.camera_triplane import CameraTriplane, LearningRates
from threedgen.nerfdiff.distillation import NerfGuidedDistillation, corrected
from threedgen.nerfdiff.sampling import levels, signed
from threedgen.nerfdiff.virtual_views import ViewsInTurn, in_turn
from threedgen.renderers.volume import VolumeRenderer

VIEWS, BATCH = 8, 4
RATES = LearningRates(planes=0.1, decoder=0.02)


def _run(targets, gamma, passes=8, seed=0, repeats=1, t=(0.8, 0.02)):
    """Distils the source of the cube with a denoiser that always predicts `targets`, [V, 3, S, S]."""
    source = cube_source()
    scene = CameraTriplane(CameraTriplane.Config(learning_rates=RATES), seed, source)
    guidance = NerfGuidedDistillation(
        NerfGuidedDistillation.Config(count=VIEWS, gamma=gamma, repeats=repeats, t=t),
        "cpu",
        source,
        lambda z, t, shown, views: targets[views],
    )
    cameras = virtual(VIEWS)
    scores = []

    def listen(event):
        if type(event).__name__ == "StepDone" and (event.step + 1) % (VIEWS // BATCH) == 0:
            with torch.no_grad():
                views = VolumeRenderer(VolumeRenderer.Config(samples=32))(
                    scene.at(), cameras, torch.ones(3)
                ).rgb
            scores.append(views)

    distill(
        scene,
        VolumeRenderer(VolumeRenderer.Config(samples=32)),
        ViewsInTurn(cameras, source.camera, BATCH),
        [guidance],
        "",
        steps=passes * VIEWS // BATCH,
        seed=seed,
        background=ColorBackground(ColorBackground.Config(random=0.0)),
        listeners=(listen,),
    )
    return scene, guidance, scores


def test_an_exact_denoiser_is_reconstructed_and_every_outer_step_helps():
    truth = seen(virtual(VIEWS)).images
    _, _, views = _run(signed(truth), gamma=0.5, passes=1 + 4 * 9, repeats=4)
    scores = [psnr(view, truth).mean().item() for view in views[::4]]
    rises = [after - before for before, after in itertools.pairwise(scores)]
    assert min(rises) > 0.0, scores
    assert scores[-1] > scores[0] + 6.0, scores


def test_gamma_reconciles_views_that_disagree():
    """If every other view is to be red and the others blue, the estimates of a guided run differ less. (At low
    noise the correction vanishes, and this denoiser ignores its input, so the run ends half way.)"""
    red, blue = (signed(seen(virtual(VIEWS), "cube", color).images) for color in ("red", "blue"))
    half = torch.arange(VIEWS) % 2 == 0
    mixed = torch.where(half[:, None, None, None], red, blue)

    def spread(gamma: float) -> float:
        _, guidance, _ = _run(mixed, gamma, t=(0.8, 0.5))
        colors = guidance.images.mean(dim=(2, 3))
        return colors.var(dim=0).sum().item()

    free, guided = spread(0.0), spread(0.5)
    assert guided < 0.8 * free, (free, guided)


def test_without_guidance_the_estimate_is_what_the_denoiser_sees():
    truth = signed(seen(virtual(VIEWS)).images)
    _, guidance, _ = _run(truth, gamma=0.0, passes=3)
    torch.testing.assert_close(guidance.images, truth)


@given(st.floats(0.05, 0.95), st.floats(0.0, 50.0), st.integers(0, 100))
def test_the_correction_is_the_papers_change_of_the_noise(t, gamma, seed):
    """I^ - gamma_t sigma^2/alpha^2 (I^ - I_theta) = (Z - sigma eps~) / alpha with eps~ = eps + gamma_t
    sigma/alpha (...)."""
    rng = torch.Generator().manual_seed(seed)
    z, eps, render = (torch.randn(2, 3, 4, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    alpha, sigma = levels(t)
    clean = (z - sigma * eps) / alpha
    capped = min(gamma, alpha**2 / sigma**2)
    noise = eps + capped * sigma / alpha * (clean - render)
    torch.testing.assert_close(corrected(clean, render, alpha, sigma, gamma), (z - sigma * noise) / alpha)


def test_a_boundless_gamma_makes_the_estimate_the_render():
    clean, render = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(corrected(clean, render, 0.6, 0.8, math.inf), render)


def test_every_view_takes_every_ddim_step_once_whatever_is_repeated():
    truth = signed(seen(virtual(VIEWS)).images)
    asked = []
    source = cube_source()

    def denoiser(z, t, shown, views):
        asked.append((round(t, 6), tuple(views.tolist())))
        return truth[views]

    guidance = NerfGuidedDistillation(
        NerfGuidedDistillation.Config(count=VIEWS, repeats=2), "cpu", source, denoiser
    )
    cameras = ViewsInTurn(virtual(VIEWS), source.camera, BATCH)
    scene = CameraTriplane(CameraTriplane.Config(), 0, source)
    renderer, total = VolumeRenderer(VolumeRenderer.Config(samples=8)), 5 * VIEWS // BATCH
    steps = guidance.ddim_steps(total, BATCH)
    assert len(steps) == 2
    for step in range(total):
        views = cameras(0, step, total)
        for _ in range(2):  # a step that was undone is taken again
            guidance(renderer(scene.at(), views, torch.ones(3)), views, "", step, total, 0)
    assert [t for t, _ in asked] == [round(t, 6) for t in steps for _ in range(VIEWS // BATCH)]
    assert sorted(view for t, views in asked if t == round(steps[0], 6) for view in views) == list(
        range(VIEWS)
    )


def test_views_come_in_turn():
    seen_views = [view for step in range(4) for view in in_turn(step, 2, 8)[1].tolist()]
    assert seen_views == list(range(8))
    assert in_turn(4, 2, 8)[0] == 1


def test_a_run_without_time_for_a_ddim_step_says_so():
    guidance = NerfGuidedDistillation(NerfGuidedDistillation.Config(count=VIEWS), "cpu", cube_source())
    with pytest.raises(UserError, match="at least 6 steps"):
        guidance.ddim_steps(5, BATCH)


@pytest.mark.parametrize(
    "values",
    [
        {"gamma": -1.0},
        {"gamma": math.nan},
        {"t": (0.2, 0.8)},
        {"t": (0.5, 0.0)},
        {"count": 0},
        {"source": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_one_line(values):
    with pytest.raises(UserError):
        NerfGuidedDistillation.Config(**values)


def test_the_shared_decoder_stays_as_it_was():
    model = tiny_model()
    before = [value.clone() for value in model.parameters()]
    source = cube_source(model)
    truth = signed(seen(virtual(VIEWS)).images)
    scene = CameraTriplane(CameraTriplane.Config(), 0, source)
    guidance = NerfGuidedDistillation(
        NerfGuidedDistillation.Config(count=VIEWS), "cpu", source, lambda z, t, shown, views: truth[views]
    )
    distill(
        scene, VolumeRenderer(VolumeRenderer.Config(samples=8)), ViewsInTurn(virtual(VIEWS), source.camera, BATCH),
        [guidance], "", steps=6, listeners=(),
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not torch.equal(scene.weights[0], model.decoder_parameters()[0][0])
