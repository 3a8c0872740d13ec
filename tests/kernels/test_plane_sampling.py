from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_threads import torch_threads

from threedgen.kernels import load_native, why_absent
from threedgen.kernels.plane_sampling import AXES, sample_planes, sample_planes_torch

needs_native = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")


def planes_and_points(
    height: int, width: int, channels: int, count: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    planes = torch.randn(3, height, width, channels, generator=draw, dtype=torch.float64)
    return planes, torch.rand(count, 3, generator=draw, dtype=torch.float64) * 2.4 - 1.2


def test_a_linear_function_of_the_coordinates_is_sampled_exactly() -> None:
    planes = torch.zeros(3, 5, 7, 2, dtype=torch.float64)
    along_width, along_height = torch.linspace(-1, 1, 7).double(), torch.linspace(-1, 1, 5).double()
    for plane in range(3):
        planes[plane, :, :, 0], planes[plane, :, :, 1] = along_width, along_height[:, None]
    points = planes_and_points(5, 7, 2, 100)[1]
    for dtype in (torch.float64, torch.float32):
        features = sample_planes(planes.to(dtype), points.to(dtype))
        for plane, axes in enumerate(AXES):
            inside = points[:, list(axes)].clamp(-1, 1)  # outside, the border's value
            torch.testing.assert_close(features[:, plane].double(), inside, rtol=0, atol=1e-6)


def test_swapping_two_axes_swaps_planes() -> None:
    planes, points = planes_and_points(6, 6, 3, 50)
    xy, xz, yz = planes
    # With x and y exchanged, xy is transposed, and xz and yz exchange places.
    swapped = sample_planes(torch.stack([xy.transpose(0, 1), yz, xz]), points[:, [1, 0, 2]])
    torch.testing.assert_close(swapped[:, [0, 2, 1]], sample_planes(planes, points), rtol=0, atol=1e-14)


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3, 8, 16, 17, 24, 32, 40]),
    count=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
def test_the_kernel_agrees_with_grid_sample_in_float64(
    height: int, width: int, channels: int, count: int, seed: int
) -> None:
    planes, points = planes_and_points(height, width, channels, count, seed)
    cotangent = torch.randn(count, 3, channels, generator=torch.Generator().manual_seed(seed)).double()
    exact, single = planes.requires_grad_(), planes.detach().float().requires_grad_()
    truth, got = sample_planes_torch(exact, points), sample_planes(single, points.float())
    assert (got.double() - truth).abs().max() <= 1e-5 if count else True
    (wanted,) = torch.autograd.grad(truth, exact, cotangent)
    (gradient,) = torch.autograd.grad(got, single, cotangent.float())
    assert (gradient.double() - wanted).abs().max() <= 1e-5


@needs_native
def test_the_result_is_bitwise_independent_of_the_number_of_threads() -> None:
    planes, points = (value.float() for value in planes_and_points(37, 50, 8, 20000))
    planes.requires_grad_()
    results = []
    for threads in (1, 2, 3, 8):
        with torch_threads(threads):
            features = sample_planes(planes, points)
            results.append((features.detach(), torch.autograd.grad(features.square().sum(), planes)[0]))
    for features, gradient in results[1:]:
        assert torch.equal(features, results[0][0])
        assert torch.equal(gradient, results[0][1])


@needs_native
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_points_that_are_nowhere_do_not_crash_and_nan_is_not_hidden(value: float) -> None:
    planes = torch.ones(3, 4, 4, 8, requires_grad=True)
    points = torch.tensor([[value, 0.0, 0.0], [0.1, 0.2, 0.3]])
    features = sample_planes(planes, points)
    features[1].sum().backward()
    torch.testing.assert_close(features[1].detach(), torch.ones(3, 8))
    assert planes.grad is not None
    if value != value:
        assert features[0, 0].isnan().all()
    else:
        torch.testing.assert_close(features[0].detach(), torch.ones(3, 8))


def test_points_may_want_a_gradient() -> None:
    planes, points = (value.float() for value in planes_and_points(6, 6, 4, 20))
    points.clamp_(-0.9, 0.9).requires_grad_()
    sample_planes(planes, points).sum().backward()
    assert points.grad is not None
    assert (points.grad != 0).any()


@pytest.mark.parametrize(
    ("planes", "points", "named"),
    [
        (torch.zeros(2, 4, 4, 1), torch.zeros(1, 3), "planes"),
        (torch.zeros(3, 0, 4, 1), torch.zeros(1, 3), "planes"),
        (torch.zeros(3, 4, 4, 1), torch.zeros(1, 2), "points"),
        (torch.zeros(3, 4, 4, 1), torch.zeros(1, 3).double(), "float64"),
    ],
)
def test_wrong_tensors_are_named(planes: Tensor, points: Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sample_planes(planes, points)


@needs_native
def test_the_kernel_checks_its_buffers() -> None:
    native = load_native()
    assert native is not None
    with pytest.raises(ValueError, match="features"):
        native.sample_planes(torch.zeros(3, 2, 2, 1), torch.zeros(4, 3), 1, torch.zeros(3, 3, 1))
    with pytest.raises(ValueError, match="planes"):
        native.sample_planes(torch.zeros(2, 2, 2, 1), torch.zeros(4, 3), 1, torch.zeros(4, 3, 1))
