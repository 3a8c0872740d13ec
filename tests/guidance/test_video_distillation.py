"""Score distillation of clips: the inputs of a video prior, and recovery of the motion that a prior knows."""

import math
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.clips import ClipSampler, as_channels, as_frames
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras, GaussianCloud
from threedgen.guidance.priors.analytic import MixturePrior
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.score_distillation import ScoreDistillation
from threedgen.loop.background import ColorBackground
from threedgen.loop.distill import distill
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations import deformation
from threedgen.representations.dynamic_gaussians import Config, DynamicGaussians

FRAMES, SIZE = 4, 16


def blob() -> GaussianCloud:
    """Three balls of different colours, which no rotation maps onto itself."""
    means = torch.tensor([[0.25, 0.0, 0.0], [-0.2, 0.1, 0.0], [0.0, -0.2, 0.2]])
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.1, 0.2, 0.9]])
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(3, 1)
    sh = ((colors - 0.5) / 0.28209479177387814)[:, None]
    return GaussianCloud(means, quats, torch.full((3, 3), 0.16), torch.full((3,), 0.9), sh)


def path(times: Float[Tensor, " T"]) -> Float[Tensor, "T 3"]:
    """Up and down while it moves aside."""
    return torch.stack([0.5 * times, 1.6 * times * (1.0 - times), 0.3 * (math.pi * times).sin()], dim=1)


class MovingBlob(MixturePrior):
    """A Gaussian around the clip of the blob on its path, from the cameras and at the times of the condition."""

    frames = FRAMES

    def __init__(self, std: float = 0.3) -> None:
        def means(condition: Condition) -> Tensor:
            assert condition.cameras is not None
            assert condition.times is not None
            self.asked.append(condition)
            clips = [
                true_clip(condition.cameras[torch.tensor([index])], times)
                for index, times in enumerate(condition.times)
            ]
            return as_channels(torch.stack(clips))[:, None]

        super().__init__(means, [std], SIZE, camera_conditioned=True)
        self.asked: list[Condition] = []

    def encode(self, images: Float[Tensor, "B*F H W 3"]) -> Tensor:
        clips = as_channels(images.unflatten(0, (-1, FRAMES)))
        return clips.permute(0, 3, 1, 2) * 2.0 - 1.0

    def decode(self, x: Tensor) -> Tensor:
        return as_frames((x.permute(0, 2, 3, 1) + 1.0) / 2.0).flatten(0, 1)


@torch.no_grad()
def true_clip(camera: Cameras, times: Float[Tensor, " F"]) -> Float[Tensor, "F H W 3"]:
    small = camera.resized(SIZE, SIZE)
    cloud = blob()
    frames = [replace(cloud, means=cloud.means + shift) for shift in path(times)]
    return torch.cat([SplattingRenderer()(frame, small, torch.ones(3)).rgb for frame in frames]).clamp(
        0.0, 1.0
    )


def sampler(batch: int = 2) -> ClipSampler:
    return ClipSampler(
        ClipSampler.Config(
            batch=batch,
            frames=FRAMES,
            resolution=SIZE,
            radius=(3.0, 3.4),
            azimuth=(0.0, 360.0),
            elevation=(-5.0, 40.0),
            span=(0.5, 1.0),
        )
    )


def guidance(prior: MovingBlob, **changes) -> ScoreDistillation:
    return ScoreDistillation(ScoreDistillation.Config(t=(0.02, 0.6), **changes), prior=prior)


@pytest.mark.parametrize("kind", ["mlp", "hexplane", "fourier"])
def test_the_path_of_a_moving_blob_is_recovered(kind):
    """With a prior whose score is known, gradients of clips lead to the motion (docs/methods.md,
    "Checks of an objective")."""
    field = deformation.Config(
        kind=kind, width=32, depth=2, resolution=8, moments=8, channels=8, degree=3, terms=1
    )
    rate = {"mlp": 5e-3, "hexplane": 1e-2, "fourier": 2e-2}[kind]
    scene = DynamicGaussians(Config(deformation=field, learning_rate=rate, neighbours=2), 0, blob())
    plain = ColorBackground(ColorBackground.Config(random=0.0))
    distill(
        scene, SplattingRenderer(), sampler(), [guidance(MovingBlob())], "it", steps=300, background=plain
    )
    times = torch.linspace(0.0, 1.0, 9)
    found = (scene.moved(times) - scene.means).detach()
    error = (found - path(times)[:, None]).norm(dim=2)
    assert float(path(times).norm(dim=1).mean()) > 0.4
    assert float(error.mean()) < 0.05
    assert float(error.max()) < 0.15


def test_a_prior_is_told_the_camera_and_the_times_of_each_clip():
    prior, views = MovingBlob(), sampler(3)(0, 7, 10)
    scene = DynamicGaussians(Config(), 0, blob())
    output = SplattingRenderer()(scene.at(views.time), views, torch.ones(3))
    guidance(prior, scale=2.0)(output, views, "it moves", 7, 10, 0)
    (asked,) = prior.asked
    assert asked.prompts == ("it moves",) * 3 + ("",) * 3
    assert asked.times is not None
    torch.testing.assert_close(asked.times, views.time.reshape(3, FRAMES).repeat(2, 1))
    assert asked.cameras is not None
    torch.testing.assert_close(asked.cameras.centers, views.centers[::FRAMES].repeat(2, 1))


def test_the_preview_shows_every_frame():
    prior, views = MovingBlob(), sampler(1)(0, 0, 10)
    scene = DynamicGaussians(Config(), 0, blob())
    output = SplattingRenderer()(scene.at(views.time), views, torch.ones(3))
    preview = guidance(prior)(output, views, "it", 0, 10, 0).preview
    assert preview is not None
    assert preview().shape == (SIZE, FRAMES * SIZE, 3)


def test_clips_of_another_length_are_said():
    prior = MovingBlob()
    views = sampler(1)(0, 0, 10)[torch.arange(3)]
    scene = DynamicGaussians(Config(), 0, blob())
    output = SplattingRenderer()(scene.at(views.time), views, torch.ones(3))
    with pytest.raises(UserError, match=r"clips of 4 frames, not 3 views: set cameras\.name=clips"):
        guidance(prior)(output, views, "it", 0, 10, 0)


def test_a_clip_is_one_camera_and_even_times():
    views = sampler(5)(3, 11, 100)
    assert len(views) == 5 * FRAMES
    times, poses = views.time.reshape(5, FRAMES), views.world_from_camera.reshape(5, FRAMES, 4, 4)
    assert torch.equal(poses, poses[:, :1].expand_as(poses))
    assert not torch.equal(poses[0, 0], poses[1, 0])
    torch.testing.assert_close(times.diff(dim=1), times.diff(dim=1)[:, :1].expand(-1, FRAMES - 1))
    span = times[:, -1] - times[:, 0]
    assert float(times.min()) >= 0.0
    assert float(times.max()) <= 1.0
    assert float(span.min()) >= 0.5 - 1e-6
    again = sampler(5)(3, 11, 100)
    assert torch.equal(views.time, again.time)
    assert torch.equal(views.centers, again.centers)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"frames": 1}, "frames is 1"), ({"span": (0.0, 1.0)}, "span"), ({"span": (0.9, 0.5)}, "span")],
)
def test_odd_clips_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        ClipSampler.Config(**settings)
