"""Meshes of radiance fields: size, level, colours, borders and fields without a surface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from threedgen.core.types import RadianceField, TriMesh
from threedgen.export import write
from threedgen.export.field_mesh import extract_field_mesh, visible_level
from threedgen.export.mesh import MeshConfig, NoSurface, is_closed, signed_volume

QUICK = MeshConfig(resolution=40, faces=3000, smoothing=5)


def solid(
    distance, density: float = 60.0, colour=None, edge: float = 250.0, size: float = 1.0
) -> RadianceField:
    """A soft-edged shape: `distance` is negative inside."""

    def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        rgb = points.new_tensor([0.9, 0.2, 0.1]).expand(len(points), 3) if colour is None else colour(points)
        return density * torch.sigmoid(-edge * distance(points)), rgb

    return RadianceField(query, torch.tensor([[-size] * 3, [size] * 3]))


def sphere(points: Tensor) -> Tensor:
    return (points - points.new_tensor([0.1, 0.0, -0.2])).norm(dim=-1) - 0.5


def volume_of(mesh: TriMesh) -> float:
    return signed_volume(mesh.vertices.double().numpy(), mesh.faces.numpy())


def test_a_ball_is_closed_outward_and_of_the_right_size() -> None:
    mesh = extract_field_mesh(solid(sphere), QUICK)
    assert is_closed(mesh.faces.numpy())
    assert len(mesh.faces) <= QUICK.faces
    assert volume_of(mesh) == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.12)
    radii = (mesh.vertices - torch.tensor([0.1, 0.0, -0.2])).norm(dim=-1)
    assert float(radii.std()) < 0.004
    assert mesh.normals is not None
    outward = torch.nn.functional.normalize(mesh.vertices - torch.tensor([0.1, 0.0, -0.2]), dim=-1)
    assert float((mesh.normals * outward).sum(-1).min()) > 0.9


@pytest.mark.parametrize("density", [15.0, 60.0, 1000.0])
def test_a_soft_edge_is_cut_at_the_silhouette_of_pictures(density: float) -> None:
    """The silhouette of a ball of fog is where a chord stops half of the light."""
    mesh = extract_field_mesh(solid(sphere, density, edge=30.0), QUICK)
    along = torch.linspace(-0.8, 0.8, 2001).double()
    offsets = torch.linspace(0.3, 0.8, 501).double()
    radii = torch.hypot(offsets[:, None], along)
    thickness = (density * torch.sigmoid(30.0 * (0.5 - radii))).mean(1) * 1.6
    edge = float(offsets[(thickness >= np.log(2.0)).nonzero().max()])
    got = (mesh.vertices - torch.tensor([0.1, 0.0, -0.2])).norm(dim=-1)
    assert float(got.mean()) == pytest.approx(edge, abs=0.02)


def test_colours_are_those_seen_from_outside() -> None:
    def skin(points: Tensor) -> Tensor:
        depth = -sphere(points)[:, None]
        red, green = points.new_tensor([1.0, 0.0, 0.0]), points.new_tensor([0.0, 1.0, 0.0])
        return torch.where(depth > 0.12, green, red)

    mesh = extract_field_mesh(solid(sphere, 200.0, skin), QUICK)
    assert mesh.vertex_colors is not None
    assert float(mesh.vertex_colors[:, 0].min()) > 0.9
    assert float(mesh.vertex_colors[:, 1].max()) < 0.1


def test_crumbs_haze_and_hollows_are_left_out() -> None:
    def shapes(points: Tensor) -> Tensor:
        crumb = (points - points.new_tensor([-0.8, 0.8, 0.8])).norm(dim=-1) - 0.06
        hollow = torch.maximum(sphere(points), 0.3 - (sphere(points) + 0.5))
        return torch.minimum(hollow, crumb)

    field = solid(shapes)
    hazy = RadianceField(lambda p, d: (field.query(p, d)[0] + 0.02, field.query(p, d)[1]), field.bounds)
    mesh = extract_field_mesh(hazy, QUICK)
    assert is_closed(mesh.faces.numpy())
    assert volume_of(mesh) == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.12)
    assert float((mesh.vertices - torch.tensor([0.1, 0.0, -0.2])).norm(dim=-1).min()) > 0.4


def test_a_field_that_fills_its_box_is_closed_at_the_border() -> None:
    mesh = extract_field_mesh(solid(lambda points: -torch.ones(len(points))), QUICK)
    assert is_closed(mesh.faces.numpy())
    assert volume_of(mesh) == pytest.approx(8.0, rel=0.1)


def test_cells_marked_empty_are_empty() -> None:
    field = solid(sphere)
    occupancy = torch.ones(8, 8, 8, dtype=torch.bool)
    occupancy[4:] = False  # nothing at x > 0
    mesh = extract_field_mesh(RadianceField(field.query, field.bounds, occupancy), QUICK)
    assert float(mesh.vertices[:, 0].max()) < 0.06


@pytest.mark.parametrize("density", [0.0, 0.1])
def test_nothing_visible_has_no_surface(density: float) -> None:
    with pytest.raises(NoSurface, match="run more steps"):
        extract_field_mesh(solid(sphere, density), QUICK)
    with pytest.raises(NoSurface):
        extract_field_mesh(solid(sphere, 1.0), MeshConfig(resolution=16, level=50.0))


def test_a_density_that_is_not_finite_has_no_surface() -> None:
    with pytest.raises(NoSurface, match="not finite"):
        extract_field_mesh(solid(sphere, float("inf")), QUICK)


def test_a_given_level_is_used() -> None:
    def slope(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return 100.0 * (1 - points.norm(dim=-1)).clamp(min=0), torch.zeros_like(points)

    field = RadianceField(slope, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    for level in (20.0, 50.0):
        mesh = extract_field_mesh(field, MeshConfig(resolution=40, level=level, smoothing=0))
        assert float(mesh.vertices.norm(dim=-1).mean()) == pytest.approx(1 - level / 100, abs=0.02)


def test_the_level_of_an_empty_grid_is_none() -> None:
    assert visible_level(np.zeros((5, 5, 5)), 0.1) is None


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_a_field_is_written_as_a_mesh_that_other_software_reads(tmp_path: Path, suffix: str) -> None:
    import trimesh

    path = tmp_path / f"ball{suffix}"
    mesh = write(solid(sphere), path, mesh=QUICK)
    assert isinstance(mesh, TriMesh)
    read: Any = trimesh.load(path, force="mesh")
    read.merge_vertices(merge_tex=True, merge_norm=True)  # the seams of the texture
    assert read.is_watertight
    assert len(read.faces) == len(mesh.faces)
