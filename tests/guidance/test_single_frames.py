"""Single frames of a moving scene, as a nearer camera would show them, for a prior of still pictures."""

import math
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from splatting_scenes import random_cloud
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.types import GaussianCloud, RenderOutput
from threedgen.guidance.priors.analytic import MixturePrior
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.single_frames import SingleFrames, close_ups
from threedgen.renderers.splatting import SplattingRenderer

SIZE = 12


def pictures(views: int = 3, size: int = SIZE) -> Float[Tensor, "V H W 3"]:
    return torch.rand(views, size, size, 3, generator=generator(0, "pictures", 0))


def cloud() -> GaussianCloud:
    """A cloud that is small compared with its distance to the camera, and in the middle."""
    made = random_cloud(40, degree=0)
    means = 0.5 * (made.means - made.means.mean(0)) * torch.tensor([1.0, 1.0, 0.2])
    return replace(made, means=means, scales=1.5 * made.scales)


def rendered(of: GaussianCloud, distance: float, size: int = 64) -> RenderOutput:
    one = torch.ones(1)
    return SplattingRenderer()(
        of, orbit(0.0 * one, 0.0 * one, distance * one, 40.0, size, size), torch.ones(3)
    )


def test_no_zoom_around_the_middle_is_the_identity():
    given = pictures()
    alpha = torch.ones(3, SIZE, SIZE, 1)
    torch.testing.assert_close(close_ups(given, alpha, torch.ones(3)), given, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("row", "column"), [(-2, 3), (1, -4), (0, 0)])
def test_it_looks_at_the_middle_of_what_is_there(row, column):
    """A shifted object has the same close-up."""
    rgb, alpha = torch.ones(1, 24, 24, 3), torch.zeros(1, 24, 24, 1)
    rgb[:, 9:15, 8:16] = torch.rand(6, 8, 3, generator=generator(0, "patch", 0))
    alpha[:, 9:15, 8:16] = 1.0
    zoom = torch.tensor([2.0])
    moved, solid = (part.roll((row, column), (1, 2)) for part in (rgb, alpha))
    torch.testing.assert_close(close_ups(moved, solid, zoom), close_ups(rgb, alpha, zoom), atol=1e-5, rtol=0)
    solid = close_ups(alpha.expand(-1, -1, -1, 3), alpha, zoom)[0, ..., 0] > 0.5
    # 6 x 8 pixels have become 12 x 16 in the middle.
    assert torch.equal(solid.any(1).nonzero()[[0, -1], 0], torch.tensor([6, 17]))
    assert torch.equal(solid.any(0).nonzero()[[0, -1], 0], torch.tensor([4, 19]))


def test_each_picture_has_its_own_zoom():
    given, alpha = pictures(), torch.ones(3, SIZE, SIZE, 1)
    zoom = torch.tensor([1.0, 1.5, 3.0])
    alone = torch.cat([close_ups(given[i : i + 1], alpha[:1], zoom[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(close_ups(given, alpha, zoom), alone)


def test_beyond_the_border_are_the_borders_colours():
    rgb, alpha = torch.ones(1, 8, 8, 3), torch.zeros(1, 8, 8, 1)
    alpha[:, 0, 0] = 1.0  # of which a close-up reaches beyond
    assert torch.equal(close_ups(rgb, alpha, torch.tensor([1.5])), rgb)


@pytest.mark.parametrize("zoom", [1.5, 2.0])
def test_a_magnified_picture_is_a_nearer_cameras(zoom):
    """Except for perspective and the blur of larger pixels."""
    near, far = rendered(cloud(), 3.0), rendered(cloud(), 3.0 * zoom)
    magnified = close_ups(far.rgb, far.alpha, torch.tensor([zoom]))
    # A close-up is centred on the object, the camera looks at the origin.
    expected = close_ups(near.rgb, near.alpha, torch.ones(1))
    contrast = float((expected - 1.0).abs().mean())
    assert contrast > 0.05
    assert float((magnified - expected).abs().mean()) < 0.1 * contrast
    assert float((far.rgb - expected).abs().mean()) > 0.4 * contrast


def test_gradients_are_those_of_finite_differences():
    alpha = torch.rand(2, 5, 5, 1, generator=generator(0, "alpha", 0)).double()
    zoom = torch.tensor([1.4, 2.2], dtype=torch.float64)
    rgb = pictures(2, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: close_ups(value, alpha, zoom), (rgb,))


def test_no_gradient_reaches_alpha():
    """Otherwise a scene could reduce the loss by moving the window."""
    alpha = torch.rand(3, SIZE, SIZE, 1).requires_grad_()
    assert not close_ups(pictures(), alpha, torch.full((3,), 2.0)).requires_grad


class Asked(MixturePrior):
    """A Gaussian around grey that records its inputs."""

    def __init__(self) -> None:
        def grey(condition: Condition) -> Tensor:
            self.conditions.append(condition)
            return torch.full((len(condition.prompts), 1, SIZE, SIZE, 3), 0.5)

        super().__init__(grey, [0.4], SIZE)
        self.conditions: list[Condition] = []
        self.seen: list[Tensor] = []

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Tensor:
        self.seen.append(images.detach())
        return super().encode(images)


VIEWS = 8


def ask(step: int = 0, seed: int = 0, distance: float = 5.7, **changes: float) -> tuple[Asked, Tensor]:
    """The prior after a step on clips of two cameras, and the gradient of the pictures."""
    full = torch.ones(VIEWS)
    views = orbit(torch.arange(VIEWS) // 4 * 50.0, 0.0 * full, distance * full, 40.0, SIZE, SIZE)
    views = replace(views, time=torch.linspace(0.0, 1.0, 4).repeat(2))
    # Each frame has a colour of its own.
    rgb = (torch.arange(VIEWS) / VIEWS)[:, None, None, None].repeat(1, SIZE, SIZE, 3).requires_grad_()
    prior = Asked()
    guide = SingleFrames(SingleFrames.Config(**changes), prior=prior)  # pyright: ignore[reportArgumentType]
    signal = guide(RenderOutput(rgb, torch.ones(VIEWS, SIZE, SIZE, 1)), views, "a cube", step, 100, seed)
    signal.loss.backward()
    assert rgb.grad is not None
    return prior, rgb.grad


def chosen(step: int, seed: int = 0, frames: int = 2) -> list[int]:
    (seen,) = ask(step, seed, frames=frames)[0].seen
    return [round(float(picture.mean()) * VIEWS) for picture in seen]


def test_it_asks_about_frames_of_different_moments():
    steps = [chosen(step) for step in range(30)]
    assert all(len(set(step)) == 2 for step in steps)
    assert {view for step in steps for view in step} == set(range(VIEWS))
    assert len(chosen(0, frames=5)) == 5
    assert sorted(chosen(0, frames=20)) == list(range(VIEWS))


def test_it_follows_the_seed_and_the_step():
    assert chosen(3) == chosen(3)
    assert len({tuple(chosen(step)) for step in range(6)}) > 1
    assert len({tuple(chosen(3, seed)) for seed in range(6)}) > 1
    assert torch.equal(ask(3)[1], ask(3)[1])


def test_the_prior_is_told_no_camera_nor_a_side():
    """The object may have turned its back to a camera in front."""
    prior, _ = ask()
    assert prior.conditions
    for condition in prior.conditions:
        assert condition.cameras is None
        assert condition.times is None
        assert set(condition.prompts) <= {"a cube", ""}


def test_only_the_chosen_frames_have_a_gradient():
    _, gradient = ask(4)
    moved = gradient.flatten(1).norm(dim=1).nonzero().squeeze(1).tolist()
    assert moved == sorted(chosen(4))


def test_frames_are_magnified_to_the_distance_and_never_made_smaller(monkeypatch):
    zooms = []
    monkeypatch.setattr(
        "threedgen.guidance.single_frames.close_ups", lambda rgb, alpha, zoom: (zooms.append(zoom), rgb)[1]
    )
    ask(distance=5.7)
    ask(distance=2.0)
    torch.testing.assert_close(zooms[0], torch.full((2,), 2.0))
    assert torch.equal(zooms[1], torch.ones(2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"distance": 0.0}, "distance is 0"),
        ({"distance": math.nan}, "distance is nan"),
    ],
)
def test_odd_settings_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        SingleFrames.Config(**settings)
