"""The view of the reference picture: rendered beside the others, compared with the picture, hidden from priors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.cameras.orbit import OrbitSampler, spherical
from threedgen.cameras.reference import ReferenceOrbit, ReferencePose, free_views
from threedgen.core.errors import UserError
from threedgen.core.types import RenderOutput
from threedgen.guidance.given_pictures import Pictures
from threedgen.guidance.priors.analytic import DiscPrior
from threedgen.guidance.reference_picture import Depth, ReferencePicture
from threedgen.guidance.score_distillation import ScoreDistillation
from threedgen.jobs.scores.reference import reference_scores
from threedgen.loop.background import ColorBackground
from threedgen.loop.distill import distill
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations.gaussians import Gaussians

WHITE = ColorBackground(ColorBackground.Config(random=0.0))


@pytest.fixture
def picture(tmp_path):
    """A disc, red above and blue below, which does not fit upside down."""
    rows, columns = np.mgrid[:64, :64] + 0.5
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)
    rgba[:32, :, 0], rgba[32:, :, 2] = 220, 220
    rgba[..., 3] = 255 * (np.hypot(rows - 32, columns - 32) < 24)
    Image.fromarray(rgba).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def sampler(**pose):
    return ReferenceOrbit(
        ReferenceOrbit.Config(batch=2, resolution={0: 16, 0.5: 32}, reference=ReferencePose(**pose))
    )


def rendered(cameras, seed: int = 0) -> RenderOutput:
    rng = torch.Generator().manual_seed(seed)
    shape = (len(cameras), cameras.height, cameras.width)
    return RenderOutput(
        torch.rand(*shape, 3, generator=rng).requires_grad_(),
        torch.full((*shape, 1), 0.5).requires_grad_(),
        depth=torch.rand(*shape, 1, generator=rng),
    )


def test_the_pictures_view_is_added_to_the_orbits():
    views = sampler(azimuth=30.0, elevation=-20.0, distance=2.5, fov=50.0)(3, 5, 10)
    orbit = OrbitSampler(OrbitSampler.Config(batch=2, resolution={0: 16, 0.5: 32}))(3, 5, 10)
    assert views.index is not None
    assert views.index.tolist() == [-1, -1, 0]
    assert (views.height, views.width) == (32, 32)
    torch.testing.assert_close(views[:2].world_from_camera, orbit.world_from_camera)
    expected = torch.tensor([[30.0], [-20.0], [2.5]])
    torch.testing.assert_close(torch.stack(spherical(views[2:])), expected, atol=1e-4, rtol=0)
    assert float(views.intrinsics[2, 0, 0]) == pytest.approx(16 / np.tan(np.radians(25)), rel=1e-5)
    front = sampler()(3, 0, 10)[2:].centers
    torch.testing.assert_close(front, torch.tensor([[0.0, 0.0, 2.85]]))


def test_the_views_of_further_pictures_come_after_it():
    views = sampler(elevation=10.0, distance=2.5)
    config = replace(views.config, views=((90.0, 0.0), (-120.0, 30.0)))
    cameras = ReferenceOrbit(config)(3, 5, 10)
    assert cameras.index is not None
    assert cameras.index.tolist() == [-1, -1, 0, 1, 2]
    expected = torch.tensor([[0.0, 90.0, -120.0], [10.0, 0.0, 30.0], [2.5, 2.5, 2.5]])
    torch.testing.assert_close(torch.stack(spherical(cameras[2:])), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(cameras[:3].world_from_camera, views(3, 5, 10).world_from_camera)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (((0.0, 0.0),), "one view, azimuth 0 and elevation 0"),
        (((90.0, 5.0), (450.0, 5.0)), "one view, azimuth 450"),
        (((10.0, 90.0), (70.0, 90.0)), "one view"),  # from straight above there is only one
        (((90.0, 91.0),), "between -90 and 90"),
        (((float("inf"), 0.0),), "views.0 has an azimuth that is inf; it must be a finite number"),
    ],
)
def test_views_that_cannot_be(views, message):
    with pytest.raises(UserError, match=message):
        ReferenceOrbit.Config(views=views)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        ({"elevation": 91.0}, "between -90 and 90"),
        ({"azimuth": float("nan")}, "azimuth is nan; it must be a finite number"),
        ({"distance": 0.5}, "distance is 0.5; it must be greater than 1"),
        ({"fov": 180.0}, "fov is 180; it must be greater than 0 and less than 180"),
    ],
)
def test_a_pose_that_no_camera_has(pose, message):
    with pytest.raises(UserError, match=message):
        ReferencePose(**pose)


def test_priors_are_asked_about_the_other_views():
    views = sampler()(0, 0, 2)
    output = replace(rendered(views), background=torch.rand(3, 3))
    some, cameras = free_views(output, views)
    assert output.background is not None
    torch.testing.assert_close(some.background, output.background[:2])
    assert cameras.index is None
    assert len(cameras) == 2
    torch.testing.assert_close(some.rgb, output.rgb[:2])
    assert some.depth is not None
    assert some.depth.shape == (2, 16, 16, 1)
    for index in (None, torch.tensor([0, 1, 2])):  # nothing to leave out
        same = replace(views, index=index)
        assert free_views(output, same) == (output, same)
    guide = ScoreDistillation(ScoreDistillation.Config(scale=1.0), prior=DiscPrior())
    signal = guide(output, views, "x", 0, 2, 0)
    gradient = torch.autograd.grad(signal.loss, output.rgb)[0]
    assert (gradient[:2].abs().amax((1, 2, 3)) > 0).all()
    assert (gradient[2] == 0).all()


def test_the_loss_is_what_it_says(picture):
    guide = ReferencePicture(ReferencePicture.Config(image=picture, rgb=7.0, mask=3.0))
    views = sampler()(0, 5, 10)
    output = rendered(views)
    signal = guide(output, views, "x", 5, 10, 0)
    pixels = torch.from_numpy(np.asarray(Image.open(picture)).astype(np.float32) / 255)
    cover = pixels[..., 3:]
    white = pixels[..., :3] * cover + 1 - cover
    small = [part.reshape(32, 2, 32, 2, -1).mean((1, 3)) for part in (white, cover)]
    expected = (
        7.0 * (output.rgb[2] - small[0]).square().mean() + 3.0 * (output.alpha[2] - small[1]).square().mean()
    )
    torch.testing.assert_close(signal.loss, expected)
    gradients = torch.autograd.grad(signal.loss, [output.rgb, output.alpha])
    for gradient in gradients:
        assert (gradient[:2] == 0).all()
        assert (gradient[2] != 0).any()
    assert signal.preview is not None
    torch.testing.assert_close(signal.preview(), small[0])


def test_scores_of_the_picture_itself_are_perfect(picture):
    guide = ReferencePicture(ReferencePicture.Config(image=picture))
    image, alpha = guide.targets(RenderOutput(torch.zeros(1, 64, 64, 3), torch.zeros(1, 64, 64, 1)))
    assert guide.scores(RenderOutput(image, alpha)) == [{"psnr": pytest.approx(100.0), "mask_iou": 1.0}]
    (flipped,) = guide.scores(RenderOutput(image.flip(1), alpha))
    assert flipped["psnr"] < 15


def test_each_view_is_compared_with_its_own_picture(picture, tmp_path):
    other = tmp_path / "other.png"
    Image.fromarray(np.asarray(Image.open(picture))[::-1]).save(other)
    guide = ReferencePicture(ReferencePicture.Config(image=picture, views=(str(other),)))
    cameras = ReferenceOrbit(replace(sampler().config, views=((90.0, 0.0),)))(0, 0, 2)
    output = rendered(cameras)
    image, alpha = guide.targets(output)
    right = replace(
        output, rgb=torch.cat([output.rgb[:2], image]), alpha=torch.cat([output.alpha[:2], alpha])
    )
    assert guide(right, cameras, "x", 0, 2, 0).loss == 0
    swapped = cameras[torch.tensor([0, 1, 3, 2])]  # the index decides, not the position
    assert guide(right, swapped, "x", 0, 2, 0).loss > 100
    turned = replace(right, rgb=right.rgb[[0, 1, 3, 2]], alpha=right.alpha[[0, 1, 3, 2]])
    assert guide(turned, swapped, "x", 0, 2, 0).loss == 0
    assert [row["psnr"] > 50 for row in guide.scores(RenderOutput(image, alpha))] == [True, True]
    for index in (torch.tensor([-1, -1, -1, 0]), torch.tensor([-1, 0, 1, 2])):
        with pytest.raises(UserError, match=r"2 pictures for \d given views"):
            guide(right, replace(cameras, index=index), "x", 0, 2, 0)


def test_a_scene_takes_on_the_picture(picture):
    """Beside a prior with another object, the view of the picture becomes the picture."""
    torch.manual_seed(0)
    scene = Gaussians(Gaussians.Config(count=400))
    cameras = ReferenceOrbit(ReferenceOrbit.Config(batch=2, resolution=32))
    guides = [
        ScoreDistillation(ScoreDistillation.Config(scale=1.0), prior=DiscPrior()),
        ReferencePicture(ReferencePicture.Config(image=picture)),
    ]
    renderer = SplattingRenderer(SplattingRenderer.Config())
    before = reference_scores(cameras, guides, scene, renderer)
    distill(scene, renderer, cameras, guides, "x", steps=150, background=WHITE, listeners=[])
    after = reference_scores(cameras, guides, scene, renderer)
    assert before["reference_psnr"] < 15
    assert after["reference_psnr"] > 23, after
    assert after["reference_mask_iou"] > 0.93, after
    assert reference_scores(cameras, guides[:1], scene, renderer) == {}
    assert reference_scores(OrbitSampler(OrbitSampler.Config()), guides, scene, renderer) == {}


def test_what_does_not_fit_is_said(picture, tmp_path):
    guide = ReferencePicture(ReferencePicture.Config(image=picture))
    orbit = OrbitSampler(OrbitSampler.Config(batch=2, resolution=16))(0, 0, 1)
    with pytest.raises(UserError, match=r"needs cameras\.name=reference"):
        guide(rendered(orbit), orbit, "x", 0, 1, 0)
    views = sampler()(0, 0, 2)
    black = RenderOutput(torch.zeros(3, 16, 16, 3), torch.zeros(3, 16, 16, 1))
    with pytest.raises(UserError, match="compared on white"):
        guide(black, views, "x", 0, 2, 0)
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "names no cut-out"),
        ({"image": str(tmp_path / "no.png")}, "there is no picture"),
        ({"image": picture, "rgb": 0.0, "mask": 0.0}, "rgb and mask are both 0"),
        ({"image": picture, "rgb": -1.0}, "rgb is -1; it must be at least 0"),
        (
            {"image": picture, "normal_smoothness": float("nan")},
            "normal_smoothness is nan; it must be at least 0",
        ),
        ({"image": picture, "depth": Depth(order=5.0)}, "need a depth picture"),
        ({"image": picture, "depth": Depth(picture, 0.0, 0.0)}, r"depth\.image has no effect"),
        ({"image": picture, "depth": Depth(picture)}, "is coloured"),
        ({"image": picture, "views": (str(tmp_path / "no.png"),)}, "there is no picture"),
    )
    for settings, message in refused:
        with pytest.raises(UserError, match=message):
            ReferencePicture(ReferencePicture.Config(**settings))
    with pytest.raises(UserError, match="order is -1; it must be at least 0"):
        Depth(order=-1.0)


def test_given_pictures_refuse_views_without_one(tmp_path):
    """The index -1 of such views would select the last picture."""
    guide = Pictures.__new__(Pictures)
    views = sampler()(0, 0, 2)
    with pytest.raises(UserError, match="these cameras have no pictures"):
        guide(rendered(views), views, "x", 0, 2, 0)
