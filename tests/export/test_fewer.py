"""Meshes with fewer triangles: as many as the shape needs, levels of detail, and distances between surfaces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from clouds import torus

from threedgen import export
from threedgen.core.errors import UserError
from threedgen.core.types import TriMesh
from threedgen.export.fewer import simplified
from threedgen.export.mesh import FEWEST_FACES, MeshConfig, extract_mesh, is_closed, is_watertight
from threedgen.export.nearest import Surface, apart

SMALL = MeshConfig(resolution=40, faces=3000, texture_size=128, outline=0)


def as_triangles(body: trimesh.Trimesh) -> TriMesh:
    vertices = torch.from_numpy(np.asarray(body.vertices)).float()
    return TriMesh(
        vertices, torch.from_numpy(np.asarray(body.faces)).long(), vertex_colors=vertices * 0.5 + 0.5
    )


def surface_of(mesh: TriMesh) -> Surface:
    return Surface(mesh.vertices.double().numpy(), mesh.faces.numpy())


def box() -> TriMesh:
    body = trimesh.creation.box()
    for _ in range(4):
        body = body.subdivide()
    return as_triangles(body)


def ball() -> TriMesh:
    return as_triangles(trimesh.creation.icosphere(4, 0.5))


@pytest.fixture(scope="module")
def textured() -> TriMesh:
    return export.as_mesh(torus(), SMALL)


def test_the_nearest_places_of_a_surface() -> None:
    surface = surface_of(box())
    points = np.array([[0.8, 0.1, 0.2], [0.1, -0.2, 0.3], [0.7, 0.7, 0.0]])
    near = surface.nearest(points)
    np.testing.assert_allclose(near.distance, [0.3, 0.2, 0.2 * 2**0.5], atol=1e-6)
    vertices, faces = box().vertices.double().numpy(), box().faces.numpy()
    places = (near.weights[..., None] * vertices[faces[near.face]]).sum(axis=1)
    np.testing.assert_allclose(places, [[0.5, 0.1, 0.2], [0.1, -0.2, 0.5], [0.5, 0.5, 0.0]], atol=1e-6)


def test_the_two_sides_of_a_thin_plate_are_told_apart_by_normals() -> None:
    plate = trimesh.creation.box((1.0, 0.004, 1.0)).subdivide().subdivide().subdivide()
    surface = Surface(np.asarray(plate.vertices), np.asarray(plate.faces))
    points = np.array([[0.11, 0.0005, 0.2], [0.3, 0.0005, -0.21]])  # nearer to the upper side
    up, down = (np.tile([[0.0, sign, 0.0]], (2, 1)) for sign in (1.0, -1.0))
    np.testing.assert_allclose(surface.nearest(points, up).distance, 0.0015, atol=1e-9)
    np.testing.assert_allclose(surface.nearest(points, down).distance, 0.0025, atol=1e-9)
    np.testing.assert_allclose(surface.nearest(points).distance, 0.0015, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_distance_between_surfaces_is_that_of_the_farther_direction(scale: float) -> None:
    one, finer = trimesh.creation.box(), trimesh.creation.box().subdivide().subdivide()
    away = trimesh.creation.icosphere(1, 0.1)
    away.apply_translation([3.0, 0.0, 0.0])
    both: Any = trimesh.util.concatenate([one, away])
    first, second, third = (
        Surface(scale * np.asarray(body.vertices), np.asarray(body.faces)) for body in (one, finer, both)
    )
    assert apart(first, second) < 1e-9 * scale
    assert apart(first, third) == pytest.approx(2.5 * scale, rel=0.05)
    assert apart(third, first) == apart(first, third)


def test_a_mesh_without_area_cannot_be_measured() -> None:
    with pytest.raises(UserError, match="have no area"):
        Surface(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]))


@pytest.mark.parametrize("deviation", [0.0005, 0.002])
def test_a_round_shape_keeps_more_triangles_than_a_flat_one(deviation: float) -> None:
    found = {}
    for make in (box, ball):
        mesh, fewer = make(), simplified(make(), deviation)
        found[make] = len(fewer.faces)
        assert is_closed(fewer.faces.numpy())
        assert apart(surface_of(mesh), surface_of(fewer)) <= deviation * surface_of(mesh).diameter
        assert fewer.vertex_colors is not None
        torch.testing.assert_close(fewer.vertex_colors, fewer.vertices * 0.5 + 0.5, atol=0.01, rtol=0)
    assert FEWEST_FACES / 1.2 < found[box] < 1.2 * FEWEST_FACES
    assert 2 * found[box] < found[ball] < 0.6 * len(ball().faces)


def test_a_smaller_deviation_keeps_more_and_none_keeps_all() -> None:
    counts = [len(simplified(ball(), share).faces) for share in (0.004, 0.001, 0.0003)]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]
    mesh = ball()
    assert simplified(mesh, 0.0) is mesh


def test_textured_meshes_get_the_triangles_that_they_need(textured: TriMesh) -> None:
    all_of_them = export.as_mesh(torus(), replace(SMALL, deviation=0.0))
    assert len(textured.faces) < 0.8 * len(all_of_them.faces)
    assert is_watertight(textured)
    moved = apart(surface_of(all_of_them), surface_of(textured))
    assert moved <= SMALL.deviation * surface_of(all_of_them).diameter
    # The colours of vertices need their vertices.
    plain = export.as_mesh(torus(), replace(SMALL, texture_size=0))
    assert len(plain.faces) == len(extract_mesh(torus(), SMALL).faces)
