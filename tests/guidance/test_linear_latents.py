"""Early latents by a linear map of colours: exact where the encoder is linear, and no pass of it in that time."""

from __future__ import annotations

import pytest
import tiny_pipelines
import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.types import RenderOutput
from threedgen.guidance.priors.analytic import MixturePrior
from threedgen.guidance.priors.linear_latents import fit_linear_latents, random_pictures
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.score_distillation import ScoreDistillation

SIDE, BLOCK, VIEWS, STEPS = 16, 4, 3, 20
MIX = torch.tensor([[0.9, -0.4, 0.1], [0.3, 0.8, -0.6], [-0.2, 0.5, 1.1], [0.05, -0.3, 0.2]])


class LatentMixture(MixturePrior):
    """A mixture of latents, whose encoder is a linear map of the mean colours of blocks, plus `bend` times a square
    of them; it counts its passes."""

    latent = True

    def __init__(self, bend: float = 0.0) -> None:
        around = torch.full((1, SIDE // BLOCK, SIDE // BLOCK, 3), 0.7)
        super().__init__(lambda asked: around.expand(len(asked.prompts), 1, -1, -1, -1), [0.5], SIDE)
        self.bend, self.passes = bend, 0

    def encode(self, images: Tensor) -> Tensor:
        self.passes += 1
        blocks = torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2), BLOCK).permute(0, 2, 3, 1)
        latents = blocks @ MIX[:3] + MIX[3]
        return (latents + self.bend * latents.square()).permute(0, 3, 1, 2)


def gradient(prior: MixturePrior, step: int, **options: float) -> Tensor:
    """What reaches the pixels of a step."""
    full = torch.ones(VIEWS)
    views = orbit(0.0 * full, 0.0 * full, 3.0 * full, 40.0, SIDE, SIDE)
    rgb = torch.rand(VIEWS, SIDE, SIDE, 3, generator=generator(0, "rgb", 0)).requires_grad_()
    config = ScoreDistillation.Config(**options)  # pyright: ignore[reportArgumentType]
    output = RenderOutput(rgb, torch.ones(VIEWS, SIDE, SIDE, 1))
    ScoreDistillation(config, prior=prior)(output, views, "a thing", step, STEPS, 0).loss.backward()
    assert rgb.grad is not None
    return rgb.grad


def test_of_a_linear_encoder_the_map_and_the_gradient_are_exact() -> None:
    found = fit_linear_latents(LatentMixture(), "cpu")
    torch.testing.assert_close(found.weight, MIX, atol=1e-5, rtol=1e-5)
    exact, linear = (gradient(LatentMixture(), 0, linear_until=share) for share in (0.0, 1.0))
    assert exact.abs().max() > 0.0
    torch.testing.assert_close(linear, exact, atol=1e-6, rtol=1e-4)


def test_of_a_bent_encoder_it_is_the_best_linear_map() -> None:
    prior = LatentMixture(bend=0.3)
    found = fit_linear_latents(prior, "cpu")
    pictures = random_pictures(8, SIDE)

    def error(weight: Tensor) -> float:
        changed = type(found)(weight, found.size)
        return float((changed.encode(pictures) - prior.encode(pictures)).square().mean())

    best = error(found.weight)
    assert best > 1e-5  # it is not linear
    for row in range(4):
        for change in (-0.02, 0.02):
            moved = found.weight.clone()
            moved[row, 1] += change
            assert error(moved) > best


def test_the_encoder_is_passed_from_the_named_share_of_the_run_on() -> None:
    for step, passes in ((0, 8), (9, 8), (10, 1), (19, 1)):  # eight pictures to fit the map
        prior = LatentMixture()
        gradient(prior, step, linear_until=0.5)
        assert prior.passes == passes, step


def test_a_fit_is_the_same_again() -> None:
    first, second = (fit_linear_latents(LatentMixture(0.3), "cpu").weight for _ in range(2))
    assert torch.equal(first, second)


def test_a_tiny_stable_diffusion_learns_from_it(tmp_path) -> None:
    folder = tiny_pipelines.Pipelines(tmp_path, tiny_pipelines.KINDS)["sd1"]
    prior = load_prior(PriorConfig(path=str(folder), executor="eager"), "cpu")
    linear = fit_linear_latents(prior, "cpu")
    picture = torch.rand(2, SIDE, SIDE, 3, requires_grad=True)
    assert linear.encode(picture).shape == prior.encode(picture).shape
    (reached,) = torch.autograd.grad(linear.encode(picture).square().sum(), picture)
    assert reached.abs().min() > 0.0


def test_a_prior_without_latents_of_single_pictures_is_refused() -> None:
    pixels = MixturePrior(lambda asked: torch.full((len(asked.prompts), 1, SIDE, SIDE, 3), 0.5), [0.4], SIDE)
    with pytest.raises(
        UserError, match=r"linear_until needs a prior that has latents .* this one works on pixels"
    ):
        ScoreDistillation(ScoreDistillation.Config(linear_until=0.2), prior=pixels)
    clips = LatentMixture()
    clips.frames = 4
    with pytest.raises(UserError, match="takes clips or several views"):
        ScoreDistillation(ScoreDistillation.Config(linear_until=0.2), prior=clips)
