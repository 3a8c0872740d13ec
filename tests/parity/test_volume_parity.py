"""The native kernels against the torch backend in float64: same samples, same pictures, same gradients."""

from __future__ import annotations

import pytest
import torch
from field_scenes import Rendered, around, leaves, relative_error, render_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_threads import torch_threads

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras
from threedgen.kernels import why_absent
from threedgen.renderers import backends

pytestmark = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")

IMAGE_TOLERANCE, GRADIENT_TOLERANCE = 3e-6, 2e-5


def some_cells(share: float, seed: int = 0, cells: int = 9) -> Tensor:
    return torch.rand(cells, cells, cells, generator=torch.Generator().manual_seed(seed)) < share


def both(cameras: Cameras, occupancy: Tensor | None, **options: object) -> tuple[Rendered, Rendered]:
    truth = render_with_gradients(leaves(), cameras, torch.float64, occupancy, **options)  # type: ignore[arg-type]
    return truth, render_with_gradients(leaves(), cameras, torch.float32, occupancy, **options)  # type: ignore[arg-type]


def assert_agrees(cameras: Cameras, occupancy: Tensor | None, **options: object) -> None:
    truth, got = both(cameras, occupancy, **options)
    for name, image in got.images.items():
        assert (image.double() - truth.images[name]).abs().max() <= 10 * IMAGE_TOLERANCE, name
        if name != "normal":  # a normal is a quotient of small differences
            assert (image.double() - truth.images[name]).abs().max() <= IMAGE_TOLERANCE, name
    for name, gradient in got.gradients.items():
        assert relative_error(gradient, truth.gradients[name]) <= GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("share", [None, 1.0, 0.2])
def test_pictures_and_gradients_agree(share: float | None) -> None:
    occupancy = None if share is None else some_cells(share)
    assert_agrees(around(20, 20), occupancy, early_stop=0.0, samples=40)


def test_normals_agree() -> None:
    truth, got = both(around(10, 10), some_cells(0.5), early_stop=0.0, samples=24, normals=True)
    assert truth.images["normal"].norm(dim=-1).max() > 0.3
    assert (got.images["normal"].double() - truth.images["normal"]).abs().max() < 1e-3


@pytest.mark.parametrize("early_stop", [0.0, 0.02])
def test_distortion_agrees(early_stop: float) -> None:
    truth, got = both(around(10, 10), some_cells(0.6), early_stop=early_stop, samples=24, distortion=True)
    assert truth.images["distortion"].max() > 1e-3
    assert (got.images["distortion"].double() - truth.images["distortion"]).abs().max() < IMAGE_TOLERANCE
    for name, gradient in got.gradients.items():
        assert relative_error(gradient, truth.gradients[name]) <= GRADIENT_TOLERANCE, name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 31), (31, 7)])
def test_picture_sizes_agree(height: int, width: int) -> None:
    assert_agrees(around(height, width), some_cells(0.3), early_stop=0.0, samples=30)


@pytest.mark.parametrize("radius", [0.1, 0.9])
def test_a_camera_inside_the_box_agrees(radius: float) -> None:
    assert_agrees(around(12, 12, radius), some_cells(0.6), early_stop=0.0, samples=30)


@pytest.mark.parametrize("occupancy", [None, torch.zeros(4, 4, 4, dtype=torch.bool)])
def test_nothing_to_see_is_background_and_no_gradient(occupancy: Tensor | None) -> None:
    cameras = around(9, 13)
    if occupancy is None:  # look away: the box is behind
        turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
        cameras = Cameras(
            cameras.world_from_camera @ turn, cameras.intrinsics, 9, 13, cameras.time, cameras.near
        )
    for rendered in both(cameras, occupancy):
        assert (rendered.images["alpha"] == 0).all()
        assert (rendered.images["depth"] == 0).all()
        torch.testing.assert_close(
            rendered.images["rgb"][0, 0, 0].double(), torch.tensor([0.2, 0.5, 0.9]).double()
        )
        assert all((rendered.gradients[name] == 0).all() for name in ("planes", "hidden", "out"))


def test_an_early_stop_changes_little_and_agrees() -> None:
    cameras, stop = around(20, 20), 0.05
    whole = render_with_gradients(leaves(), cameras, torch.float64, early_stop=0.0)
    truth, got = both(cameras, None, early_stop=stop)
    assert (truth.images["alpha"] - whole.images["alpha"]).abs().max() > 1e-3, "nothing was stopped"
    for name in ("rgb", "alpha"):
        assert (truth.images[name] - whole.images[name]).abs().max() <= stop, name
        # A ray whose transmittance is on the threshold may stop a sample earlier or later.
        off = ((got.images[name].double() - truth.images[name]).abs() > IMAGE_TOLERANCE).sum()
        assert off <= 3, (name, int(off))


def test_the_result_is_bitwise_independent_of_the_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 3, 5):
        with torch_threads(threads):
            results.append(
                render_with_gradients(leaves(), around(40, 40), torch.float32, some_cells(0.4), samples=40)
            )
    for other in results[1:]:
        for name, image in results[0].images.items():
            assert torch.equal(image, other.images[name]), name
        # The decoder's matrix products are torch's own, and may sum in another order on more threads.
        assert relative_error(other.gradients["planes"], results[0].gradients["planes"].double()) < 1e-5


def test_the_cuda_path_agrees_up_to_its_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """nerfacc's packed scan runs on CUDA only; here a plain scan replaces it, and the rest is compared."""
    library = pytest.importorskip("nerfacc")

    def scan(
        starts: Tensor, ends: Tensor, sigmas: Tensor, *, ray_indices: Tensor, n_rays: int
    ) -> tuple[Tensor, Tensor]:
        thickness = sigmas * (ends - starts)
        same_ray = (ray_indices[:, None] == ray_indices) & torch.ones(len(sigmas), len(sigmas)).tril(
            -1
        ).bool()
        return torch.exp(-(same_ray * thickness).sum(1)), 1 - torch.exp(-thickness)

    monkeypatch.setattr(library, "render_transmittance_from_density", scan)
    monkeypatch.setattr(backends, "choose", lambda kind, name, device: "nerfacc")
    for occupancy in (some_cells(0.3), torch.zeros(4, 4, 4, dtype=torch.bool)):
        truth, got = both(around(6, 6), occupancy, samples=20, early_stop=0.05, distortion=True)
        for name, image in got.images.items():
            assert (image.double() - truth.images[name]).abs().max() <= 3 * IMAGE_TOLERANCE, name
        for name, gradient in got.gradients.items():
            assert relative_error(gradient, truth.gradients[name]) <= GRADIENT_TOLERANCE, name


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    radius=st.floats(0.06, 4.0),
    angles=st.tuples(st.floats(-180, 180), st.floats(-89, 89)),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    samples=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_any_view_agrees(
    size: tuple[int, int], radius: float, angles: tuple[float, float], share: float, samples: int, seed: int
) -> None:
    azimuth, elevation = (torch.tensor([angle]) for angle in angles)
    cameras = orbit(azimuth, elevation, torch.tensor([radius]), 60.0, *size)
    truth, got = both(cameras, some_cells(share, seed), early_stop=0.0, samples=samples, seed=seed)
    for name, image in got.images.items():
        # The rounding error is relative to the depth, which is as large as the distance of the camera.
        largest = truth.images[name].abs().max().clamp(min=1.0)
        assert (image.double() - truth.images[name]).abs().max() <= IMAGE_TOLERANCE * largest, name
    for name, gradient in got.gradients.items():
        difference = (gradient.double() - truth.gradients[name]).norm()
        assert difference <= GRADIENT_TOLERANCE * truth.gradients[name].norm() + 1e-7, name
