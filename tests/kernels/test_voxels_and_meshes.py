"""The compiled kernels that clean voxels and meshes against the same functions in numpy, scikit-image and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from torch_threads import torch_threads

from threedgen.export import connected, silhouettes
from threedgen.export.connected import grown, mesh_pieces, taubin, voxel_pieces
from threedgen.export.density import Grid
from threedgen.export.silhouettes import Picture
from threedgen.kernels import load_native, why_absent

needs_native = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")

SHAPES = [(7, 9, 11), (1, 5, 3), (3, 1, 1), (5, 40, 33)]
SHEARS = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]


def native() -> Any:
    return load_native()


def voxels(shape: tuple[int, int, int], share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def picture_size(shape: tuple[int, ...], shear: tuple[int, int]) -> tuple[int, int]:
    return shape[1] + abs(shear[0]) * (shape[0] - 1), shape[2] + abs(shear[1]) * (shape[0] - 1)


def triangles(vertices: int, faces: int, seed: int = 0) -> np.ndarray:
    """Random faces, most of which join vertices of one of ten pieces."""
    draw = np.random.default_rng(seed)
    piece = draw.integers(0, 10, (faces, 1))
    return (draw.integers(0, max(vertices // 10, 1), (faces, 3)) * 10 + piece) % vertices


@needs_native
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shear", SHEARS)
def test_carving_agrees_with_numpy(shape: tuple[int, int, int], shear: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    field = draw.normal(size=shape).astype(np.float32)
    limit = draw.normal(size=picture_size(shape, shear)).astype(np.float32)
    one, other = field.copy(), field.copy()
    silhouettes.carve_native(one, limit, shear)
    silhouettes.carve_numpy(other, limit, shear)
    np.testing.assert_array_equal(one, other)
    assert (one < field).any()


@needs_native
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shear", SHEARS)
def test_hiding_agrees_with_numpy(shape: tuple[int, int, int], shear: tuple[int, int]) -> None:
    solid, hidden = voxels(shape, 0.3), voxels(shape, 0.9, seed=1)
    one, other = hidden.copy(), hidden.copy()
    silhouettes.hide_native(solid, one, shear)
    silhouettes.hide_numpy(solid, other, shear)
    np.testing.assert_array_equal(one, other)
    assert (one < hidden).any()


def test_the_inside_of_a_box_is_enclosed_and_a_dent_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    solid = np.zeros((11, 9, 13), dtype=bool)
    solid[2:9, 2:7, 2:11] = True
    dented = solid.copy()
    dented[4:7, 3:6, 3:10] = False  # a hollow
    filled = dented.copy()
    dented[2:4, 4, 6] = False  # and a way into it
    grid = Grid(np.zeros(3), 1.0, solid.astype(np.float32))
    views = [
        Picture(hidden, shear, np.zeros(picture_size(np.moveaxis(grid.values, hidden, 0).shape, shear)))
        for hidden, shear in (*silhouettes._DIAGONAL, *silhouettes._ALONG_AXES)
    ]
    for _ in range(2):
        np.testing.assert_array_equal(silhouettes.enclosed(filled, views), solid)
        visible = solid & ~silhouettes.enclosed(dented, views)
        assert visible[2, 4, 6]
        assert not visible[2:9, 2:4, 2:11].any()
        monkeypatch.setattr(silhouettes, "load_native", lambda: None)


@needs_native
@pytest.mark.parametrize("shape", [*SHAPES, (0, 4, 4), (16, 16, 16)])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 1.0])
def test_pieces_of_voxels_agree_with_scikit_image(shape: tuple[int, int, int], share: float) -> None:
    solid = voxels(shape, share)
    pieces = voxel_pieces(solid)
    if solid.size:  # scikit-image refuses empty volumes
        np.testing.assert_array_equal(pieces, connected.voxel_pieces_skimage(solid))
    turned = np.moveaxis(solid, 0, 2)
    assert voxel_pieces(turned).max(initial=0) == pieces.max(initial=0)


@needs_native
@pytest.mark.parametrize(("vertices", "faces"), [(0, 0), (5, 0), (1000, 300), (1000, 5000)])
def test_pieces_of_meshes_agree_with_scipy(vertices: int, faces: int) -> None:
    corners = triangles(vertices, faces)
    got, wanted = mesh_pieces(vertices, corners), connected.mesh_pieces_scipy(vertices, corners)
    np.testing.assert_array_equal(got, wanted)


@needs_native
@pytest.mark.parametrize(("vertices", "faces"), [(0, 0), (5, 0), (1000, 300), (1000, 5000)])
@pytest.mark.parametrize("passes", [0, 1, 20])
def test_smoothing_agrees_with_scipy(vertices: int, faces: int, passes: int) -> None:
    corners, points = triangles(vertices, faces), np.random.default_rng(0).normal(size=(vertices, 3))
    got, wanted = taubin(points, corners, passes), connected.taubin_scipy(points, corners, passes)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-13)
    assert got is not points


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_growing_and_shrinking_are_those_of_scipy(shape: tuple[int, int, int], steps: int) -> None:
    mask, cross = voxels(shape, 0.1), ndimage.generate_binary_structure(3, 1)
    wanted = ndimage.binary_dilation(mask, cross, steps) if steps else mask  # 0 would be without end
    np.testing.assert_array_equal(grown(mask, steps), wanted)
    shrunk = ndimage.binary_erosion(~mask, cross, steps) if steps else ~mask
    np.testing.assert_array_equal(~grown(mask, steps, outside=True), shrunk)


@needs_native
def test_the_results_are_bitwise_independent_of_the_number_of_threads() -> None:
    points, corners = np.random.default_rng(0).normal(size=(1000, 3)), triangles(1000, 5000)
    solid, draw = voxels((30, 20, 25), 0.2), np.random.default_rng(1)
    limit = draw.normal(size=picture_size(solid.shape, (1, -1))).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 8):
        with torch_threads(threads):
            hidden, field = np.ones_like(solid), np.zeros(solid.shape, dtype=np.float32)
            silhouettes.hide_native(solid, hidden, (1, -1))
            silhouettes.carve_native(field, limit, (1, -1))
            results.append((hidden, field, taubin(points, corners, 5)))
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(one, other)


def test_without_the_kernels_the_libraries_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points, corners, solid = np.eye(3), np.array([[0, 1, 2]]), voxels((5, 6, 7), 0.2)
    wanted = [voxel_pieces(solid), mesh_pieces(4, corners), taubin(points, corners, 2)]
    monkeypatch.setattr(connected, "load_native", lambda: None)
    got = [voxel_pieces(solid), mesh_pieces(4, corners), taubin(points, corners, 2)]
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@needs_native
@pytest.mark.parametrize("face", [[0, 1, 4], [0, -1, 2]])
def test_faces_of_missing_vertices_are_refused(face: list[int]) -> None:
    with pytest.raises(IndexError, match="vertex that does not exist"):
        mesh_pieces(4, np.array([face]))
    with pytest.raises(IndexError, match="vertex that does not exist"):
        taubin(np.zeros((4, 3)), np.array([face]), 1)


@needs_native
def test_wrong_shapes_are_refused() -> None:
    solid, field = np.zeros((3, 4, 5), dtype=np.uint8), np.zeros((3, 4, 5), dtype=np.float32)
    wide, flat = np.zeros((6, 5), dtype=np.float32), np.zeros((4, 5), dtype=np.float32)
    points, faces = np.zeros((4, 3)), np.zeros((2, 3), dtype=np.int64)
    native().carve(field, wide, 1, 0, 1)
    for limit, threads in ((flat, 1), (wide.T.copy(), 1), (wide, 0)):
        with pytest.raises(ValueError, match=r"^carve: "):
            native().carve(field, limit, 1, 0, threads)
    for other, threads in ((np.zeros((3, 4, 6), dtype=np.uint8), 1), (solid.copy(), 0)):
        with pytest.raises(ValueError, match=r"^hide: "):
            native().hide(solid, 1, 0, threads, other)
    with pytest.raises(ValueError, match=r"^voxel_pieces: "):
        native().voxel_pieces(solid, np.zeros((3, 4, 4), dtype=np.int64))
    with pytest.raises(ValueError, match=r"^faces must be \[F, 3\]"):
        native().mesh_pieces(np.zeros((2, 4), dtype=np.int64), np.zeros(4, dtype=np.int64))
    for wrong in ({"vertices": np.zeros((4, 2))}, {"out": np.zeros((3, 3))}, {"threads": 0}):
        right = {"vertices": points, "faces": faces, "passes": 1, "shrink": 0.5, "swell": -0.51, "threads": 1}
        with pytest.raises(ValueError, match=r"^taubin: "):
            native().taubin(**(right | {"out": points.copy()} | wrong))
