"""The native mesh kernels against the torch backend in float64: same picture, same gradients, for any mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_scenes import ball, cast, front_camera, relative_error, render_with_gradients
from torch import Tensor
from torch_threads import torch_threads

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, TriMesh
from threedgen.kernels import why_absent
from threedgen.renderers.backends import load
from threedgen.renderers.mesh import Config
from threedgen.renderers.mesh_shading import to_camera

if why_absent() is not None:
    pytest.skip(f"no native kernels: {why_absent()}", allow_module_level=True)

from threedgen.renderers.backends import native_mesh

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
    results = []
    for threads in (1, 2, 3):
        with torch_threads(threads):
            points = to_camera(mesh.vertices, cameras).requires_grad_()
            colors = torch.rand(
                len(mesh.vertices), 3, generator=torch.Generator().manual_seed(0)
            ).requires_grad_()
            native = load("mesh", "native")
            face_id = native.visible_faces(points, mesh.faces, cameras, False)
            image = native.interpolate(points, mesh.faces, cameras, face_id, colors)
            results.append((face_id, image, *torch.autograd.grad(image.square().sum(), [points, colors])))
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


# Scales of a triangle: zero, a point, small, like the scene, huge.
SCALES = (0.0, 1e-20, 1e-3, 0.3, 1.0, 30.0, 1e6)
SHAKE = (
    1e-6  # relative to a vertex and to the scene: more than the rounding of float32, less than a pixel shows
)
WELL_DEFINED = 1e-3  # the largest change by shaken vertices for which the results are compared


def triangles(seed: int, count: int, scale: float, offset: float, flat: bool) -> TriMesh:
    rng = torch.Generator().manual_seed(seed)
    vertices = scale * torch.randn(3 * count, 3, generator=rng)
    if flat:
        vertices[:, 0] = 0.0  # edge-on for the camera: no pixel sees such a face
    vertices[:, 2] += offset
    colors = torch.rand(3 * count, 3, generator=rng)
    return TriMesh(vertices, torch.arange(3 * count).view(-1, 3), vertex_colors=colors)


def camera_for(scale: float, size: tuple[int, int]) -> Cameras:
    """A camera whose near and far planes are in proportion to a huge scene."""
    camera, factor = front_camera(size[0], distance=2.5, width=size[1]), max(1.0, scale)
    return dataclasses.replace(camera, near=factor * camera.near, far=factor * camera.far)


def assert_agrees_where_defined(mesh: TriMesh, camera: Cameras) -> None:
    """Pictures and gradients agree with those of the torch backend wherever these hardly change if the vertices are
    shaken.

    For faces smaller than the shake no value is defined (two shakes may agree by chance): then all must be finite.
    """
    exact, camera64 = cast(mesh, torch.float64), camera.to("cpu", torch.float64)
    truth, got = render_with_gradients(exact, camera64), render_with_gradients(mesh, camera)
    extent = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max()) if len(mesh.vertices) else 0.0
    if 0.0 < extent < SHAKE:
        assert all(value.isfinite().all() for value in (*got.images.values(), *got.gradients.values()))
        return
    shaken = []
    for seed in range(2):
        rng = torch.Generator().manual_seed(seed)
        noise = SHAKE * torch.randn(2, *exact.vertices.shape, generator=rng, dtype=torch.float64)
        moved = dataclasses.replace(exact, vertices=exact.vertices * (1 + noise[0]) + noise[1])
        shaken.append(render_with_gradients(moved, camera64))
    for name in ("rgb", "alpha", "depth"):
        image, size = truth.images[name], 1.0 + truth.images[name].abs()
        assert got.images[name].isfinite().all(), name
        spread = torch.stack([(other.images[name] - image).abs() / size for other in shaken]).amax(0)
        error = (got.images[name].double() - image).abs() / size
        assert (error <= WELL_DEFINED)[spread <= 0.1 * WELL_DEFINED].all(), name
    for name, gradient in truth.gradients.items():
        assert got.gradients[name].isfinite().all(), name
        steady = all(relative_error(o.gradients[name], gradient) <= WELL_DEFINED for o in shaken)
        if steady and gradient.any():
            assert relative_error(got.gradients[name], gradient) <= 10 * WELL_DEFINED, name


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 6),
    scale=st.sampled_from(SCALES),
    offset=st.sampled_from([0.0, 1.0, 2.5, 4.0]),  # 2.5: at the camera; 4: behind it
    size=st.sampled_from([(1, 1), (1, 9), (12, 7)]),
    flat=st.booleans(),
)
def test_extreme_triangles_give_the_twins_picture_and_gradients(
    seed: int, count: int, scale: float, offset: float, size: tuple[int, int], flat: bool
) -> None:
    assert_agrees_where_defined(triangles(seed, count, scale, offset, flat), camera_for(scale, size))


def nothing_if(condition: Callable[[Tensor, Cameras], bool]) -> Callable[..., Tensor]:
    def broken(points: Tensor, faces: Tensor, cameras: Cameras, cull: bool) -> Tensor:
        seen = VISIBLE(points, faces, cameras, cull)
        return torch.full_like(seen, -1) if condition(points, cameras) else seen

    return broken


VISIBLE = native_mesh.visible_faces
INTERPOLATE: Callable[..., Tensor] = native_mesh.interpolate
BROKEN: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "huge scenes": ("visible_faces", nothing_if(lambda points, _: float(points.abs().max()) > 1e4)),
    "tiny pictures": ("visible_faces", nothing_if(lambda _, cameras: cameras.height * cameras.width <= 2)),
    "colours": ("interpolate", lambda *given: INTERPOLATE(*given[:4], given[4] * 0.3)),
    "depth": ("interpolate", lambda *given: INTERPOLATE(*given) * torch.tensor([1.0] * 4 + [1.1])),
    "gradients": ("interpolate", lambda *given: INTERPOLATE(*given[:4], 2 * given[4] - given[4].detach())),
}


@pytest.mark.parametrize("broken", [None, *BROKEN])
def test_the_comparison_of_extreme_triangles_sees_broken_kernels(
    broken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken is not None:
        monkeypatch.setattr(native_mesh, *BROKEN[broken])
    scenes = [(seed, scale, size) for scale in (1.0, 1e6) for size in ((1, 1), (12, 7)) for seed in range(3)]
    failed = 0
    for seed, scale, size in scenes:
        try:
            assert_agrees_where_defined(triangles(seed, 5, scale, 0.0, False), camera_for(scale, size))
        except AssertionError:
            failed += 1
    assert (failed > 0) == (broken is not None)


@pytest.mark.parametrize("scale", [1e6, 1e18])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_beyond_what_float32_multiplies_everything_stays_finite(scale: float, seed: int) -> None:
    """With the near plane of a scene of size 1, such triangles have no place in float32."""
    got = render_with_gradients(
        triangles(seed, 6, scale, 1.0, False), front_camera(12, distance=2.5, width=7)
    )
    for name, value in [*got.images.items(), *got.gradients.items()]:
        assert value.isfinite().all(), name
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
