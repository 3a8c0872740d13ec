from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.spherical_harmonics import DC, basis, dc_from_rgb, rotate
from threedgen.core.transforms import (
    covariances,
    matrix_from_quat,
    quat_from_matrix,
    quat_multiply,
    transform,
)
from threedgen.core.types import GaussianCloud, RenderOutput, TriMesh
from threedgen.datasets.mesh_files import read_mesh
from threedgen.loop.optim import Config as OptimizerConfig
from threedgen.loop.optim import build_optimizer
from threedgen.representations import initialisers
from threedgen.representations.gaussians import DARKEST, PARAMETERS, Config, Gaussians


def random_cloud(count: int = 12, degree: int = 3) -> GaussianCloud:
    draw = generator(0, "cloud", degree)
    return GaussianCloud(
        torch.randn(count, 3, generator=draw).double(),
        torch.randn(count, 4, generator=draw).double(),
        torch.rand(count, 3, generator=draw).double() * 0.2 + 0.01,
        torch.rand(count, generator=draw).double() * 0.98 + 0.01,
        torch.randn(count, (degree + 1) ** 2, 3, generator=draw).double(),
    )


def random_rotation(seed: int = 0) -> Tensor:
    quat = torch.randn(1, 4, generator=generator(seed, "rotation", 0), dtype=torch.float64)
    return matrix_from_quat(quat)[0]


def unit(count: int) -> Tensor:
    return torch.nn.functional.normalize(
        torch.randn(count, 3, generator=generator(1, "d", 0)).double(), dim=-1
    )


def rgb_from_dc(dc: Tensor) -> Tensor:
    """The colour that a constant coefficient gives from all sides."""
    return 0.5 + DC * dc


def blank_output() -> RenderOutput:
    return RenderOutput(torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 1))


# --- the representation ---------------------------------------------------------------------------


def test_the_start_is_what_the_config_says():
    scene = Gaussians(Config(count=700, radius=0.6, opacity=0.2, sh_degree=2), seed=4)
    cloud = scene.at()
    assert len(cloud) == 700
    assert cloud.sh_degree == 0  # degrees come later
    torch.testing.assert_close(cloud.opacities, torch.full((700,), 0.2))
    assert (torch.linalg.vector_norm(cloud.means, dim=-1) <= 0.6).all()
    assert torch.equal(cloud.scales[:, 0], cloud.scales[:, 2])
    rgb = rgb_from_dc(cloud.sh[:, 0]).detach()
    assert 0.4 < float(rgb.mean()) < 0.6
    assert float(rgb.min()) > 0


def test_the_start_depends_on_the_seed_only():
    one, two, other = (
        Gaussians(Config(count=50), 1),
        Gaussians(Config(count=50), 1),
        Gaussians(Config(count=50), 2),
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.means, other.means)


def test_every_parameter_has_its_group_and_rate_and_a_gradient():
    scene = Gaussians(Config(count=20, sh_degree=1, sh_full=0.0))
    build_optimizer(
        scene.parameter_groups(),
        OptimizerConfig(),
        learning_rates=scene.learning_rates(),
        total_steps=1,
        owner=scene,
    )
    cloud = scene.at()
    sum(
        value.sum() for value in (cloud.means, cloud.quats, cloud.scales, cloud.opacities, cloud.sh)
    ).backward()  # type: ignore[union-attr]
    for name, parameter in scene.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_cloud_survives_the_round_trip(degree: int):
    cloud = random_cloud(degree=degree)
    back = Gaussians.from_cloud(cloud).at()
    for name in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(back, name), getattr(cloud, name), msg=name)
    higher = Gaussians.from_cloud(cloud, Config(sh_degree=3))
    assert higher.sh_rest.shape == (12, 15, 3)
    assert higher.at().sh_degree == degree


def test_a_cloud_with_opacities_at_the_ends_stays_finite():
    cloud = random_cloud()
    ends = GaussianCloud(cloud.means, cloud.quats, cloud.scales, (cloud.opacities > 0.5).double(), cloud.sh)
    scene = Gaussians.from_cloud(ends)
    assert torch.isfinite(scene.opacity_logits).all()
    torch.testing.assert_close(scene.at().opacities, ends.opacities, atol=2e-6, rtol=0)


@pytest.mark.parametrize("count", [1, 30, 999])
def test_a_state_with_any_count_loads(tmp_path: Path, count: int):
    saved = Gaussians(Config(count=count, sh_degree=2), seed=5)
    saved.gradient_sum += 3.0
    saved.active_degree.fill_(1)
    checkpoint.save(tmp_path, saved.state_dict(), {})
    scene = Gaussians(Config(count=30, sh_degree=2), seed=6)
    scene.load_state_dict(checkpoint.load(tmp_path)[0])
    assert len(scene) == count
    for name, value in saved.state_dict().items():
        assert torch.equal(scene.state_dict()[name], value), name
    assert scene.at().sh_degree == 1
    assert set(scene.state_dict()) == {*PARAMETERS, "gradient_sum", "view_count", "active_degree"}


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    scene = Gaussians(Config(count=5))
    before = {name: value.clone() for name, value in scene.state_dict().items()}
    state = Gaussians(Config(count=7, sh_degree=1)).state_dict()
    with pytest.raises(UserError, match="sh_rest"):
        scene.load_state_dict(state)
    with pytest.raises(UserError, match="quats is missing"):
        scene.load_state_dict({"means": torch.zeros(3, 3)})
    for name, value in scene.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_bounds_hold_after_every_step_whatever_the_optimizer_did():
    scene = Gaussians(Config(count=40, scales=(0.01, 0.2)))
    with torch.no_grad():
        scene.log_scales.copy_(torch.randn(40, 3) * 5)
        scene.quats.mul_(torch.rand(40, 1) * 9 + 0.1)
        scene.sh.copy_(torch.randn(40, 1, 3) * 9)
    optimizer = build_optimizer(
        scene.parameter_groups(), OptimizerConfig(), learning_rates=scene.learning_rates(), total_steps=1
    )
    scene.adapt(0, 1000, blank_output(), optimizer, seed=0)
    cloud = scene.at()
    assert (cloud.scales > 0.0099).all()
    assert (cloud.scales < 0.2001).all()
    torch.testing.assert_close(torch.linalg.vector_norm(cloud.quats, dim=-1), torch.ones(40))
    rgb = rgb_from_dc(cloud.sh).detach()
    assert float(rgb.min()) == pytest.approx(DARKEST, rel=1e-3)
    assert float(rgb.max()) == pytest.approx(1.0)


def test_degrees_come_one_after_another():
    scene = Gaussians(Config(count=4, sh_degree=3, sh_full=0.6))
    optimizer = build_optimizer(
        scene.parameter_groups(), OptimizerConfig(), learning_rates=scene.learning_rates(), total_steps=100
    )
    degrees = []
    for step in range(100):
        degrees.append(scene.at().sh_degree)
        scene.adapt(step, 100, blank_output(), optimizer, seed=0)
    assert [degrees.index(degree) for degree in range(4)] == [0, 20, 40, 60]
    assert degrees == sorted(degrees)


@pytest.mark.parametrize(
    "bad",
    [
        {"count": 0},
        {"sh_degree": 4},
        {"opacity": 1.0},
        {"scales": (0.3, 0.1)},
        {"scales": (0.1, float("inf"))},
        {"radius": -1.0},
        {"radius": float("nan")},
        {"radius": float("inf")},
        {"color_noise": float("nan")},
        {"sh_full": float("nan")},
        {"mesh": "chair.glb"},
        {"mesh": "chair.glb", "init": "sphere"},
        {"init": "cube"},
        {"init": "mesh"},
    ],
)
def test_bad_config_is_a_user_error(bad: dict[str, object]):
    with pytest.raises(UserError, match=next(iter(bad))):
        Config(**bad)  # type: ignore[arg-type]


# --- initialisers ---------------------------------------------------------------------------------


def test_ball_is_uniform_in_volume_and_sphere_in_area():
    draw = generator(0, "ball", 0)
    points = initialisers.ball(20000, 2.0, draw)
    radius = torch.linalg.vector_norm(points, dim=-1)
    for fraction in (0.3, 0.6, 0.9):
        inside = float((radius < 2.0 * fraction).float().mean())
        assert inside == pytest.approx(fraction**3, abs=0.015)
    torch.testing.assert_close(points.mean(0), torch.zeros(3), atol=0.03, rtol=0)
    shell = initialisers.sphere(20000, 0.5, draw)
    torch.testing.assert_close(torch.linalg.vector_norm(shell, dim=-1), torch.full((20000,), 0.5))
    for axis in range(3):  # Archimedes: every coordinate of a uniform sphere is uniform
        assert float((shell[:, axis] < 0.25).float().mean()) == pytest.approx(0.75, abs=0.015)


def two_triangles() -> TriMesh:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 1], [0, 1, 1]])
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    return TriMesh(vertices, torch.tensor([[0, 1, 2], [3, 4, 5], [0, 0, 1]]), vertex_colors=colors)


def test_mesh_points_are_uniform_by_area_on_the_surface_with_its_colours():
    points, colors = initialisers.mesh_surface(two_triangles(), 12000, generator(0, "mesh", 0))
    lower = points[:, 2] < 0.5
    assert float(lower.float().mean()) == pytest.approx(
        0.25, abs=0.015
    )  # areas 0.5 and 1.5, and an empty face
    torch.testing.assert_close(points[:, 2], points[:, 2].round(), atol=1e-6, rtol=0)
    below = points[lower]
    assert float((below[:, 0] + below[:, 1]).max()) <= 1.0 + 1e-6
    assert float((below[:, 0] < 0.5).float().mean()) == pytest.approx(0.75, abs=0.03)
    # Barycentric colours of this triangle are (1 - x - y, x, y).
    expected = torch.stack([1 - below[:, 0] - below[:, 1], below[:, 0], below[:, 1]], dim=-1)
    torch.testing.assert_close(colors[lower], expected, atol=1e-6, rtol=0)
    assert float(colors[~lower].abs().max()) == 0


def test_a_mesh_without_area_is_a_user_error():
    mesh = TriMesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(UserError, match="no surface"):
        initialisers.mesh_surface(mesh, 5, generator(0, "mesh", 0))


def test_a_mesh_file_starts_a_scene(tmp_path: Path):
    import trimesh

    box = trimesh.creation.box(extents=(2, 4, 6))
    box.visual.vertex_colors = [255, 51, 0, 255]  # type: ignore[union-attr]
    box.apply_translation([10, 0, 0])
    box.export(tmp_path / "box.ply")
    scene = Gaussians(Config(count=3000, init="mesh", mesh=str(tmp_path / "box.ply"), radius=0.8))
    points = scene.means.detach()
    half = torch.tensor([1.0, 2.0, 3.0]) * 0.8 / math.sqrt(14)
    torch.testing.assert_close(points.abs().amax(0), half, atol=1e-5, rtol=0)
    on_a_side = ((points.abs() - half).abs() < 1e-5).any(-1)
    assert on_a_side.all()
    rgb = rgb_from_dc(scene.sh[:, 0]).detach()
    torch.testing.assert_close(rgb, torch.tensor([[1.0, 0.2, 0.0]]).expand(3000, 3), atol=1e-5, rtol=0)
    (tmp_path / "box.ply").unlink()
    again = Gaussians.blank(scene.config)  # a run is exported without the file it started from
    again.load_state_dict(scene.state_dict())
    assert torch.equal(again.means, scene.means)


def test_our_own_export_is_a_start(tmp_path: Path):
    from threedgen.core.types import TriMesh
    from threedgen.export.gltf import write_glb

    vertices = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    colors = torch.tensor([0.8, 0.2, 0.1]).expand(4, 3)
    write_glb(tmp_path / "asset.glb", TriMesh(vertices, faces, colors))
    scene = Gaussians(Gaussians.Config(count=50, init="mesh", mesh=str(tmp_path / "asset.glb")))
    torch.testing.assert_close(
        rgb_from_dc(scene.sh[:, 0]).detach(), colors[:1].expand(50, 3), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("content", [None, b"", b"not a mesh at all", b"v 0 0 0\n"])
def test_a_bad_mesh_file_is_one_line(tmp_path: Path, content: bytes | None):
    path = tmp_path / "bad.obj"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.obj") as caught:
        read_mesh(path, 1.0)
    assert "\n" not in str(caught.value)


def test_first_scale_is_the_mean_distance_to_three_neighbours():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [9, 9, 9]])
    assert float(initialisers.neighbour_distance(points)[0]) == pytest.approx(2.0)
    distances = torch.cdist(points, points).sort(dim=-1).values[:, 1:4].mean(-1)
    torch.testing.assert_close(initialisers.neighbour_distance(points), distances)
    assert initialisers.neighbour_distance(points[:1]).tolist() == [1.0]
    assert initialisers.neighbour_distance(points[:2]).tolist() == [1.0, 1.0]


# --- spherical harmonics and similarities ---------------------------------------------------------


def test_the_basis_is_orthonormal_and_has_the_signs_of_3dgs():
    count = 4000  # a Fibonacci lattice integrates polynomials of degree 6 to about 1 / count
    index = torch.arange(count).double() + 0.5
    z = 1 - 2 * index / count
    angle = index * math.pi * (3 - math.sqrt(5))
    r = (1 - z**2).sqrt()
    directions = torch.stack([r * angle.cos(), r * angle.sin(), z], dim=-1)
    values = basis(directions, 3)
    gram = 4 * math.pi / count * values.T @ values
    torch.testing.assert_close(gram, torch.eye(16).double(), atol=2e-3, rtol=0)
    x, y, z = directions.unbind(-1)
    torch.testing.assert_close(values[:, 1:4], 0.4886025119029199 * torch.stack([-y, z, -x], dim=-1))
    torch.testing.assert_close(rgb_from_dc(dc_from_rgb(x)), x)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_rotated_coefficients_are_the_rotated_function(degree: int):
    rotation = random_rotation(degree)
    sh = torch.randn(7, (degree + 1) ** 2, 3, generator=generator(0, "sh", 0)).double()
    directions = unit(100)
    before = torch.einsum("mk,nkc->nmc", basis(directions, degree), sh)
    after = torch.einsum("mk,nkc->nmc", basis(directions @ rotation.T, degree), rotate(sh, rotation))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_degree_one_is_the_rotation_of_a_vector():
    rotation = random_rotation(3)
    sh = torch.randn(1, 4, 3, generator=generator(0, "sh", 0)).double()
    vector = torch.stack([-sh[0, 3], -sh[0, 1], sh[0, 2]])  # degree 1 is -y, z, -x
    turned = rotate(sh, rotation)[0]
    torch.testing.assert_close(torch.stack([-turned[3], -turned[1], turned[2]]), rotation @ vector)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 1e-3))
def test_quaternions_and_matrices_agree(values: list[float]):
    matrix = matrix_from_quat(torch.tensor([values], dtype=torch.float64))[0]
    quat = quat_from_matrix(matrix)
    assert quat[0] >= 0
    torch.testing.assert_close(matrix_from_quat(quat[None])[0], matrix, atol=1e-12, rtol=0)


def test_quaternion_product_is_composition():
    p, q = torch.randn(2, 5, 4, generator=generator(0, "pq", 0), dtype=torch.float64)
    product = matrix_from_quat(quat_multiply(p, q))
    torch.testing.assert_close(product, matrix_from_quat(p) @ matrix_from_quat(q))


def appearance(cloud: GaussianCloud, directions: Tensor) -> Tensor:
    return torch.einsum("mk,nkc->nmc", basis(directions, cloud.sh_degree), cloud.sh)


def test_a_similarity_moves_centres_covariances_and_colours_together():
    cloud, rotation = random_cloud(), random_rotation(8)
    shift, scale = torch.tensor([0.3, -2.0, 1.0]).double(), 1.7
    moved = transform(cloud, rotation, shift, scale)
    torch.testing.assert_close(moved.means, scale * cloud.means @ rotation.T + shift)
    torch.testing.assert_close(covariances(moved), scale**2 * rotation @ covariances(cloud) @ rotation.T)
    directions = unit(50)
    torch.testing.assert_close(appearance(moved, directions @ rotation.T), appearance(cloud, directions))
    assert torch.equal(moved.opacities, cloud.opacities)


def test_similarities_compose_and_invert():
    cloud = random_cloud()
    first, second = random_rotation(1), random_rotation(2)
    twice = transform(transform(cloud, first), second)
    once = transform(cloud, second @ first)
    torch.testing.assert_close(covariances(twice), covariances(once))
    torch.testing.assert_close(twice.sh, once.sh, atol=1e-12, rtol=0)
    shift = torch.tensor([1.0, 2.0, 3.0]).double()
    back = transform(transform(cloud, first, shift, 3.0), first.T, -(first.T @ shift) / 3.0, 1 / 3.0)
    torch.testing.assert_close(back.means, cloud.means)
    torch.testing.assert_close(back.scales, cloud.scales)
    torch.testing.assert_close(back.sh, cloud.sh, atol=1e-12, rtol=0)
    assert transform(cloud).means is not None


@pytest.mark.parametrize(
    "bad", [torch.diag(torch.tensor([1.0, 1.0, -1.0])), 2 * torch.eye(3), torch.zeros(3, 3)]
)
def test_mirrors_and_scalings_are_not_rotations(bad: Tensor):
    with pytest.raises(ValueError, match="proper rotation"):
        transform(random_cloud(), bad)


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        transform(random_cloud(), scale=0.0)
