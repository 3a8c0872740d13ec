"""Motion amplification: the mean of the frames of a clip is unchanged, and their differences grow."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.types import RenderOutput
from threedgen.guidance.motion_amplifier import amplified
from threedgen.guidance.priors.analytic import MixturePrior
from threedgen.guidance.score_distillation import ScoreDistillation

FRAMES, SIZE = 4, 6


def gradient(seed: int = 0) -> Float[Tensor, "2 12 5 5"]:
    return torch.randn(2, FRAMES * 3, 5, 5, generator=generator(seed, "gradient", 0), dtype=torch.float64)


def frames_of(value: Float[Tensor, "B F*C h w"]) -> Float[Tensor, "B F C h w"]:
    return value.reshape(len(value), FRAMES, -1, *value.shape[2:])


def test_the_factor_0_is_off():
    given_one = gradient()
    assert amplified(given_one, FRAMES, 0.0) is given_one


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.0, 20.0))
def test_the_mean_of_a_clips_frames_stays_and_their_differences_grow(seed, factor):
    before = frames_of(gradient(seed))
    after = frames_of(amplified(gradient(seed), FRAMES, factor))
    torch.testing.assert_close(after.mean(1), before.mean(1), atol=1e-12, rtol=1e-12)
    grown = (1.0 + factor) * (before - before.mean(1, keepdim=True))
    torch.testing.assert_close(after - after.mean(1, keepdim=True), grown, atol=1e-12, rtol=1e-12)


@settings(max_examples=20)
@given(st.floats(-3.0, 3.0), st.floats(0.1, 5.0), st.floats(0.1, 5.0))
def test_it_is_linear_and_factors_multiply(scale, one, other):
    a, b = gradient(1), gradient(2)
    both = amplified(a + scale * b, FRAMES, one)
    torch.testing.assert_close(both, amplified(a, FRAMES, one) + scale * amplified(b, FRAMES, one))
    twice = amplified(amplified(a, FRAMES, one), FRAMES, other)
    torch.testing.assert_close(twice, amplified(a, FRAMES, (1.0 + one) * (1.0 + other) - 1.0))


def test_clips_do_not_mix_and_a_clip_of_equal_frames_stays():
    clips = gradient()
    alone = torch.cat([amplified(clip[None], FRAMES, 3.0) for clip in clips])
    torch.testing.assert_close(amplified(clips, FRAMES, 3.0), alone)
    still = clips[:, :3].repeat(1, FRAMES, 1, 1)
    torch.testing.assert_close(amplified(still, FRAMES, 3.0), still)


class ClipPrior(MixturePrior):
    """A Gaussian around grey clips."""

    frames = FRAMES

    def __init__(self) -> None:
        super().__init__(
            lambda asked: torch.full((len(asked.prompts), 1, SIZE, SIZE, FRAMES * 3), 0.5), [0.4], SIZE
        )

    def encode(self, images: Float[Tensor, "B*F H W 3"]) -> Tensor:
        clips = images.permute(0, 3, 1, 2).reshape(-1, FRAMES * 3, SIZE, SIZE)
        return clips * 2.0 - 1.0


def asked(prior: MixturePrior, step: int = 0, **settings_of: object) -> Float[Tensor, "V H W 3"]:
    """The gradient that reaches the pictures of two clips."""
    full = torch.ones(2 * FRAMES)
    views = orbit(0.0 * full, 0.0 * full, 3.0 * full, 40.0, SIZE, SIZE)
    views = replace(views, time=torch.linspace(0.0, 1.0, FRAMES).repeat(2))
    rgb = torch.rand(len(views), SIZE, SIZE, 3, generator=generator(0, "rgb", 0)).requires_grad_()
    config = ScoreDistillation.Config(**settings_of)  # pyright: ignore[reportArgumentType]
    output = RenderOutput(rgb, torch.ones(len(views), SIZE, SIZE, 1))
    ScoreDistillation(config, prior=prior)(output, views, "it moves", step, 11, 0).loss.backward()
    assert rgb.grad is not None
    return rgb.grad


def test_what_reaches_the_frames_is_amplified():
    plain, more = (asked(ClipPrior(), amplify=factor).unflatten(0, (2, FRAMES)) for factor in (0.0, 2.0))
    torch.testing.assert_close(more.mean(1), plain.mean(1), atol=1e-6, rtol=1e-4)
    mean = plain.mean(1, keepdim=True)
    torch.testing.assert_close(more, mean + 3.0 * (plain - mean), atol=1e-6, rtol=1e-4)
    assert not torch.allclose(more, plain, rtol=0.1)


def test_the_factor_follows_its_schedule():
    ramp = {"from": 0, "to": 4}
    assert torch.equal(asked(ClipPrior(), 0, amplify=ramp), asked(ClipPrior(), 0))
    assert torch.equal(asked(ClipPrior(), 5, amplify=ramp), asked(ClipPrior(), 5, amplify=2.0))


def test_a_negative_factor_and_a_prior_of_pictures_are_refused():
    with pytest.raises(UserError, match="amplify holds -1; every number of it must be at least 0"):
        ScoreDistillation.Config(amplify={"from": 1.0, "to": -1.0})
    still = MixturePrior(lambda asked: torch.full((len(asked.prompts), 1, SIZE, SIZE, 3), 0.5), [0.4], SIZE)
    with pytest.raises(UserError, match="this prior takes single pictures"):
        ScoreDistillation(ScoreDistillation.Config(amplify=1.0), prior=still)
