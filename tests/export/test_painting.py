"""Textures and outlines from views: a mesh is made to look like another one that only its pictures tell of."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import trimesh
from torch import Tensor

from threedgen.core.pictures import psnr
from threedgen.core.types import TriMesh
from threedgen.export.mesh import is_watertight, vertex_normals
from threedgen.export.outline import fit_outline
from threedgen.export.painting import paint
from threedgen.export.views import View, around
from threedgen.renderers.mesh import MeshRenderer


def sphere(radius: float, color: Tensor | None = None) -> TriMesh:
    """color: of each place on the unit sphere, mid grey by default."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    vertices = torch.tensor(ball.vertices).float()
    normals = torch.from_numpy(vertex_normals(vertices.double().numpy(), ball.faces)).float()
    colors = torch.full_like(vertices, 0.5) if color is None else color
    return TriMesh(vertices, torch.tensor(ball.faces).long(), vertex_colors=colors, normals=normals)


def colorful(radius: float = 1.0) -> TriMesh:
    plain = sphere(radius)
    assert plain.normals is not None
    return dataclasses.replace(plain, vertex_colors=0.5 + 0.4 * torch.sin(3.0 * plain.normals))


def seen(mesh: TriMesh, count: int = 12, size: int = 96, trust: float = 1.0) -> list[View]:
    cameras = around(mesh, count, size)
    with torch.no_grad():
        output = MeshRenderer()(mesh, cameras, torch.zeros(3))
    return [View(cameras[i : i + 1], output.rgb[i], output.alpha[i], trust) for i in range(count)]


def beside(mesh: TriMesh, truth: TriMesh) -> float:
    cameras = around(truth, 5, 64)
    with torch.no_grad():
        one, other = (MeshRenderer()(each, cameras, torch.ones(3)).rgb for each in (mesh, truth))
    return float(psnr(one, other).mean())


def test_a_texture_shows_what_the_views_show():
    truth = colorful()
    grey = sphere(1.0)
    painted = paint(grey, seen(truth), 256)
    assert painted.vertex_colors is None
    assert painted.texture is not None
    assert painted.texture.shape == (256, 256, 3)
    assert is_watertight(painted)
    assert len(painted.faces) == len(grey.faces)
    assert beside(grey, truth) < 20.0
    assert beside(painted, truth) > 35.0


def test_what_no_view_sees_keeps_its_colours():
    truth = colorful()
    (front,) = seen(truth, 1)
    painted = paint(sphere(1.0), [front], 256)
    away = -torch.nn.functional.normalize(front.camera.centers[0], dim=0)
    assert painted.normals is not None
    assert painted.uvs is not None
    assert painted.texture is not None
    behind = painted.normals @ away > 0.3
    texel = (painted.uvs[behind] * 256).long().clamp(0, 255)
    torch.testing.assert_close(
        painted.texture[texel[:, 1], texel[:, 0]], torch.full((int(behind.sum()), 3), 0.5), atol=1e-3, rtol=0
    )


def test_a_view_that_is_trusted_counts_more_than_others():
    truth, other = colorful(), sphere(1.0, torch.full((2562, 3), 0.9))
    painted = paint(sphere(1.0), [*seen(other, 6), *seen(truth, 12, trust=1000.0)], 256)
    assert beside(painted, truth) > 30.0


def test_a_surface_does_not_take_the_colours_of_what_is_in_front_of_it():
    """Two plates, of which a camera in front sees only the nearer one."""
    plate = trimesh.creation.box(extents=(1.0, 1.0, 0.05)).subdivide().subdivide()
    count = len(plate.vertices)
    vertices = torch.tensor(plate.vertices).float()
    near, far = vertices + torch.tensor([0.0, 0.0, 0.6]), vertices - torch.tensor([0.0, 0.0, 0.6])
    faces = torch.tensor(plate.faces).long()
    both = torch.cat([near, far])
    colors = torch.cat(
        [torch.tensor([[1.0, 0.0, 0.0]]).expand(count, 3), torch.tensor([[0.0, 0.0, 1.0]]).expand(count, 3)]
    )
    mesh = TriMesh(both, torch.cat([faces, faces + count]), vertex_colors=colors)
    grey = dataclasses.replace(mesh, vertex_colors=torch.full_like(both, 0.5))
    normals = vertex_normals(both.double().numpy(), mesh.faces.numpy())
    grey = dataclasses.replace(grey, normals=torch.from_numpy(normals).float())
    cameras = around(mesh, 1, 96)
    pose = torch.eye(4)[None].clone()
    pose[0, :3, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # it looks along -z
    pose[0, 2, 3] = 5.0
    camera = dataclasses.replace(cameras, world_from_camera=pose)
    with torch.no_grad():
        output = MeshRenderer()(mesh, camera, torch.zeros(3))
    painted = paint(grey, [View(camera, output.rgb[0], output.alpha[0])], 128)
    assert painted.texture is not None
    assert painted.uvs is not None
    shown = painted.texture[
        (painted.uvs[:, 1] * 128).long().clamp(0, 127), (painted.uvs[:, 0] * 128).long().clamp(0, 127)
    ]
    middle = painted.vertices[:, :2].abs().amax(1) < 0.3
    front = middle & ((painted.vertices[:, 2] - 0.625).abs() < 1e-3)
    hidden = middle & (painted.vertices[:, 2] < 0.0)
    assert bool(front.any())
    assert bool(hidden.any())
    assert float((shown[front] - torch.tensor([1.0, 0.0, 0.0])).abs().max()) < 0.1
    assert float((shown[hidden] - 0.5).abs().max()) < 0.1


@pytest.mark.parametrize("radius", [0.93, 1.05])
def test_vertices_move_to_the_outlines_of_the_views(radius):
    views = seen(sphere(1.0), 8)
    moved = fit_outline(sphere(radius), views, 60)
    assert moved.normals is not None
    radii = moved.vertices.norm(dim=1)
    assert float((radii - 1.0).abs().mean()) < 0.3 * abs(radius - 1.0)
    torch.testing.assert_close(moved.normals.norm(dim=1), torch.ones(len(radii)))
    again = fit_outline(sphere(radius), views, 60)
    assert torch.equal(moved.vertices, again.vertices)


def test_cameras_around_a_mesh_see_all_of_it():
    mesh = sphere(0.2)
    mesh = dataclasses.replace(mesh, vertices=mesh.vertices * 30.0 + torch.tensor([50.0, -3.0, 7.0]))
    with torch.no_grad():
        alpha = MeshRenderer()(mesh, around(mesh, 6, 48), torch.zeros(3)).alpha
    border = torch.ones(48, 48, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert float(alpha[:, border].max()) == 0.0
    assert (alpha > 0.5).float().mean() > 0.4
