"""Meshes with fewer triangles: as many as the shape needs, levels of detail, and distances between surfaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from clouds import torus

from threedgen import export
from threedgen.core.errors import UserError
from threedgen.core.pictures import psnr, silhouette_iou
from threedgen.core.types import TriMesh
from threedgen.export.fewer import coarser, simplified
from threedgen.export.mesh import FEWEST_FACES, MeshConfig, decimate, extract_mesh, is_closed, is_watertight
from threedgen.export.nearest import Surface, apart
from threedgen.export.quality import QUALITIES, settings_of
from threedgen.export.views import around
from threedgen.jobs.asset import Config
from threedgen.recipes.typed import leaves, plain
from threedgen.renderers.mesh import MeshRenderer

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


def test_levels_of_detail_look_like_the_mesh(textured: TriMesh) -> None:
    cameras = around(textured, 4, 96)
    show = MeshRenderer(MeshRenderer.Config(supersampling=2))
    before = show(textured, cameras, torch.ones(3))
    mesh, overlaps, decibels = textured, [], []
    for _ in range(2):
        finer, found = mesh, coarser(mesh)
        assert found is not None
        assert finer.texture is not None
        assert found.texture is not None
        mesh = found
        assert len(finer.faces) // 5 < len(mesh.faces) <= len(finer.faces) // 4
        assert found.texture.shape[0] * 2 == finer.texture.shape[0]
        assert is_watertight(mesh)
        assert mesh.vertex_colors is None
        after = show(mesh, cameras, torch.ones(3))
        overlaps.append(float(silhouette_iou(after.alpha, before.alpha).mean()))
        decibels.append(float(psnr(after.rgb, before.rgb).mean()))
    assert overlaps[0] > 0.98  # a bend of the tube has few triangles here
    assert decibels[0] > 28.0
    assert decibels[1] > 20.0


def test_the_first_level_of_a_ball_has_its_outline() -> None:
    mesh = ball()
    level = coarser(mesh)
    assert level is not None
    assert level.texture is None
    assert level.vertex_colors is not None
    torch.testing.assert_close(level.vertex_colors, level.vertices * 0.5 + 0.5, atol=0.01, rtol=0)
    cameras = around(mesh, 4, 96)
    one, other = (MeshRenderer()(shape, cameras, torch.ones(3)).alpha for shape in (mesh, level))
    assert float(silhouette_iou(other, one).min()) > 0.99


def test_a_mesh_of_few_triangles_has_no_further_level() -> None:
    assert coarser(as_triangles(trimesh.creation.box())) is None


def test_a_level_that_tears_the_surface_open_is_made_of_fewer_triangles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budgets = []

    def torn_at_first(vertices: np.ndarray, faces: np.ndarray, budget: int) -> Any:
        budgets.append(budget)
        found = decimate(vertices, faces, budget)
        assert found is not None
        return (found[0], found[1][1:]) if len(budgets) == 1 else found

    monkeypatch.setattr("threedgen.export.fewer.decimate", torn_at_first)
    level = coarser(ball())
    assert level is not None
    assert is_closed(level.faces.numpy())
    assert len(level.faces) <= budgets[1] < budgets[0]


def test_the_documentation_has_the_table_of_qualities() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats-meshes.md").read_text(encoding="utf-8")
    rows = [[key, *(str(row[key]) for row in QUALITIES.values())] for key in QUALITIES["default"]]
    for key, *values in [["setting", *QUALITIES], *rows]:
        label = key if key == "setting" else f"`{key}`"
        assert f"| {label} | {' | '.join(values)} |" in page


def test_the_default_quality_is_the_defaults() -> None:
    values = dict(leaves(plain(Config())))
    assert {key: values[key] for key in QUALITIES["default"]} == QUALITIES["default"]
    assert all(row.keys() == QUALITIES["default"].keys() for row in QUALITIES.values())
    assert settings_of(None) == []
    assert "mesh.faces=2000" in settings_of("draft")
    with pytest.raises(UserError, match="unknown quality 'best': use one of draft, default, high"):
        settings_of("best")
