"""The mesh renderer's laws: geometry, outlines and their gradients, colours, edges of the domain."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from mesh_scenes import ball, cast, disc, front_camera, relative_error, render_with_gradients

from threedgen.core.errors import UserError
from threedgen.core.types import TriMesh
from threedgen.renderers import backends
from threedgen.renderers.mesh import Config, MeshRenderer
from threedgen.renderers.mesh_shading import to_camera
from threedgen.renderers.silhouettes import find_edges, find_places

BLACK = torch.zeros(3)


def pixels_a_unit(camera, distance: float = 3.0) -> float:
    return float(camera.intrinsics[0, 0, 0]) / distance


@pytest.mark.parametrize("rings", [1, 60])  # 60: triangles far smaller than a pixel
def test_area_of_a_disc_and_its_gradient(rings: int) -> None:
    """d area / d radius = 2 pi r within a few percent, and 0 without antialiasing (docs/methods.md, "Meshes and
    their silhouettes")."""
    mesh, camera = disc(128, rings), front_camera(128, width=140)
    polygon = 0.5 * 128 * math.sin(2 * math.pi / 128)
    for antialias in (True, False):
        render, slopes, areas = MeshRenderer(Config(antialias=antialias)), [], []
        for value in (0.35, 0.45, 0.61, 0.72, 0.83):
            radius = torch.tensor(value, requires_grad=True)
            scaled = TriMesh(mesh.vertices.float() * radius, mesh.faces)
            area = render(scaled, camera, BLACK).alpha.sum() / pixels_a_unit(camera) ** 2
            (slope,) = torch.autograd.grad(area, radius, allow_unused=True, materialize_grads=True)
            slopes.append(slope.item() / (2 * polygon * value))
            areas.append(area.item() / (polygon * value**2))
        if antialias:
            torch.testing.assert_close(torch.tensor(slopes), torch.ones(5), rtol=0.05, atol=0.0)
            torch.testing.assert_close(torch.tensor(areas), torch.ones(5), rtol=2e-3, atol=0.0)
        else:
            assert slopes == [0.0] * 5


def test_alpha_is_what_fine_sampling_gives() -> None:
    mesh, camera = ball(4, bumps=0.0), front_camera(48, distance=2.2)
    smooth = MeshRenderer()(mesh, camera, BLACK).alpha
    fine = MeshRenderer(Config(antialias=False, supersampling=8))(mesh, camera, BLACK).alpha
    rough = MeshRenderer(Config(antialias=False))(mesh, camera, BLACK).alpha
    assert (smooth - fine).abs().max() < 0.2
    assert (smooth - fine).abs().sum() < 0.2 * (rough - fine).abs().sum()


def test_vertex_gradient_of_the_outline_matches_finite_differences() -> None:
    mesh, camera = cast(ball(1), torch.float64), front_camera(20, distance=2.2)
    target = torch.rand(1, 20, 20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(vertices: torch.Tensor) -> torch.Tensor:
        output = MeshRenderer()(dataclasses.replace(mesh, vertices=vertices), camera, torch.ones(3))
        return (output.alpha - target).square().sum() + output.rgb.square().sum()

    vertices = mesh.vertices.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(vertices), vertices)
    rng = torch.Generator().manual_seed(1)
    for _ in range(5):
        direction = torch.randn(vertices.shape, generator=rng, dtype=torch.float64)
        step = 1e-7
        with torch.no_grad():
            slope = (loss(vertices + step * direction) - loss(vertices - step * direction)) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_depth_and_normal_of_a_plane_and_a_ball() -> None:
    camera = front_camera(32)
    output = MeshRenderer()(cast(disc(64, 1), torch.float32), camera, BLACK)
    assert output.depth is not None
    assert output.normal is not None
    inside = output.alpha[..., 0] == 1
    torch.testing.assert_close(output.depth[..., 0], 3.0 * output.alpha[..., 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        output.normal[inside], torch.tensor([0.0, 0.0, 1.0]).expand(int(inside.sum()), 3)
    )
    mesh = ball(3, bumps=0.0)
    own = MeshRenderer()(dataclasses.replace(mesh, normals=mesh.vertices / 0.7), camera, BLACK).normal
    flat = MeshRenderer()(mesh, camera, BLACK).normal
    assert own is not None
    assert flat is not None
    assert ((own * flat).sum(-1)[MeshRenderer()(mesh, camera, BLACK).alpha[..., 0] == 1] > 0.97).all()


def test_colors_are_perspective_correct() -> None:
    """On a strongly tilted quad, colour is affine in the plane's own coordinates, not in the picture's."""
    corners = torch.tensor([[-1.0, -0.5, 1.5], [1.0, -0.5, 1.5], [1.0, 0.3, -6.0], [-1.0, 0.3, -6.0]])
    along = torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None].expand(4, 3)
    mesh = TriMesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), vertex_colors=along)
    output = MeshRenderer()(mesh, front_camera(64), BLACK)
    assert output.depth is not None
    inside = output.alpha[..., 0] == 1
    true = (output.depth[..., 0][inside] - 1.5) / 7.5  # camera z runs from 1.5 to 9 along the quad
    assert inside.sum() > 200
    torch.testing.assert_close(output.rgb[inside][:, 0], true, rtol=0, atol=1e-4)


def test_a_texture_stands_upright() -> None:
    """v = 0 is the top: the first row of the texture is at the upper edge of a quad whose v grows downwards."""
    vertices = torch.tensor([[-1.0, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]])
    uvs = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    texture = torch.zeros(2, 2, 3)
    texture[0, 0], texture[0, 1], texture[1, 0] = torch.eye(3).unbind(0)
    mesh = TriMesh(vertices, torch.tensor([[0, 3, 2], [0, 2, 1]]), uvs=uvs, texture=texture)
    rgb = MeshRenderer()(mesh, front_camera(40), BLACK).rgb[0]
    assert rgb[10, 10].argmax() == 0
    assert rgb[10, 29].argmax() == 1
    assert rgb[29, 10].argmax() == 2
    assert rgb[29, 29].max() < 0.1


def test_a_seam_is_no_outline() -> None:
    mesh = ball(2, textured=True)
    assert mesh.uvs is not None
    split = TriMesh(
        mesh.vertices[mesh.faces].flatten(0, 1),
        torch.arange(3 * len(mesh.faces)).view(-1, 3),
        uvs=mesh.uvs[mesh.faces].flatten(0, 1),
        texture=mesh.texture,
    )
    camera = front_camera(32)
    whole, parts = (MeshRenderer()(each, camera, BLACK).rgb for each in (mesh, split))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    assert (find_edges(split.faces, find_places(split.vertices)[split.faces]).second >= 0).all()


def test_back_faces_are_drawn_or_culled() -> None:
    camera = front_camera(24)
    mesh = cast(disc(32, 1), torch.float32)
    away = dataclasses.replace(mesh, faces=mesh.faces.flip(1))
    draw, cull = MeshRenderer(), MeshRenderer(Config(backfaces="cull"))
    torch.testing.assert_close(draw(away, camera, BLACK).alpha, draw(mesh, camera, BLACK).alpha)
    torch.testing.assert_close(cull(mesh, camera, BLACK).alpha, draw(mesh, camera, BLACK).alpha)
    assert cull(away, camera, BLACK).alpha.max() == 0
    solid = ball(2)
    torch.testing.assert_close(cull(solid, camera, BLACK).rgb, draw(solid, camera, BLACK).rgb)


def test_triangles_through_the_near_plane_are_drawn() -> None:
    """A floor that extends from in front of the camera to behind it fills the lower half of the picture."""
    floor = torch.tensor([[-50.0, -1, -50], [50, -1, -50], [50, -1, 50], [-50, -1, 50]])
    mesh = TriMesh(floor, torch.tensor([[0, 2, 1], [0, 3, 2]]))
    alpha = MeshRenderer()(mesh, front_camera(32), BLACK).alpha[0, :, :, 0]
    assert (alpha[20:] == 1).all()
    assert (alpha[:14] == 0).all()


def test_occlusion_blends_the_near_outline_over_the_far_surface() -> None:
    """The rim of a small disc in front of a large one is smooth, and moving it has a gradient."""
    small, large = cast(disc(64, 1), torch.float32), cast(disc(64, 1), torch.float32)
    radius = torch.tensor(0.4, requires_grad=True)
    front = small.vertices * radius + torch.tensor([0.0, 0.0, 0.5])
    count = len(small.vertices)
    colors = torch.cat([torch.ones(count, 3), torch.zeros(count, 3)])
    mesh = TriMesh(
        torch.cat([front, large.vertices * 0.9]),
        torch.cat([small.faces, large.faces + count]),
        vertex_colors=colors,
    )
    camera = front_camera(96)
    area = MeshRenderer()(mesh, camera, BLACK).rgb[..., 0].sum() / pixels_a_unit(camera, 2.5) ** 2
    (slope,) = torch.autograd.grad(area, radius)
    assert slope.item() == pytest.approx(2 * math.pi * 0.4, rel=0.06)


def test_of_several_outlines_between_two_pixels_the_outermost_counts() -> None:
    """A disc half a pixel larger, right behind another: the silhouette is the larger one's."""
    mesh, camera = disc(128, 1), front_camera(64)
    scale = pixels_a_unit(camera)
    inner, outer = mesh.vertices * 0.6 + torch.tensor([0.0, 0.0, 1e-3]), mesh.vertices * (0.6 + 0.5 / scale)
    both = TriMesh(torch.cat([inner, outer]).float(), torch.cat([mesh.faces, mesh.faces + len(inner)]))
    area = MeshRenderer()(both, camera, BLACK).alpha.sum().item() / scale**2
    assert area == pytest.approx(math.pi * (0.6 + 0.5 / scale) ** 2, rel=3e-3)


def test_a_speck_on_a_pixel_centre_has_an_alpha_between_0_and_1() -> None:
    """The weights of its four outlines at the pixel have a sum above 1."""
    camera = front_camera(9)
    corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 0.1 / pixels_a_unit(camera)
    speck = TriMesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    alpha = MeshRenderer()(speck, camera, BLACK).alpha
    assert alpha.min() >= 0
    assert MeshRenderer(Config(antialias=False))(speck, camera, BLACK).alpha.sum() == 1


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_values_stay_between_the_corners_where_a_pixel_is_beside_its_face(backend: str) -> None:
    """Rounding may give a pixel a face that it is just outside of."""
    if backends.available("mesh")[backend] is not None:
        pytest.skip("not here")
    mesh, camera = ball(1), front_camera(12)
    assert mesh.vertex_colors is not None
    points = to_camera(mesh.vertices, camera)
    for face in (0, 7, 30):
        wrong = torch.full((1, 12, 12), face, dtype=torch.int32)
        colors = mesh.vertex_colors[mesh.faces[face]]
        module = backends.load("mesh", backend)
        shown = module.interpolate(points, mesh.faces, camera, wrong, mesh.vertex_colors)[..., :3]
        assert (shown >= colors.amin(0) - 1e-6).all()
        assert (shown <= colors.amax(0) + 1e-6).all()


def test_an_empty_mesh_is_the_background_and_has_a_gradient() -> None:
    vertices = torch.zeros(0, 3, requires_grad=True)
    mesh = TriMesh(vertices, torch.zeros(0, 3, dtype=torch.int64), vertex_colors=torch.zeros(0, 3))
    output = MeshRenderer()(mesh, front_camera(8), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(output.rgb, torch.tensor([0.1, 0.2, 0.3]).expand(1, 8, 8, 3))
    output.rgb.sum().backward()
    assert vertices.grad is not None


def test_supersampling_averages_a_finer_picture() -> None:
    mesh, camera = ball(), front_camera(16)
    output = MeshRenderer(Config(supersampling=3))(mesh, camera, BLACK)
    fine = MeshRenderer()(mesh, camera.resized(48, 48), BLACK)
    torch.testing.assert_close(output.rgb, fine.rgb.view(1, 16, 3, 16, 3, 3).mean((2, 4)), rtol=0, atol=1e-6)


def test_backgrounds_and_bad_arguments() -> None:
    mesh, camera, color = ball(), front_camera(9, width=12), torch.tensor([0.1, 0.5, 0.9])
    first = MeshRenderer()(mesh, camera, color).rgb
    torch.testing.assert_close(MeshRenderer()(mesh, camera, color.expand(1, 9, 12, 3)).rgb, first)
    with pytest.raises(ValueError, match="background must be"):
        MeshRenderer()(mesh, camera, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="faces must name vertices"):
        MeshRenderer()(TriMesh(torch.zeros(3, 3), torch.tensor([[0, 1, 3]])), camera, color)
    bad: list[dict[str, Any]] = [{"backfaces": "hide"}, {"supersampling": 0}, {"supersampling": 9}]
    for wrong in bad:
        with pytest.raises(UserError, match=f"^{next(iter(wrong))} is .* must be"):
            Config(**wrong)
    with pytest.raises(UserError, match="unknown mesh backend"):
        MeshRenderer(Config(backend="fast"))(mesh, camera, color)


def test_new_faces_of_the_same_tensor_get_their_own_edges() -> None:
    render, camera = MeshRenderer(), front_camera(24)
    mesh = ball(1)
    render(mesh, camera, BLACK)
    mesh.faces[:40] = 0  # in place: the edges that were kept are wrong now
    torch.testing.assert_close(render(mesh, camera, BLACK).rgb, MeshRenderer()(mesh, camera, BLACK).rgb)


@pytest.mark.parametrize("first", ["without uvs", "collapsed", "split"])
def test_the_same_faces_under_other_seams_get_their_own_edges(first: str) -> None:
    """The places of vertices decide which edges are seams and which are outlines: edges must not outlive them."""
    render, camera, mesh = MeshRenderer(), front_camera(32), ball(2, textured=True)
    assert mesh.uvs is not None
    rows = mesh.faces.flatten()
    seams = dataclasses.replace(
        mesh, vertices=mesh.vertices[rows], uvs=mesh.uvs[rows], faces=torch.arange(len(rows)).view(-1, 3)
    )
    before = {
        "without uvs": TriMesh(seams.vertices, seams.faces),
        "collapsed": dataclasses.replace(seams, vertices=torch.zeros_like(seams.vertices)),
        "split": dataclasses.replace(seams, vertices=torch.rand(seams.vertices.shape)),
    }[first]
    render(before, camera, BLACK)
    after, fresh = render(seams, camera, BLACK), MeshRenderer()(seams, camera, BLACK)
    assert torch.equal(after.rgb, fresh.rgb)
    assert torch.equal(after.alpha, fresh.alpha)


def test_edges_are_found_once_while_nothing_they_follow_from_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    monkeypatch.setattr(
        "threedgen.renderers.mesh.find_edges", lambda *given: (found.append(1), find_edges(*given))[1]
    )
    render, camera, mesh = MeshRenderer(), front_camera(16), ball(2, textured=True)
    for factor in (1.0, 0.9, 0.8):
        render(dataclasses.replace(mesh, vertices=factor * mesh.vertices), camera, BLACK)
    assert len(found) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_places_are_those_of_equal_coordinates(dtype: torch.dtype) -> None:
    vertices = torch.randint(-2, 3, (400, 3), generator=torch.Generator().manual_seed(0)).to(dtype) * -0.1
    vertices[7] = float("nan")
    places, truth = find_places(vertices), (vertices[:, None] == vertices[None]).all(-1)
    truth.fill_diagonal_(True)
    assert torch.equal(places[:, None] == places[None], truth)


def test_places_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threedgen.renderers.silhouettes._PRIME", 0)
    assert find_places(torch.eye(3)[[0, 1, 0, 2]] + 1.0).unique().numel() == 3


def test_moving_the_whole_scene_and_camera_changes_nothing() -> None:
    mesh, camera = cast(ball(2), torch.float64), front_camera(24).to("cpu", torch.float64)
    before = render_with_gradients(mesh, camera)
    turn, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    )
    turn = turn * torch.linalg.det(turn)
    pose = camera.world_from_camera.clone()
    pose[:, :3] = turn @ pose[:, :3]
    moved = dataclasses.replace(mesh, vertices=mesh.vertices @ turn.T)
    after = render_with_gradients(moved, dataclasses.replace(camera, world_from_camera=pose))
    torch.testing.assert_close(after.images["rgb"], before.images["rgb"], rtol=0, atol=1e-9)
    assert relative_error(after.gradients["vertices"] @ turn, before.gradients["vertices"]) < 1e-6
