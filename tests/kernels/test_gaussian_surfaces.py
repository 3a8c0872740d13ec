"""The compiled kernels of the mesh export against the same functions in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch_threads import torch_threads

from threedgen.core.spherical_harmonics import basis as sh_basis
from threedgen.core.types import GaussianCloud
from threedgen.export import density as density_module
from threedgen.export import silhouettes, surface_color
from threedgen.export.density import Ellipsoids, Grid, density, density_numpy, ellipsoids
from threedgen.kernels import load_native, why_absent

needs_native = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")

LINES_OF_SIGHT = (*silhouettes._DIAGONAL, *silhouettes._ALONG_AXES)


def native() -> Any:
    return load_native()


def shapes_of(count: int, degree: int = 0, seed: int = 0, thinnest: float = 0.02) -> Ellipsoids:
    """Gaussians of all orientations, some of which reach out of the unit cube or are outside of it."""
    draw = torch.Generator().manual_seed(seed)
    return ellipsoids(
        GaussianCloud(
            means=torch.rand(count, 3, generator=draw) * 2.4 - 1.2,
            quats=torch.randn(count, 4, generator=draw),
            scales=torch.rand(count, 3, generator=draw) * 0.2 + thinnest,
            opacities=torch.rand(count, generator=draw) * 0.99 + 0.01,
            sh=torch.randn(count, (degree + 1) ** 2, 3, generator=draw),
        )
    )


def lattice(shape: tuple[int, int, int]) -> Grid:
    return Grid(np.array([-1.0, -0.9, -1.1]), 0.11, np.zeros(shape, dtype=np.float32))


def rays_of(count: int, degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of the unit sphere, the three rays of each, and what they see of spherical harmonics."""
    draw = torch.Generator().manual_seed(1)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw).double(), dim=1)
    return 0.8 * normals.numpy(), surface_color._tilted(normals.numpy()), sh_basis(-normals, degree).numpy()


@needs_native
@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize("shape", [(17, 20, 19), (9, 1, 40), (0, 3, 3)])
def test_the_density_agrees_with_numpy(count: int, shape: tuple[int, int, int]) -> None:
    shapes, grid = shapes_of(count), lattice(shape)
    got = density(shapes, grid.origin, grid.spacing, shape).values
    wanted = density_numpy(shapes.thickened(0.7 * grid.spacing), grid.origin, grid.spacing, shape)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=4e-6, atol=1e-9)
    assert got.size == 0 or count < 200 or got.max() > 0.5


@needs_native
@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize(("hidden", "shear"), LINES_OF_SIGHT)
def test_the_optical_depth_agrees_with_numpy(count: int, hidden: int, shear: tuple[int, int]) -> None:
    shapes, grid = shapes_of(count), lattice((17, 20, 19))
    got = silhouettes.optical_depth_native(shapes, hidden, shear, grid)
    wanted = silhouettes.optical_depth_numpy(shapes, hidden, shear, grid)
    np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)


@needs_native
def test_thousands_of_opaque_gaussians_do_not_underflow() -> None:
    one, grid = shapes_of(1), lattice((17, 20, 19))
    pile = Ellipsoids(
        np.repeat(grid.origin[None] + 8 * grid.spacing, 3000, axis=0),
        np.repeat(one.axes, 3000, axis=0),
        np.full((3000, 3), 0.3),
        np.ones(3000),
        np.repeat(one.sh, 3000, axis=0),
    )
    got = silhouettes.optical_depth_native(pile, 1, (1, 0), grid)
    np.testing.assert_allclose(got, silhouettes.optical_depth_numpy(pile, 1, (1, 0), grid), rtol=1e-11)
    assert got.max() == pytest.approx(-3000 * np.log(1 - silhouettes.MAX_ALPHA))


@needs_native
@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize(
    ("gaussians", "thinnest", "vertices"), [(0, 0.02, 20), (1, 0.02, 20), (300, 0.02, 400), (3000, 0.2, 30)]
)
def test_the_light_of_a_surface_agrees_with_numpy(
    degree: int, gaussians: int, thinnest: float, vertices: int
) -> None:
    """With 3000 Gaussians every ray meets more than those whose places are counted."""
    shapes = shapes_of(gaussians, degree, thinnest=thinnest)
    points, directions, basis = rays_of(vertices, degree)
    got = surface_color.light_native(shapes, points, directions, basis, 0.9)
    wanted = surface_color.light_numpy(shapes, points, directions, basis, 0.9)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)
    assert gaussians < 300 or got[1].min() > 0.5


@needs_native
def test_of_gaussians_at_one_depth_the_first_is_in_front() -> None:
    one = shapes_of(1)
    shapes = Ellipsoids(
        np.zeros((2, 3)),
        np.repeat(one.axes, 2, 0),
        np.full((2, 3), 0.1),
        np.full(2, 0.9),
        np.zeros((2, 1, 3)),
    )
    shapes.sh[1] = 1.0
    up = np.array([[0.0, 0.0, 1.0]])
    color, opacity = surface_color.light_native(shapes, 0.1 * up, up[None], np.ones((1, 1)), 0.5)
    np.testing.assert_allclose(opacity, 0.99)
    np.testing.assert_allclose(color, 0.9 * 0.5 + 0.09 * 1.5)


@needs_native
def test_the_results_are_bitwise_independent_of_the_number_of_threads() -> None:
    shapes, grid, rays = shapes_of(300), lattice((33, 20, 19)), rays_of(300, 0)
    results = []
    for threads in (1, 2, 3, 8):
        with torch_threads(threads):
            results.append(
                (
                    density(shapes, grid.origin, grid.spacing, (33, 20, 19)).values,
                    silhouettes.optical_depth_native(shapes, 2, (1, -1), grid),
                    *surface_color.light_native(shapes, *rays, 0.3),
                )
            )
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(one, other)


def test_without_the_kernels_numpy_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, grid, (points, *_) = shapes_of(200), lattice((17, 20, 19)), rays_of(50, 0)

    def everything() -> list[np.ndarray]:
        return [
            density(shapes, grid.origin, grid.spacing, (17, 20, 19)).values,
            *(view.tau for view in silhouettes.pictures(shapes, grid)),
            surface_color.surface_colors(shapes, points, points / 0.8, 0.3),
        ]

    wanted = everything()
    for module in (density_module, silhouettes, surface_color):
        monkeypatch.setattr(module, "load_native", lambda: None)
    for one, other in zip(everything(), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=4e-6, atol=1e-9)


def test_a_vertex_that_no_gaussian_reaches_takes_the_colour_of_the_nearest() -> None:
    shapes = shapes_of(2)
    shapes.sh[:] = np.array([[[-0.5, 0.2, 0.0]], [[1.0, 1.0, 1.0]]])
    far = 9.0 * shapes.means[:1] / np.linalg.norm(shapes.means[0])
    shapes.means[1] = -shapes.means[0]
    colors = surface_color.surface_colors(shapes, far, far / 9.0, 0.1)
    np.testing.assert_allclose(colors, 0.5 + 0.28209479177387814 * shapes.sh[0])


def density_arguments() -> dict[str, Any]:
    return {
        "means": np.zeros((4, 3)),
        "precisions": np.ones((4, 3, 3)),
        "extents": np.ones((4, 3)),
        "opacities": np.ones(4),
        "origin": np.zeros(3),
        "spacing": 0.1,
        "threads": 1,
        "values": np.zeros((3, 4, 5), dtype=np.float32),
    }


def depth_arguments() -> dict[str, Any]:
    return {
        "means": np.zeros((4, 3)),
        "covariances": np.ones((4, 3, 3)),
        "radii": np.ones(4),
        "opacities": np.ones(4),
        "origin": np.zeros(3),
        "spacing": 0.1,
        "shape": np.array([3, 4, 5]),
        "hidden": 2,
        "shear_u": 1,
        "shear_v": -1,
        "max_alpha": 0.999,
        "threads": 1,
        "image": np.zeros((7, 8)),
    }


def light_arguments() -> dict[str, Any]:
    return {
        "means": np.zeros((4, 3)),
        "precisions": np.ones((4, 3, 3)),
        "radii": np.ones(4),
        "extents": np.ones((4, 3)),
        "opacities": np.ones(4),
        "sh": np.zeros((4, 1, 3)),
        "points": np.zeros((2, 3)),
        "directions": np.ones((3, 2, 3)),
        "basis": np.ones((2, 1)),
        "order": np.array([1, 0]),
        "starts": np.array([0, 1]),
        "reach": 0.1,
        "max_alpha": 0.999,
        "threads": 1,
        "color": np.zeros((2, 3)),
        "opacity": np.zeros(2),
    }


@needs_native
@pytest.mark.parametrize(
    ("function", "arguments", "wrong"),
    [
        *(("gaussian_density", density_arguments, {name: np.ones((3, 3))}) for name in ("means", "extents")),
        ("gaussian_density", density_arguments, {"precisions": np.ones((4, 3, 2))}),
        ("gaussian_density", density_arguments, {"opacities": np.ones(3)}),
        ("gaussian_density", density_arguments, {"origin": np.ones(2)}),
        *(("gaussian_density", density_arguments, {name: 0}) for name in ("spacing", "threads")),
        ("optical_depth", depth_arguments, {"means": np.ones((4, 2))}),
        ("optical_depth", depth_arguments, {"covariances": np.ones((3, 3, 3))}),
        *(("optical_depth", depth_arguments, {name: np.ones(3)}) for name in ("radii", "opacities")),
        ("optical_depth", depth_arguments, {"origin": np.ones(4)}),
        ("optical_depth", depth_arguments, {"image": np.ones((7, 7))}),
        ("optical_depth", depth_arguments, {"hidden": 3}),
        *(("optical_depth", depth_arguments, {name: 0}) for name in ("spacing", "threads", "max_alpha")),
        ("surface_light", light_arguments, {"means": np.ones((4, 2))}),
        ("surface_light", light_arguments, {"precisions": np.ones((4, 2, 3))}),
        *(
            ("surface_light", light_arguments, {name: np.ones(3)})
            for name in ("radii", "opacities", "opacity")
        ),
        *(
            ("surface_light", light_arguments, {name: np.ones((3, 3))})
            for name in ("extents", "color", "basis")
        ),
        ("surface_light", light_arguments, {"sh": np.ones((4, 1, 4))}),
        ("surface_light", light_arguments, {"points": np.ones((2, 2))}),
        ("surface_light", light_arguments, {"directions": np.ones((3, 3, 3))}),
        *(("surface_light", light_arguments, {"order": np.array(o)}) for o in ([0], [0, 0], [0, 2], [0, -1])),
        *(("surface_light", light_arguments, {"starts": np.array(s)}) for s in ([1, 2], [0, 3], [0, 2, 1])),
        ("surface_light", light_arguments, {"starts": np.zeros(0, dtype=np.int64)}),
        ("surface_light", light_arguments, {"threads": 0}),
    ],
)
def test_wrong_arguments_are_refused(
    function: str, arguments: Callable[[], dict[str, Any]], wrong: dict[str, Any]
) -> None:
    call = getattr(native(), function)
    call(**arguments())
    with pytest.raises(ValueError, match=f"^{function}: "):
        call(**arguments() | wrong)
