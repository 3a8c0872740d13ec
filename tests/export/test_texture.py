"""Texture atlases: nothing overlaps, and renderers and other readers find the baked colours in their places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from test_gltf import issues

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.types import TriMesh
from threedgen.datasets.mesh_files import read_painted
from threedgen.export.gltf import read_glb, write_glb
from threedgen.export.mesh import is_closed, is_watertight
from threedgen.export.obj import write_obj
from threedgen.renderers.mesh import MeshRenderer
from threedgen.representations.texture_atlas import bake_vertex_colors, texels_of, texture_of, unwrap

pytest.importorskip("xatlas")

SIZE = 128


def ball() -> TriMesh:
    body = trimesh.creation.icosphere(subdivisions=3, radius=0.8)
    vertices = torch.tensor(np.asarray(body.vertices)).float()
    return TriMesh(vertices, torch.tensor(np.asarray(body.faces)).long(), vertex_colors=color(vertices))


def color(points: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.5 * points


@pytest.fixture(scope="module")
def atlas() -> TriMesh:
    return unwrap(ball(), SIZE)


def test_unwrapping_keeps_the_surface_and_lays_it_flat_without_overlap(atlas: TriMesh) -> None:
    mesh = ball()
    assert atlas.uvs is not None
    assert 0 <= atlas.uvs.min() <= atlas.uvs.max() <= 1
    torch.testing.assert_close(atlas.vertices[atlas.faces], mesh.vertices[mesh.faces], rtol=0, atol=0)
    a, b, c = (atlas.uvs[atlas.faces[:, i]] for i in range(3))
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    area = 0.5 * (ux * vy - uy * vx).abs()
    assert area.min() > 0
    # Texels that some face covers cannot add up to the sum of the faces' areas where faces overlap.
    pixels = bake_coverage(atlas, 512)
    assert pixels == pytest.approx(float(area.sum()), rel=0.02)


def bake_coverage(mesh: TriMesh, size: int) -> float:
    return len(texels_of(mesh, size).points) / size**2


def test_position_as_color_comes_back_from_every_side(atlas: TriMesh) -> None:
    """The error is below 1/255 + texel size x gradient, also beside seams (docs/methods.md, "Textures")."""
    assert atlas.uvs is not None
    texels = texels_of(atlas, SIZE)
    texture = texture_of(texels, color(texels.points))
    cameras = orbit(
        torch.tensor([0.0, 130.0, 250.0]), torch.tensor([0.0, 60.0, -50.0]), torch.full((3,), 3.0), 35, 96, 96
    )
    render = MeshRenderer()
    shown = render(replace(atlas, vertex_colors=None, texture=texture), cameras, torch.zeros(3))
    truth = render(replace(ball(), vertex_colors=color(ball().vertices)), cameras, torch.zeros(3))
    inside = truth.alpha[..., 0] == 1
    edges = (atlas.vertices[atlas.faces[:, 1]] - atlas.vertices[atlas.faces[:, 0]]).norm(dim=1)
    flat = (atlas.uvs[atlas.faces[:, 1]] - atlas.uvs[atlas.faces[:, 0]]).norm(dim=1)
    texel = float((edges / flat).max()) / SIZE
    assert inside.sum() > 5000
    assert (shown.rgb - truth.rgb).abs()[inside].max() < 1 / 255 + 0.5 * texel


def test_colors_are_carried_over_seams(atlas: TriMesh) -> None:
    """Four texels around each covered one have its colours instead of the grey of the empty atlas."""
    texels = texels_of(atlas, SIZE)
    texture = texture_of(texels, torch.tensor([[1.0, 0.0, 0.0]]).expand(len(texels.points), 3))
    assert torch.equal(texture, torch.tensor([1.0, 0.0, 0.0]).expand(SIZE, SIZE, 3))


def test_normals_are_those_of_the_faces(atlas: TriMesh) -> None:
    texels = texels_of(atlas, 64)
    outward = torch.nn.functional.normalize(texels.points, dim=1)
    assert ((texels.normals * outward).sum(1) > 0.98).all()


def test_vertex_colors_become_a_texture_that_files_keep(tmp_path: Path) -> None:
    mesh = bake_vertex_colors(ball(), SIZE)
    assert mesh.uvs is not None
    assert mesh.texture is not None
    path = write_glb(tmp_path / "a.glb", mesh)
    back, _ = read_glb(path)
    torch.testing.assert_close(back.texture, mesh.texture, atol=0.51 / 255, rtol=0.0)
    found = issues(path)
    assert (found["numErrors"], found["numWarnings"]) == (0, 0), found["messages"]


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_trimesh_sees_the_right_color_at_each_vertex(tmp_path: Path, suffix: str) -> None:
    mesh = bake_vertex_colors(ball(), SIZE)
    path = tmp_path / f"a{suffix}"
    (write_glb if suffix == ".glb" else write_obj)(path, mesh)
    read = trimesh.load(path, force="mesh", process=False)
    assert isinstance(read, trimesh.Trimesh)
    shown = read.visual.to_color().vertex_colors[:, :3] / 255.0  # type: ignore[union-attr]
    np.testing.assert_allclose(shown, color(torch.tensor(read.vertices)).numpy(), atol=0.04)


def test_an_obj_with_a_texture_names_its_files_and_has_no_vertex_colors(tmp_path: Path) -> None:
    mesh = replace(bake_vertex_colors(ball(), 32), vertex_colors=None)
    text = write_obj(tmp_path / "asset.obj", mesh).read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"asset.obj", "asset.mtl", "asset.png"}
    assert "mtllib asset.mtl" in text
    assert "map_Kd asset.png" in (tmp_path / "asset.mtl").read_text()
    positions = [line for line in text.splitlines() if line.startswith("v ")]
    assert all(len(line.split()) == 4 for line in positions)


def test_bad_meshes_are_refused() -> None:
    mesh = ball()
    for change, message in (
        ({"faces": mesh.faces[:0]}, "no faces"),
        ({"faces": mesh.faces + 100}, "names vertex 741, there are 642"),
        ({"vertices": mesh.vertices * float("inf")}, "vertices of the mesh hold numbers that are not finite"),
        ({"vertices": torch.ones_like(mesh.vertices)}, "in one place"),
    ):
        with pytest.raises(UserError, match=f"cannot unwrap: .*{message}"):
            unwrap(replace(mesh, **change), 32)
    with pytest.raises(ValueError, match="uvs"):
        texels_of(mesh, 16)


@pytest.mark.parametrize("size", [1e-3, 1e-9, 1e6])
def test_a_mesh_of_any_size_and_place_is_laid_flat(size: float) -> None:
    """xatlas has fixed tolerances and alone would give NaN for small meshes."""
    mesh = ball()
    moved = unwrap(replace(mesh, vertices=size * (mesh.vertices + 3)), 32)
    assert moved.uvs is not None
    assert moved.uvs.isfinite().all()
    a, b, c = (moved.uvs[moved.faces[:, i]] for i in range(3))
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    assert 0.5 * (ux * vy - uy * vx).abs().sum() > 0.2, "the atlas is used"
    torch.testing.assert_close(moved.vertices[moved.faces], (size * (mesh.vertices + 3))[mesh.faces])


def test_a_textured_closed_mesh_is_watertight(atlas: TriMesh) -> None:
    """Seams have two vertices at one position."""
    assert not is_closed(atlas.faces.numpy())
    assert is_watertight(atlas)
    assert not is_watertight(replace(atlas, faces=atlas.faces[1:]))
    pole = torch.tensor([[0, 0, 1]])
    assert is_watertight(replace(atlas, faces=torch.cat([atlas.faces, pole]))), (
        "a face without area is no hole"
    )


def test_an_obj_overwrites_no_foreign_picture_or_material(tmp_path: Path) -> None:
    mesh = replace(bake_vertex_colors(ball(), 32), vertex_colors=None)
    (tmp_path / "photo.png").write_text("mine")
    (tmp_path / "photo-2.mtl").write_text("mine, too")
    for _ in range(2):  # the second time over its own
        text = write_obj(tmp_path / "photo.obj", mesh).read_text()
        assert "mtllib photo-3.mtl" in text
        assert "map_Kd photo-3.png" in (tmp_path / "photo-3.mtl").read_text()
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"photo.png", "photo.obj", "photo-2.mtl", "photo-3.mtl", "photo-3.png"}
    assert (tmp_path / "photo.png").read_text() == "mine"
    assert (tmp_path / "photo-2.mtl").read_text() == "mine, too"


@pytest.mark.parametrize("stem", ["new\nline", "\udcff", "a b", "#x"])
def test_the_texture_of_an_obj_of_any_name_is_found(tmp_path: Path, stem: str) -> None:
    mesh = replace(bake_vertex_colors(ball(), 32), vertex_colors=None)
    path = write_obj(tmp_path / f"{stem}.obj", mesh)
    assert len(read_painted(path).textures) == 1
