"""Samplers of views: what they leave unchanged, what guidance does where, and what renders of Gaussians correct."""

import math
from typing import Any

import pytest
import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.types import GaussianCloud
from threedgen.guidance.priors.base import Condition, Prediction, PriorRoles, ReferenceView
from threedgen.guidance.priors.view_layout import ViewLayout
from threedgen.reconstruction.reconstructed import ring, square
from threedgen.reconstruction.sampling import Asked, Corrector, guided, sample_views, scales, spaced, spread
from threedgen.renderers.splatting import SplattingRenderer

SIZE = 16


class Oracle(PriorRoles):
    """A prior that knows the clean views, and in the unconditional branch a grey one."""

    image_size, latent, camera_conditioned, default_scale = SIZE, False, True, 1.0

    def __init__(self, views, error=0.0):
        self.views, self.error, self.asked = views, error, []

    def encode(self, images):
        return images.permute(0, 3, 1, 2) * 2.0 - 1.0

    def decode(self, x):
        return (x.permute(0, 2, 3, 1) + 1.0) / 2.0

    def alpha(self, t):
        return torch.cos(0.5 * math.pi * t)

    def sigma(self, t):
        return torch.sin(0.5 * math.pi * t)

    def add_noise(self, x, eps, t):
        return self.alpha(t)[:, None, None, None] * x + self.sigma(t)[:, None, None, None] * eps

    def predict(self, z, t, condition):
        self.asked.append(condition)
        known = self.encode(self.views) + self.error
        x0 = torch.zeros_like(known) if all(condition.drops()) else known
        return Prediction.from_x0(z, x0, self.alpha(t), self.sigma(t))

    def prepare(self, prompts):
        pass


def _asked(cameras, **options):
    picture = ReferenceView(torch.ones(SIZE, SIZE, 3), 0.0, 0.0, 2.85)
    return Asked("", picture, cameras, **{"steps": 5, "scale": 1.0, "least": 1.0, **options})


def test_an_oracle_in_the_sampler_comes_back_unchanged():
    views = torch.rand(4, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    shown = sample_views(Oracle(views), _asked(ring(4, 0.0, SIZE)))
    torch.testing.assert_close(shown, views, atol=1e-5, rtol=0)


def test_without_guidance_the_unconditional_branch_is_not_computed():
    views = torch.rand(4, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    plain, guided = Oracle(views), Oracle(views)
    sample_views(plain, _asked(ring(4, 0.0, SIZE)))
    sample_views(guided, _asked(ring(4, 0.0, SIZE), scale=2.0))
    assert len(plain.asked) == 5
    assert len(guided.asked) == 10 - 1  # at the last step all scales are 1


def test_guidance_falls_with_the_steps_and_from_the_picture_to_the_back():
    asked = _asked(ring(4, 0.0, SIZE), scale=3.0)
    first, last = scales(asked, 0), scales(asked, 4)
    torch.testing.assert_close(first, torch.tensor([3.0, 2.0, 1.0, 2.0]))
    torch.testing.assert_close(last, torch.ones(4))
    without = Asked("a chair", None, ring(4, 0.0, SIZE), 5, 3.0, 1.0)
    torch.testing.assert_close(scales(without, 0), torch.full((4,), 3.0))


LAYOUT = ViewLayout(3, 2, (30.0, 90.0, 150.0, 210.0, 270.0, 330.0), (20.0, -10.0) * 3)


class OnePicture(Oracle):
    """An oracle of views that are the tiles of one picture."""

    layout = LAYOUT


def test_a_sample_of_all_views_is_cut_and_its_parts_are_guided_each_by_its_own_scale():
    picture = torch.rand(1, 3 * SIZE, 2 * SIZE, 3, generator=torch.Generator().manual_seed(0))
    prior = OnePicture(picture)
    cameras = LAYOUT.cameras(0.0, SIZE)
    shown = sample_views(prior, _asked(cameras))
    torch.testing.assert_close(shown, LAYOUT.cut(picture), atol=1e-5, rtol=0)
    assert all(condition.cameras is None and len(condition) == 1 for condition in prior.asked)
    near = scales(_asked(cameras, scale=3.0), 0)
    torch.testing.assert_close(near, 1.0 + 1.0 + torch.tensor([30.0, 90, 150, 210, 270, 330]).deg2rad().cos())
    z, t = torch.randn(1, 3, 3 * SIZE, 2 * SIZE), torch.tensor([0.5])
    spread = LAYOUT.spread(near, 3 * SIZE, 2 * SIZE)
    found = guided(prior, z, t, Condition(("",)), spread).x0
    torch.testing.assert_close(found, spread * prior.encode(picture))


class Clip(Oracle):
    """An oracle of a clip, whose frames are the channels of one sample."""

    frames, video = 4, True

    def encode(self, images):
        return super().encode(images).flatten(0, 1)[None]

    def decode(self, x):
        return super().decode(x[0].unflatten(0, (4, 3)))


def test_a_clip_is_one_sample_and_its_frames_are_guided_each_by_its_own_scale():
    views = torch.rand(4, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    prior = Clip(views)
    shown = sample_views(prior, _asked(ring(4, 0.0, SIZE)))
    torch.testing.assert_close(shown, views, atol=1e-5, rtol=0)
    first = prior.asked[0]
    assert first.cameras is not None
    assert len(first.cameras) == 1
    torch.testing.assert_close(first.times, torch.linspace(0.0, 1.0, 4)[None])
    near = scales(_asked(ring(4, 0.0, SIZE), scale=3.0), 0)
    z = torch.randn(1, 12, SIZE, SIZE)
    found = guided(prior, z, torch.tensor([0.5]), Condition(("",)), spread(prior, near, z)).x0
    torch.testing.assert_close(found, near.repeat_interleave(3)[None, :, None, None] * prior.encode(views))


class Ball(torch.nn.Module):
    """A reconstructor that always finds the same ball."""

    size = SIZE

    def __init__(self, color=0.2):
        super().__init__()
        self.cloud = GaussianCloud(
            torch.zeros(1, 3),
            torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
            torch.full((1, 3), 0.4),
            torch.full((1,), 0.95),
            torch.full((1, 1, 3), (color - 0.5) / 0.28209479),
        )
        self.seen = []

    def forward(self, given):
        self.seen.append(given)
        return [self.cloud]


def test_renders_of_what_is_reconstructed_continue_the_trajectory():
    """Views of a prior that is wrong end as those of the Gaussians, and the network is told the noise level."""
    cameras = ring(4, 0.0, SIZE)
    model: Any = Ball()
    true = SplattingRenderer()(model.cloud, cameras, torch.ones(3)).rgb.detach()
    prior = Oracle(true, error=0.3)
    corrector = Corrector(prior, model, cameras, None)
    shown = sample_views(prior, _asked(cameras), corrector)
    torch.testing.assert_close(shown, true.clamp(0.0, 1.0), atol=1e-5, rtol=0)
    assert corrector.cloud is model.cloud
    levels = [int(given.timesteps[0]) for given in model.seen]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 900 > 100 > levels[-1]
    assert not torch.equal(model.seen[0].noisy, model.seen[0].estimates)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_pictures_become_square_and_their_cameras_see_the_same(shape):
    height, width = shape
    one = torch.ones(2)
    cameras = orbit(torch.tensor([0.0, 70.0]), 10.0 * one, 2.85 * one, 40.0, height, width)
    pictures = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(1))
    padded, others = square(pictures, cameras)
    assert padded.shape == (2, 30, 30, 3)
    assert (others.height, others.width) == (30, 30)
    top, left = (30 - height) // 2, (30 - width) // 2
    torch.testing.assert_close(padded[:, top : top + height, left : left + width], pictures)
    point = torch.tensor([0.1, 0.2, 0.3])
    pixels = []
    for seen in (cameras, others):
        pose = seen.world_from_camera[1]
        local = (point - pose[:3, 3]) @ pose[:3, :3]
        projected = local @ seen.intrinsics[1].T
        pixels.append(projected[:2] / projected[2])
    torch.testing.assert_close(pixels[1], pixels[0] + torch.tensor([float(left), float(top)]))


def test_only_the_steps_that_are_named_are_corrected_each_answer_by_itself():
    """As in VideoMV: of five steps the second and the third, with and without the condition; the last steps keep
    what the prior draws. Of an orbit of twelve views four are reconstructed, and all are rendered."""
    cameras = ring(12, 0.0, SIZE)
    model: Any = Ball()
    true = SplattingRenderer()(model.cloud, cameras, torch.ones(3)).rgb.detach().clamp(0.0, 1.0)
    prior = Oracle(true, error=0.3)
    corrector = Corrector(prior, model, cameras, None, (0.2, 0.4), each=True)
    shown = sample_views(prior, _asked(cameras, scale=2.0, least=2.0), corrector)
    assert [int(given.timesteps[0]) for given in model.seen] == [
        round(t * 999) for t in (0.7475,) * 2 + (0.505,) * 2
    ]
    assert all(given.estimates.shape[1] == 4 for given in model.seen)
    torch.testing.assert_close(
        model.seen[0].cameras.world_from_camera, cameras[torch.tensor([0, 3, 6, 9])].world_from_camera
    )
    guided_last = (2.0 * (prior.encode(true) + 0.3)).clamp(-1.0, 1.0)
    torch.testing.assert_close(shown, prior.decode(guided_last), atol=1e-5, rtol=0)
    z, t = torch.randn(12, 3, SIZE, SIZE), torch.full((12,), 0.5)
    strength = torch.full((12, 1, 1, 1), 2.0)
    inside = guided(prior, z, t, Condition(("",) * 12), strength, corrector).x0
    torch.testing.assert_close(
        inside, prior.encode(true), atol=1e-5, rtol=0
    )  # both answers are the same renders


def test_up_to_eight_views_are_all_reconstructed_and_of_more_four_a_quarter_turn_apart():
    assert spaced(8).tolist() == list(range(8))
    assert spaced(12).tolist() == [0, 3, 6, 9]
    assert spaced(24).tolist() == [0, 6, 12, 18]
