"""The native mesh kernels against the float64 twin: same picture, same gradients, on any mesh."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_scenes import ball, cast, front_camera, relative_error, render_with_gradients

from threedgen.cameras import orbit
from threedgen.kernels import why_absent
from threedgen.renderers.backends import load
from threedgen.renderers.mesh import Config
from threedgen.renderers.mesh_shading import to_camera
from threedgen.types import Cameras, TriMesh

pytestmark = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")

IMAGE_TOLERANCE = {"rgb": 2e-4, "alpha": 2e-4, "depth": 5e-4, "normal": 5e-4}
GRADIENT_TOLERANCE = 2e-3


def cameras_around(height: int, width: int) -> Cameras:
    """Views from different sides; the last one is so close that faces cross the near plane."""
    azimuth, elevation = torch.tensor([20.3, 140.7, 265.1]), torch.tensor([15.2, -40.9, 70.4])
    return orbit(azimuth, elevation, torch.tensor([2.5, 3.3, 0.72]), 45.0, height, width)


def assert_agrees(mesh: TriMesh, cameras: Cameras, config: Config | None = None) -> None:
    truth = render_with_gradients(cast(mesh, torch.float64), cameras.to("cpu", torch.float64), config)
    got = render_with_gradients(mesh, cameras, config)
    assert truth.images["alpha"].max() > 0.1, "the scene is empty"
    for name, image in got.images.items():
        assert (image.double() - truth.images[name]).abs().max() <= IMAGE_TOLERANCE[name], name
    for name, gradient in got.gradients.items():
        assert relative_error(gradient, truth.gradients[name]) <= GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("textured", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_pictures_and_gradients_agree(textured: bool, antialias: bool) -> None:
    assert_agrees(ball(2, textured=textured), cameras_around(33, 47), Config(antialias=antialias))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (17, 5), (40, 7)])
def test_image_sizes_agree(height: int, width: int) -> None:
    assert_agrees(ball(1), cameras_around(height, width))


def test_culling_own_normals_and_a_picture_of_small_triangles_agree() -> None:
    mesh = ball(4)
    normals = torch.nn.functional.normalize(mesh.vertices, dim=1)
    assert_agrees(
        dataclasses.replace(mesh, normals=normals), cameras_around(24, 24)[:2], Config(backfaces="cull")
    )


def test_visible_faces_are_the_same_on_a_crowd_of_triangles() -> None:
    rng = torch.Generator().manual_seed(5)
    vertices = torch.rand(600, 3, generator=rng) * 1.6 - 0.8
    faces, cameras = torch.arange(600).view(-1, 3), cameras_around(40, 56)
    ids = []
    for name, dtype in (("native", torch.float32), ("torch", torch.float64)):
        exact = cameras.to("cpu", dtype)
        points = to_camera(vertices.to(dtype), exact)
        ids.append([load("mesh", name).visible_faces(points, faces, exact, cull) for cull in (False, True)])
    for native, twin in zip(*ids, strict=True):
        assert (native >= 0).float().mean() > 0.3
        assert (native == twin).float().mean() > 0.998


def test_result_is_bitwise_independent_of_the_number_of_threads() -> None:
    mesh, cameras = ball(5), cameras_around(70, 90)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            points = to_camera(mesh.vertices, cameras).requires_grad_()
            colors = torch.rand(
                len(mesh.vertices), 3, generator=torch.Generator().manual_seed(0)
            ).requires_grad_()
            native = load("mesh", "native")
            face_id = native.visible_faces(points, mesh.faces, cameras, False)
            image = native.interpolate(points, mesh.faces, cameras, face_id, colors)
            results.append((face_id, image, *torch.autograd.grad(image.square().sum(), [points, colors])))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_wrong_arrays_are_refused_and_crash_nothing() -> None:
    from threedgen.kernels import _native  # pyright: ignore[reportAttributeAccessIssue]

    mesh, camera = ball(1), front_camera(8)
    points = to_camera(mesh.vertices, camera)
    ids, bary, z = torch.zeros(1, 8, 8, dtype=torch.int32), torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 8)
    k = camera.intrinsics
    with pytest.raises(ValueError, match="shapes"):
        _native.zbuffer(points, mesh.faces, k[:0], 0.1, 9.0, False, 1, ids, bary, z)
    with pytest.raises(IndexError, match="vertex"):
        _native.zbuffer(points, mesh.faces - 1, k, 0.1, 9.0, False, 1, ids, bary, z)
    colors = torch.rand(len(mesh.vertices), 3)
    with pytest.raises(ValueError, match="shapes"):
        _native.interpolate_forward(points, mesh.faces, k, ids, colors, 1, torch.zeros(1, 8, 8, 3))
    with pytest.raises(IndexError, match="face"):
        _native.interpolate_forward(points, mesh.faces, k, ids + 10**6, colors, 1, torch.zeros(1, 8, 8, 5))


# Scales of a triangle: of nothing, a point, small, like the scene, huge, and beyond what float32 multiplies.
SCALES = st.sampled_from([0.0, 1e-20, 1e-3, 0.3, 1.0, 30.0, 1e6, 1e18])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 6),
    scale=SCALES,
    offset=st.sampled_from([0.0, 1.0, 2.5, 4.0]),  # 2.5: in the camera; 4: behind it
    size=st.sampled_from([(1, 1), (1, 9), (12, 7)]),
    flat=st.booleans(),
)
def test_extreme_triangles_give_the_twins_picture_and_finite_gradients(
    seed: int, count: int, scale: float, offset: float, size: tuple[int, int], flat: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    vertices = scale * torch.randn(3 * count, 3, generator=rng)
    if flat:
        vertices[:, 0] = 0.0  # edge-on for the camera: no pixel sees such a face
    vertices[:, 2] += offset
    mesh = TriMesh(
        vertices, torch.arange(3 * count).view(-1, 3), vertex_colors=torch.rand(3 * count, 3, generator=rng)
    )
    camera = front_camera(size[0], distance=2.5, width=size[1])
    truth = render_with_gradients(cast(mesh, torch.float64), camera.to("cpu", torch.float64))
    got = render_with_gradients(mesh, camera)
    for name, gradient in got.gradients.items():
        assert gradient.isfinite().all(), name
    # A pixel centre on an edge may fall on either side of it in float32, and an outline then be seen or not.
    wrong = (got.images["alpha"].double() - truth.images["alpha"]).abs() > 1e-2
    assert int(wrong.sum()) <= (2 if scale < 1e4 else truth.images["alpha"].numel())
    for name, image in got.images.items():
        assert image.isfinite().all(), name
    assert got.images["alpha"].min() >= 0
    assert got.images["alpha"].max() <= 1 + 1e-6
    assert got.images["rgb"].min() >= -1e-5
    assert got.images["rgb"].max() <= 1 + 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_crash_nothing(value: float) -> None:
    mesh = ball(1)
    mesh.vertices[3] = value
    output = render_with_gradients(mesh, cameras_around(16, 16))
    assert output.images["alpha"].shape == (3, 16, 16, 1)
