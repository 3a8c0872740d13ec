"""Meshes of maps of normals: carving, frames of normals, and vertices that move until both agree."""

from dataclasses import replace

import pytest
import torch
import trimesh
from scipy.spatial import KDTree

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.types import TriMesh
from threedgen.export.mesh import is_watertight
from threedgen.reconstruction.carving import carved
from threedgen.reconstruction.normal_frame import checked_frame, renormalised
from threedgen.reconstruction.normal_fusion import Config, fused, remeshed, smooth_normals
from threedgen.renderers.mesh import MeshRenderer
from threedgen.representations.initialisers import mesh_surface

VOXEL = 0.06


def _torus():
    body = trimesh.creation.torus(0.55, 0.22, 48, 24)
    vertices, faces = torch.tensor(body.vertices).float(), torch.tensor(body.faces)
    return TriMesh(vertices, faces, normals=smooth_normals(vertices, faces))


def _cameras(views=6, size=48):
    azimuth = torch.tensor([0.0, 90.0, 180.0, 270.0, 0.0, 0.0])[:views]
    elevation = torch.tensor([0.0, 0.0, 0.0, 0.0, 80.0, -80.0])[:views]
    return orbit(azimuth, elevation, torch.full((views,), 2.85), 40.0, size, size)


def _maps(mesh, cameras):
    seen = MeshRenderer()(mesh, cameras, torch.zeros(3))
    assert seen.normal is not None
    return torch.nn.functional.normalize(seen.normal, dim=-1), seen.alpha


def _chamfer(one, other):
    rng = torch.Generator().manual_seed(0)
    points = [mesh_surface(mesh, 8000, rng)[0].detach().numpy() for mesh in (one, other)]
    return 0.5 * sum(KDTree(b).query(a)[0].mean() for a, b in (points, points[::-1]))


@pytest.mark.parametrize("views", [6, 4])
def test_exact_maps_of_a_torus_give_it_back(views):
    torus, cameras = _torus(), _cameras(views)
    normals, alpha = _maps(torus, cameras)
    first = carved(alpha[..., 0], cameras, VOXEL)
    made = fused(normals, alpha, cameras, Config(voxel=VOXEL, rounds=2, steps=20))
    assert is_watertight(first)
    assert is_watertight(made)
    assert bool(made.vertices.isfinite().all())
    assert _chamfer(made, torus) < 0.7 * _chamfer(first, torus)
    assert _chamfer(made, torus) < VOXEL


def test_a_new_mesh_of_the_surface_stays_where_the_surface_is():
    torus = _torus()
    made = remeshed(torus, VOXEL, torch.Generator().manual_seed(0))
    assert is_watertight(made)
    assert _chamfer(made, torus) < 0.3 * VOXEL


def test_maps_in_another_frame_are_refused_by_its_name():
    cameras = _cameras()
    normals, alpha = _maps(_torus(), cameras)
    checked_frame(normals, alpha, cameras)
    to_camera = cameras.world_from_camera[:, :3, :3].mT
    own = torch.einsum("vij,vhwj->vhwi", to_camera, normals)
    with pytest.raises(UserError, match=r"each camera's own frame \(x right, y down"):
        checked_frame(own, alpha, cameras)
    with pytest.raises(UserError, match=r"each camera's own frame \(x right, y up"):
        checked_frame(own * own.new_tensor([1.0, -1.0, -1.0]), alpha, cameras)
    for axis, letter in enumerate("xyz"):
        signs = torch.ones(3)
        signs[axis] = -1.0
        with pytest.raises(UserError, match=f"mirrored along {letter}"):
            checked_frame(normals * signs, alpha, cameras)
    with pytest.raises(UserError, match="point inwards"):
        fused(-normals, alpha, cameras, Config(voxel=0.1))
    with pytest.raises(UserError, match="mirrored left to right"):
        checked_frame(normals.flip(2), alpha.flip(2), cameras)


def test_a_box_whose_faces_are_seen_squarely_is_in_its_frame():
    body = trimesh.creation.box((0.9, 0.7, 0.8))
    corners = torch.tensor(body.vertices[body.faces].reshape(-1, 3)).float()
    box = TriMesh(corners, torch.arange(len(corners)).view(-1, 3))
    for views in (4, 6):
        cameras = _cameras(views)
        checked_frame(*_maps(box, cameras), cameras)


def test_normals_that_point_into_the_surface_only_in_depth_are_refused():
    """At the outlines they agree with a true map."""
    cameras = _cameras()
    normals, alpha = _maps(_torus(), cameras)
    forward = cameras.world_from_camera[:, None, None, :3, 2]
    wrong = normals - 2.0 * (normals * forward).sum(-1, keepdim=True) * forward
    with pytest.raises(UserError, match="not face their cameras in any known frame"):
        checked_frame(wrong, alpha, cameras)


def test_maps_in_the_frame_of_the_first_camera_are_refused_unless_it_is_that_of_the_object():
    cameras = _cameras()[torch.tensor([1, 0, 2, 3, 4, 5])]
    normals, alpha = _maps(_torus(), cameras)
    first = normals @ cameras.world_from_camera[0, :3, :3] * torch.tensor([1.0, -1.0, -1.0])
    with pytest.raises(UserError, match=r"first camera's frame \(x right, y up"):
        checked_frame(first, alpha, cameras)


def test_normals_of_any_length_become_unit_and_nothing_becomes_background():
    maps = torch.tensor([[0.6, 0.0, 0.6], [0.05, 0.0, 0.02], [0.0, 0.0, 0.0]])[None, None]
    normals, alpha = renormalised(maps)
    torch.testing.assert_close(normals.norm(dim=-1)[0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert alpha[0, 0, :, 0].tolist() == [1.0, 0.0, 0.0]


def test_maps_that_do_not_fit_the_cameras_are_refused():
    cameras = _cameras(4)
    normals, alpha = _maps(_torus(), cameras)
    for wrong in (
        (normals[:3], alpha[:3]),
        (normals[:, :40], alpha[:, :40]),
        (normals, alpha[:, :, :40]),
    ):
        with pytest.raises(UserError, match="one square map of each kind for each camera"):
            fused(*wrong, cameras)
    broken = normals.clone()
    broken[1, 20, 20, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        fused(broken, alpha, cameras)


def test_cameras_of_larger_pictures_carve_the_same():
    cameras = _cameras(4)
    _, alpha = _maps(_torus(), cameras)
    one, other = (carved(alpha[..., 0], seen, VOXEL) for seen in (cameras, cameras.resized(96, 96)))
    torch.testing.assert_close(one.vertices, other.vertices)


def test_an_empty_outline_is_named():
    cameras = _cameras()
    _, alpha = _maps(_torus(), cameras)
    alpha[2] = 0.0
    with pytest.raises(UserError, match="view 3 shows no object"):
        carved(alpha[..., 0], cameras, VOXEL)


def test_outlines_that_contradict_each_other_are_refused():
    cameras = _cameras(4)
    far = _torus()
    _, up = _maps(replace(far, vertices=0.3 * far.vertices + torch.tensor([0.0, 0.6, 0.0])), cameras[:1])
    _, down = _maps(replace(far, vertices=0.3 * far.vertices - torch.tensor([0.0, 0.6, 0.0])), cameras[1:])
    with pytest.raises(UserError, match="no object has these outlines"):
        carved(torch.cat([up, down])[..., 0], cameras, VOXEL)


def test_an_object_beyond_the_picture_is_cut_where_the_picture_ends():
    cameras = _cameras(4)
    mesh = carved(torch.ones(4, 48, 48), cameras, VOXEL)
    assert is_watertight(mesh)


def test_gradients_reach_every_vertex_and_are_finite():
    torus, cameras = _torus(), _cameras()
    vertices = torus.vertices.clone().requires_grad_()
    seen = MeshRenderer()(
        replace(torus, vertices=vertices, normals=smooth_normals(vertices, torus.faces)),
        cameras,
        torch.zeros(3),
    )
    assert seen.normal is not None
    (seen.normal[..., 0].sum() + seen.alpha.sum()).backward()
    assert vertices.grad is not None
    assert bool(vertices.grad.isfinite().all())
    assert bool((vertices.grad != 0.0).any(dim=1).float().mean() > 0.8)
