"""The native kernels against the torch backend in float64: same picture, same gradients, for each instruction
set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splatting_scenes import FIELDS, cameras_around, cast, random_cloud, relative_error, render_with_gradients
from torch import Tensor
from torch_threads import torch_threads

from threedgen.core.types import GaussianCloud
from threedgen.kernels import why_absent
from threedgen.renderers.backends import load
from threedgen.renderers.splatting import SplattingRenderer

pytestmark = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")

twin = load("splatting", "torch").splat
_module: Any = load("splatting", "native") if why_absent() is None else None
native = _module.splat if _module else twin
VARIANTS = _module.variants() if _module else []
IMAGE_TOLERANCE = {"rgb": 2e-6, "alpha": 1e-6, "depth": 4e-6}
GRADIENT_TOLERANCE = 1e-5


def assert_agrees(cloud: GaussianCloud, height: int, width: int, **options: str) -> None:
    cameras = cameras_around(height, width)
    background = torch.rand(3, 3, generator=torch.Generator().manual_seed(2))
    truth = render_with_gradients(twin, cast(cloud, torch.float64), cameras, background)
    got = render_with_gradients(native, cloud, cameras, background, **options)
    assert truth.images["alpha"].max() > 0.1, "the scene is empty"
    for name, image in got.images.items():
        assert (image.double() - truth.images[name]).abs().max() <= IMAGE_TOLERANCE[name], name
    for name, gradient in got.gradients.items():
        assert relative_error(gradient, truth.gradients[name]) <= GRADIENT_TOLERANCE, name
    torch.testing.assert_close(got.radii.double(), truth.radii, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_instruction_set_agrees_with_the_float64_twin(variant: str) -> None:
    assert_agrees(random_cloud(300), 48, 48, variant=variant)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_sh_degrees_agree(degree: int) -> None:
    assert_agrees(random_cloud(200, degree, seed=3), 32, 32)


@pytest.mark.parametrize(("height", "width"), [(37, 53), (16, 16), (17, 15), (3, 70)])
def test_image_sizes_that_are_not_multiples_of_a_tile_agree(height: int, width: int) -> None:
    assert_agrees(random_cloud(150, 1, seed=4), height, width)


def test_large_opaque_gaussians_agree_through_the_cap_and_the_stop() -> None:
    cloud = random_cloud(120, 0, seed=5, size=0.4)
    opacities = torch.where(torch.arange(120) % 2 == 0, torch.ones(120), cloud.opacities)
    assert_agrees(GaussianCloud(cloud.means, cloud.quats, cloud.scales, opacities, cloud.sh), 48, 48)


def test_picture_background_and_its_gradient_agree() -> None:
    cloud, cameras = random_cloud(200, 1, seed=6), cameras_around(24, 40)
    picture = torch.rand(3, 24, 40, 3, generator=torch.Generator().manual_seed(3))
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = picture.to(dtype, copy=True).requires_grad_()
        values = cast(cloud, dtype)
        values.means.requires_grad_()
        output = SplattingRenderer()(values, cameras, leaf)
        (output.rgb.square().mean() + output.alpha.mean()).backward()
        assert output.screen is not None
        results.append((output.rgb.detach(), leaf.grad, values.means.grad, output.screen.means2d.grad))
    (rgb, *gradients), (true_rgb, *true_gradients) = results
    assert (rgb - true_rgb).abs().max() < 2e-6
    for gradient, truth in zip(gradients, true_gradients, strict=True):
        assert isinstance(gradient, Tensor)
        assert isinstance(truth, Tensor)
        assert relative_error(gradient, truth) < GRADIENT_TOLERANCE


def test_result_is_bitwise_independent_of_the_number_of_threads() -> None:
    cloud, cameras = random_cloud(6000, 2, seed=7, size=0.03), cameras_around(100, 120)
    background = torch.rand(3, 3)
    results = []
    for threads in (1, 2, 3, 7):
        with torch_threads(threads):
            for chosen in (cameras, cameras[:1]):  # one thread for each view, and all threads in one view
                results.append(render_with_gradients(native, cloud, chosen, background[: len(chosen)]))
    for first, other in [(results[i % 2], results[i]) for i in range(2, len(results))]:
        for name, image in first.images.items():
            assert torch.equal(image, other.images[name]), name
        for name, gradient in first.gradients.items():
            assert torch.equal(gradient, other.gradients[name]), name


def test_renders_of_different_sizes_may_be_pending_together() -> None:
    small, large = random_cloud(50, 0), random_cloud(400, 1, seed=8)
    cameras, background = cameras_around(32, 32), torch.zeros(3, 3)
    expected = [render_with_gradients(native, cloud, cameras, background) for cloud in (small, large)]
    means = [cloud.means.clone().requires_grad_() for cloud in (small, large)]
    pending = [
        native(
            GaussianCloud(mean, cloud.quats, cloud.scales, cloud.opacities, cloud.sh),
            cameras,
            background,
            torch.zeros(3, len(cloud), 2),
        )[:3]
        for mean, cloud in zip(means, (small, large), strict=True)
    ]
    for images, mean, truth in zip(pending, means, expected, strict=True):
        rng = torch.Generator().manual_seed(1)
        weights = [torch.randn(image.shape, generator=rng, dtype=torch.float64).float() for image in images]
        torch.autograd.backward(list(images), weights)
        assert mean.grad is not None
        assert torch.equal(mean.grad, truth.gradients["means"])


def test_a_second_backward_pass_of_one_picture_gives_the_same_gradients() -> None:
    cloud, cameras = random_cloud(500, 1, seed=9), cameras_around(40, 40)
    leaves = [getattr(cloud, name).clone().requires_grad_() for name in FIELDS]
    rgb, *_ = native(GaussianCloud(*leaves), cameras, torch.zeros(3, 3), torch.zeros(3, 500, 2))
    first = torch.autograd.grad(rgb.square().sum(), leaves, retain_graph=True)
    second = torch.autograd.grad(rgb.square().sum(), leaves)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_blocks_of_the_twin_do_not_change_its_result() -> None:
    cloud, cameras, background = (
        cast(random_cloud(100), torch.float64),
        cameras_around(24, 37),
        torch.rand(3, 3),
    )
    whole = render_with_gradients(twin, cloud, cameras, background, block=None)
    blocks = render_with_gradients(twin, cloud, cameras, background, block=7)
    for name in whole.images:
        torch.testing.assert_close(blocks.images[name], whole.images[name], rtol=0, atol=1e-13)
    for name in whole.gradients:
        assert relative_error(blocks.gradients[name], whole.gradients[name]) < 1e-12, name


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_extreme_gaussians_give_the_twins_picture_and_finite_gradients(
    data: st.DataObject, seed: int
) -> None:
    count = data.draw(st.integers(1, 12))
    cloud = random_cloud(count, 1, seed=seed)
    magnitude = st.sampled_from([1e-12, 1e-5, 0.01, 0.3, 10.0, 1e4, 1e8])
    scales = torch.tensor([[data.draw(magnitude) for _ in range(3)] for _ in range(count)])
    opacities = torch.tensor(
        [data.draw(st.sampled_from([0.0, 0.003, 0.5, 0.9995, 1.0])) for _ in range(count)]
    )
    quats = cloud.quats * data.draw(st.sampled_from([0.0, 1e-3, 1.0, 1e6]))
    extreme = GaussianCloud(cloud.means, quats, scales, opacities, cloud.sh)
    cameras, background = (
        cameras_around(20, 20),
        torch.rand(3, 3, generator=torch.Generator().manual_seed(seed)),
    )
    truth = render_with_gradients(twin, cast(extreme, torch.float64), cameras, background, block=None)
    got = render_with_gradients(native, extreme, cameras, background)
    for name in FIELDS:
        assert got.gradients[name].isfinite().all(), name
    for name, image in got.images.items():
        # A pixel on a cut-off (1/255, 1e-4) may fall on either side of it in float32.
        off = (
            (image.double() - truth.images[name]).abs() > 2e-4 * truth.images["depth"].max().clamp(min=1)
        ).sum()
        assert off <= 2, (name, int(off))
