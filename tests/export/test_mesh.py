"""Meshes of Gaussians: topology, size, equivariance, agreement with renders, budgets."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import pi

import numpy as np
import pytest
import torch
import trimesh
from clouds import ball, cloud_at, joined, sphere_skin, torus

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud, TriMesh
from threedgen.export import mesh as mesh_module
from threedgen.export.density import density, ellipsoids
from threedgen.export.low_pass import as_seen, pixel_size
from threedgen.export.mesh import MeshConfig, extract_mesh
from threedgen.export.silhouettes import pictures
from threedgen.export.surface_color import surface_colors
from threedgen.renderers.backends.torch import splat
from threedgen.renderers.rasterize import rasterize

SMALL = MeshConfig(resolution=48, faces=8000)


def solid(mesh: TriMesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.double().numpy(), mesh.faces.numpy(), process=False)


def test_density_is_the_sum_over_gaussians() -> None:
    cloud = GaussianCloud(
        means=torch.tensor([[0.1, -0.2, 0.3], [-0.3, 0.2, 0.0]]),
        quats=torch.tensor([[0.9, 0.1, -0.3, 0.2], [0.2, 0.5, 0.4, -0.7]]),
        scales=torch.tensor([[0.3, 0.1, 0.2], [0.15, 0.25, 0.1]]),
        opacities=torch.tensor([0.9, 0.4]),
        sh=torch.zeros(2, 1, 3),
    )
    shapes = ellipsoids(cloud)
    grid = density(shapes, np.array([-1.0, -1.0, -1.0]), 0.1, (21, 20, 19))
    point = grid.origin + 0.1 * np.stack(np.meshgrid(*map(np.arange, (21, 20, 19)), indexing="ij"), axis=-1)
    expected = np.zeros((21, 20, 19))
    for n in range(2):
        rotation = trimesh.transformations.quaternion_matrix(cloud.quats[n].numpy())[:3, :3]
        local = (point - cloud.means[n].numpy()) @ rotation / cloud.scales[n].numpy()
        expected += float(cloud.opacities[n]) * np.exp(-0.5 * (local**2).sum(axis=-1))
    # Boxes end where a Gaussian falls to 1/255.
    np.testing.assert_allclose(grid.values, expected, atol=2.1 / 255)
    assert np.abs(grid.values - expected)[expected > 0.1].max() < 5e-3


def test_projections_see_the_same_gaussian_from_thirteen_sides() -> None:
    """For a single round Gaussian the maximum of tau is -log(1 - opacity) in every direction."""
    cloud = cloud_at(torch.zeros(1, 3), torch.zeros(1, 3), 0.2, opacity=0.7)
    shapes = ellipsoids(cloud)
    grid = density(shapes, np.full(3, -1.0), 0.1, (21, 21, 21))
    views = pictures(shapes, grid)
    assert len(views) == 13
    for view in views:
        assert view.tau.max() == pytest.approx(-np.log(0.3), rel=1e-5)
        centre = np.array(np.unravel_index(view.tau.argmax(), view.tau.shape))
        np.testing.assert_array_equal(centre, (np.array(view.tau.shape) - 1) / 2)


def test_ball_is_closed_round_and_outward() -> None:
    mesh = extract_mesh(ball(), SMALL)
    body = solid(mesh)
    assert body.is_watertight
    assert body.euler_number == 2
    distance = np.linalg.norm(body.vertices, axis=1)
    # The picture is half opaque about 1.2 deviations beyond the outermost centres; the lattice is uneven.
    assert 0.58 < distance.min() < distance.max() < 0.74
    mean = distance.mean()
    assert body.volume == pytest.approx(4 / 3 * pi * mean**3, rel=0.03)
    assert mesh.normals is not None
    outward = (mesh.normals.double().numpy() * body.vertices).sum(axis=1) / distance
    assert outward.min() > 0.3
    assert outward.mean() > 0.95
    np.testing.assert_allclose(mesh.normals.norm(dim=1).numpy(), 1.0, atol=1e-5)


def test_torus_has_one_hole() -> None:
    body = solid(extract_mesh(torus(), SMALL))
    assert body.is_watertight
    assert body.euler_number == 0
    assert body.body_count == 1


def test_a_hollow_skin_becomes_one_solid() -> None:
    """A hole in the skin must not give the mesh an inner wall."""
    skin = sphere_skin()
    leaky = skin.means[:, 1] < 0.597
    leaky &= (skin.means - skin.means[700]).norm(dim=1) > 0.15
    cloud = GaussianCloud(*(getattr(skin, n)[leaky] for n in ("means", "quats", "scales", "opacities", "sh")))
    for one in (skin, cloud):
        body = solid(extract_mesh(one, SMALL))
        assert body.is_watertight
        assert body.euler_number == 2
        assert body.volume > 0.95 * body.convex_hull.volume


@pytest.mark.parametrize("make", [ball, torus, sphere_skin])
def test_silhouette_agrees_with_the_render(make) -> None:
    cloud = make()
    mesh = extract_mesh(cloud, replace(SMALL, resolution=64))
    azimuth, elevation = torch.tensor([20.0, 100.0, 245.0]), torch.tensor([10.0, 35.0, -20.0])
    cameras = orbit(azimuth, elevation, torch.full((3,), 3.0), 40.0, 96, 96)
    with torch.no_grad():
        _, alpha, *_ = splat(cloud, cameras, torch.zeros(3, 3), torch.zeros(3, len(cloud), 2))
    seen = alpha[..., 0] > 0.5
    meshed = rasterize(mesh, cameras).face_id >= 0
    overlap = (seen & meshed).sum(dim=(1, 2)) / (seen | meshed).sum(dim=(1, 2))
    assert overlap.min() > 0.96, overlap


def test_twice_the_size_elsewhere_gives_the_same_mesh_there() -> None:
    small = ball()
    shift = torch.tensor([4.0, -8.0, 2.0])
    large = replace(small, means=2 * small.means + shift, scales=2 * small.scales)
    one, two = extract_mesh(small, SMALL), extract_mesh(large, SMALL)
    assert solid(two).volume == pytest.approx(8 * solid(one).volume, rel=1e-3)
    np.testing.assert_allclose(solid(two).bounds, 2 * solid(one).bounds + shift.numpy(), atol=0.02)
    same_place = replace(small, means=2 * small.means, scales=2 * small.scales)
    three = extract_mesh(same_place, SMALL)
    torch.testing.assert_close(three.vertices, 2 * one.vertices)
    assert torch.equal(three.faces, one.faces)


def test_colors_are_those_of_the_position() -> None:
    mesh = extract_mesh(ball(), SMALL)
    assert mesh.vertex_colors is not None
    expected = (mesh.vertices / 0.66 + 1) / 2
    assert (mesh.vertex_colors - expected).abs().max() < 0.12
    assert (mesh.vertex_colors - expected).abs().mean() < 0.03


def test_colors_come_from_what_is_in_front() -> None:
    """With opaque red around green the surface is red, although both are near it."""
    skin = sphere_skin(0.6, 1500, 0.04)
    red = torch.tensor([[0.9, 0.1, 0.1]]).expand(1500, 3)
    green = torch.tensor([[0.1, 0.9, 0.1]])
    outer = cloud_at(skin.means, red, 0.04, 0.98)
    inner = cloud_at(0.88 * skin.means, green.expand(1500, 3), 0.04, 0.98)
    mesh = extract_mesh(joined(inner, outer), SMALL)
    assert mesh.vertex_colors is not None
    torch.testing.assert_close(mesh.vertex_colors.mean(dim=0), red[0], atol=0.05, rtol=0.0)


def test_view_dependent_colors_are_seen_from_outside_along_the_normal() -> None:
    """A colour of degree 1 that grows along +x, from the camera to the Gaussian, is strongest on the side at -x."""
    plain = ball()
    sh = torch.zeros(len(plain), 4, 3)
    sh[:, 3, 0] = -0.4 / 0.4886025119029199  # -c x k: red grows by 0.4 x
    mesh = extract_mesh(replace(plain, sh=sh), SMALL)
    assert mesh.vertex_colors is not None
    assert mesh.normals is not None
    expected = 0.5 - 0.4 * mesh.normals[:, 0]
    torch.testing.assert_close(mesh.vertex_colors[:, 0], expected, atol=1e-4, rtol=0.0)


def test_things_in_front_do_not_tint() -> None:
    """The top of a green blob stays green below a red blob at some distance."""
    green, red = torch.tensor([[0.1, 0.9, 0.1]]), torch.tensor([[0.9, 0.1, 0.1]])
    below = cloud_at(torch.zeros(1, 3), green, 0.1)
    above = cloud_at(torch.tensor([[0.0, 0.35, 0.0]]), red, 0.05)
    top, up = np.array([[0.0, 0.15, 0.0]]), np.array([[0.0, 1.0, 0.0]])
    colors = surface_colors(ellipsoids(joined(below, above)), top, up, reach=0.3)
    np.testing.assert_allclose(colors, green.numpy(), atol=1e-6)


def test_crumbs_and_inner_walls_are_removed() -> None:
    crumb = cloud_at(torch.zeros(1, 3), torch.zeros(1, 3), 0.03)
    shapes, _, _ = mesh_module._focus(ellipsoids(joined(torus(), crumb)), 0.01)
    assert len(shapes) == len(torus())
    outer, inner = trimesh.creation.icosphere(2, 1.0), trimesh.creation.icosphere(2, 0.8)
    small = trimesh.creation.icosphere(1, 0.1)
    small.apply_translation([3.0, 0.0, 0.0])
    inner.invert()
    together = trimesh.util.concatenate([inner, small, outer])
    assert isinstance(together, trimesh.Trimesh)
    vertices, faces = mesh_module.main_pieces(np.asarray(together.vertices), np.asarray(together.faces), 0.01)
    assert (len(vertices), len(faces)) == (len(outer.vertices), len(outer.faces))
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1.0)


def test_a_small_part_that_is_seen_is_kept() -> None:
    """The ball at the end of an antenna, of a two hundredth of the volume, is no floater."""
    body, small = ball(0.5, 0.1, 0.06), ball(0.07, 0.035, 0.03)
    lifted = replace(small, means=small.means + torch.tensor([0.0, 0.8, 0.0]))
    mesh = extract_mesh(joined(body, lifted), MeshConfig(resolution=64))
    assert float(mesh.vertices[:, 1].max()) > 0.8


def test_floaters_are_removed_and_do_not_cost_resolution() -> None:
    places = torch.tensor([[9.0, 9.0, 9.0], [-1.1, 0.9, 0.5], [0.9, 0.5, 1.1], [0.5, -1.0, -0.9]])
    floater = cloud_at(places, torch.zeros(4, 3), 0.05)
    alone, beside = extract_mesh(ball(), SMALL), extract_mesh(joined(ball(), floater), SMALL)
    assert float(beside.vertices.abs().max()) < 1.0
    assert solid(beside).volume == pytest.approx(solid(alone).volume, rel=5e-3)
    assert len(beside.faces) > 0.8 * len(alone.faces)
    both = extract_mesh(joined(ball(0.3), replace(ball(0.3), means=ball(0.3).means + 1.0)), SMALL)
    assert solid(both).body_count == 2


@pytest.mark.parametrize(("decimates", "tolerance"), [(True, 0.03), (False, 0.15)])
def test_the_face_budget_holds_and_the_mesh_stays_closed(
    decimates: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a decimation that reaches the budget, the surface is made on a coarser lattice."""
    if not decimates:
        monkeypatch.setattr(mesh_module, "decimate", lambda *_: None)
    mesh = extract_mesh(ball(), replace(SMALL, faces=1000))
    assert 300 < len(mesh.faces) <= 1000
    assert solid(mesh).is_watertight
    assert solid(mesh).volume == pytest.approx(solid(extract_mesh(ball(), SMALL)).volume, rel=tolerance)


def test_a_fold_left_by_decimation_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two triangles back to back are removed; if the mesh is still open, a slower decimation is tried."""
    closed = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    points = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 2, 2]])
    folded = np.concatenate([closed, [[0, 1, 4], [1, 0, 4]]])
    assert mesh_module.is_closed(closed)
    assert not mesh_module.is_closed(closed[1:])
    assert not mesh_module.is_closed(np.concatenate([closed[1:], closed[:1, ::-1]]))
    calls = []

    class Library:
        @staticmethod
        def simplify(vertices: np.ndarray, faces: np.ndarray, target_count: int, agg: int):
            calls.append(agg)
            return vertices, (folded[1:] if len(calls) == 1 else folded)

    monkeypatch.setitem(sys.modules, "fast_simplification", Library)
    result = mesh_module.decimate(points, closed, 10)
    assert result is not None
    np.testing.assert_array_equal(result[1], closed)
    np.testing.assert_allclose(result[0], points[:4], atol=1e-6)
    assert calls == [5, 4]


def test_the_blur_of_the_training_pictures_is_kept() -> None:
    """A cloud that was optimised at 32 pixels has the same picture at 128 only with the blur added."""
    cloud = sphere_skin(0.6, 600, 0.02)
    azimuth, elevation = torch.tensor([30.0]), torch.tensor([20.0])
    cameras = orbit(azimuth, elevation, torch.full((1,), 3.0), 40.0, 32, 32)

    def opacity(one: GaussianCloud, pixels: int) -> torch.Tensor:
        with torch.no_grad():
            _, alpha, *_ = splat(
                one, cameras.resized(pixels, pixels), torch.zeros(1, 3), torch.zeros(1, len(one), 2)
            )
        return alpha[0, ..., 0].reshape(32, pixels // 32, 32, pixels // 32).mean(dim=(1, 3))

    seen = opacity(cloud, 32)
    pixel = pixel_size(cameras)
    assert pixel == pytest.approx(2 * 3.0 * np.tan(np.radians(20.0)) / 32)
    kept, lost = opacity(as_seen(cloud, pixel), 128), opacity(cloud, 128)
    assert (kept - seen).abs().mean() < 0.02
    assert (lost - seen).abs().mean() > 0.05


def test_a_cloud_without_a_surface_is_reported() -> None:
    faint = replace(ball(), opacities=torch.full((len(ball()),), 0.004))
    mist = cloud_at(torch.zeros(1, 3), torch.zeros(1, 3), 0.2, opacity=0.2)
    broken = replace(ball(), means=torch.full((len(ball()), 3), float("nan")))
    empty = cloud_at(torch.zeros(0, 3), torch.zeros(0, 3), 0.2)
    for cloud in (faint, mist, broken, empty):
        with pytest.raises(UserError, match="opaque enough"):
            extract_mesh(cloud, SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 8}, "resolution is 8; it must be between 16 and 512"),
        ({"resolution": 513}, "resolution is 513; it must be between 16 and 512"),
        ({"faces": 99}, "faces is 99; it must be at least 100"),
        ({"level": 0.0}, "level is 0; it must be greater than 0"),
        ({"floaters": 1.0}, "floaters is 1; it must be at least 0 and less than 1"),
        ({"floaters": -0.1}, "floaters is -0.1; it must be at least 0 and less than 1"),
        ({"smoothing": -1}, "smoothing is -1; it must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        MeshConfig(**settings)
