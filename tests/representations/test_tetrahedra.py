"""Marching tetrahedra: closed, oriented, accurate surfaces with correct gradients, also of fields and meshes."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from mesh_scenes import ball, front_camera
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud, RadianceField, RenderOutput, TriMesh
from threedgen.loop.optim import Config as OptimizerConfig
from threedgen.loop.optim import build_optimizer
from threedgen.renderers.mesh import MeshRenderer
from threedgen.representations.marching_tetrahedra import interpolate_crossings, lattice, march
from threedgen.representations.signed_distance import inside_mesh
from threedgen.representations.tetrahedra import Config, Terms, Tetrahedra, sign_entropy

BOUNDS = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def body(mesh: TriMesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.detach().numpy(), mesh.faces.numpy(), process=False)


def test_a_sphere_is_closed_oriented_and_of_the_right_size() -> None:
    surface = body(Tetrahedra(Config(resolution=32, radius=0.6)).at())
    assert surface.is_watertight
    assert surface.is_winding_consistent
    assert surface.euler_number == 2
    assert surface.volume == pytest.approx(
        4 / 3 * math.pi * 0.6**3, rel=0.01
    )  # positive: faces look outwards
    assert surface.area == pytest.approx(4 * math.pi * 0.36, rel=0.01)


def test_any_pattern_of_signs_gives_a_closed_surface() -> None:
    """Random points inside reach every case of the table, on every tetrahedron, beside every other."""
    inside = torch.zeros(12, 12, 12, dtype=torch.bool)
    rng = torch.Generator().manual_seed(0)
    inside[1:-1, 1:-1, 1:-1] = torch.rand(10, 10, 10, generator=rng) < 0.5
    crossings = march(inside)
    distance = torch.where(inside.flatten(), -1.0, 1.0)
    points = lattice(11, 1.0)
    surface = body(TriMesh(interpolate_crossings(crossings, distance, points), crossings.faces))
    assert surface.is_watertight
    assert surface.is_winding_consistent
    # Cuts in the middle of edges: about the volume of a lattice cell for every point inside, faces looking
    # outwards.
    assert surface.volume == pytest.approx(int(inside.sum()) * (2 / 11) ** 3, rel=0.1)


def test_vertices_are_differentiable_in_distances_and_places() -> None:
    points = lattice(4, 1.0).double()
    rng = torch.Generator().manual_seed(0)
    distance = (
        points.norm(dim=1) - 0.6 + 0.02 * torch.rand(125, generator=rng, dtype=torch.float64)
    ).requires_grad_()
    crossings = march((distance.detach() < 0).view(5, 5, 5))
    points.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, p: interpolate_crossings(crossings, s, p).square(), (distance, points), eps=1e-7
    )


def test_gradient_of_the_volume_is_the_surface() -> None:
    """Lowering all distances by h grows a sphere by h: d volume / d h = area."""
    scene = Tetrahedra(Config(resolution=24))
    mesh = scene.at()
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    (gradient,) = torch.autograd.grad(volume, scene.distance)
    assert -gradient.sum().item() == pytest.approx(4 * math.pi * 0.36, rel=0.03)


def test_what_reaches_the_border_is_closed_there() -> None:
    scene = Tetrahedra(Config(resolution=8))
    with torch.no_grad():
        scene.distance.fill_(-1.0)
    surface = body(scene.at())
    assert surface.is_watertight
    assert surface.bounds.min() >= -1.0


class Optimizer:
    """Replaces the optimizer: it has all that `adapt` needs."""

    def replace_rows(self, old: torch.nn.Parameter, new: torch.nn.Parameter, source: Tensor) -> None:
        raise AssertionError("no rows change")

    def zero_moments(self, parameter: torch.nn.Parameter) -> None:
        pass


def adapt(scene: Tetrahedra) -> dict[str, float]:
    output = RenderOutput(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 1))
    return scene.adapt(0, 1, output, Optimizer(), 0)


def test_a_surface_that_vanished_shows_the_background_and_comes_back() -> None:
    scene = Tetrahedra(Config(resolution=8))
    with torch.no_grad():
        scene.distance.add_(1.0)
    optimizer = build_optimizer(
        scene.parameter_groups(),
        OptimizerConfig(),
        learning_rates=scene.learning_rates(),
        total_steps=1,
        owner=scene,
    )
    output = MeshRenderer()(scene.at(), front_camera(16), torch.ones(3))
    assert output.alpha.max() == 0
    output.rgb.sum().backward()
    optimizer.step()
    assert adapt(scene) == {"reseeded": 1.0}
    alpha = MeshRenderer()(scene.at(), front_camera(16), torch.ones(3)).alpha
    assert alpha.max() > 0
    alpha.sum().backward()
    assert scene.distance.grad is not None
    assert scene.distance.grad.abs().max() > 0
    assert adapt(scene) == {}


def test_sign_entropy_falls_when_floaters_go_and_reaches_the_loss() -> None:
    scene = Tetrahedra(Config(resolution=16, regularizers=Terms(sign_entropy=2.0)))
    clean, _ = scene.penalty(scene.at(), 0, 1)
    with torch.no_grad():
        scene.distance.view(17, 17, 17)[2:15:4, 2:15:4, 2:15:4] *= -1.0
    noisy, logged = scene.penalty(scene.at(), 0, 1)
    assert isinstance(noisy, Tensor)
    (gradient,) = torch.autograd.grad(noisy, scene.distance)
    assert isinstance(clean, Tensor)
    assert noisy.item() > 1.2 * clean.item()
    assert logged["regularizers/sign_entropy"] == pytest.approx(noisy.item() / 2)
    assert gradient.abs().max() > 0
    assert Tetrahedra(Config(resolution=8)).penalty(None, 0, 1) == (0.0, {})  # type: ignore[arg-type]


def test_sign_entropy_of_one_edge_is_two_cross_entropies() -> None:
    grid = torch.full((2, 2, 2), 0.7)
    grid[0, 0, 0] = -0.4
    softplus = torch.nn.functional.softplus
    expected = softplus(torch.tensor(0.4)) + softplus(torch.tensor(0.7))
    torch.testing.assert_close(sign_entropy(grid), expected)
    assert sign_entropy(grid.abs()) == 0


def test_smoothing_keeps_a_sphere_and_takes_noise() -> None:
    scene = Tetrahedra(Config(resolution=24, smoothing=0.3))
    smooth = scene.distance.detach().clone()
    with torch.no_grad():
        scene.distance.add_(
            0.02 * torch.randn(scene.distance.shape, generator=torch.Generator().manual_seed(0))
        )
    before = (scene.distance.detach() - smooth).std()
    for _ in range(5):
        adapt(scene)
    assert (scene.distance.detach() - smooth).std() < 0.5 * before
    assert body(scene.at()).volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.05)


def sphere_field(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    return 200 * torch.sigmoid(60 * (0.5 - points.norm(dim=1))), (points + 1) / 2


def test_a_field_becomes_its_level_set_with_its_colors() -> None:
    """The radius is right within a cell, and the distance is one (docs/methods.md, "Tetrahedral grids")."""
    scene = Tetrahedra.from_asset(Config(resolution=24, level=100.0), 0, RadianceField(sphere_field, BOUNDS))
    mesh = scene.at()
    assert (mesh.vertices.norm(dim=1) - 0.5).abs().max() < 0.5 * 2 / 24
    assert mesh.vertex_colors is not None
    assert (mesh.vertex_colors - (mesh.vertices + 1) / 2).abs().max() < 0.05
    true = scene.points.norm(dim=1) - 0.5
    assert (scene.distance - true).abs().max() < 0.03
    thin = RadianceField(lambda p, d: (0.0 * p[:, 0], p), BOUNDS)
    with pytest.raises(UserError, match="too thin"):
        Tetrahedra.from_asset(Config(resolution=8), 0, thin)


def test_a_faint_field_still_has_a_surface() -> None:
    faint = RadianceField(lambda p, d: (0.01 * sphere_field(p, d)[0], p.abs()), BOUNDS)
    mesh = Tetrahedra.from_asset(Config(resolution=16), 0, faint).at()
    assert (mesh.vertices.norm(dim=1) - 0.5).abs().max() < 2 / 16


def test_a_closed_mesh_keeps_its_shape_and_colors() -> None:
    mesh = ball(3, bumps=0.3)
    scene = Tetrahedra.from_asset(Config(resolution=40), 0, mesh)
    made, given = body(scene.at()), body(mesh)
    assert made.is_watertight
    assert made.euler_number == 2
    assert made.volume == pytest.approx(given.volume, rel=0.02)
    camera = front_camera(32)
    shown, truth = (MeshRenderer()(each, camera, torch.zeros(3)) for each in (scene.at(), mesh))
    assert (shown.alpha - truth.alpha).abs().mean() < 0.01
    assert (shown.rgb - truth.rgb).abs().mean() < 0.03


def test_parity_finds_the_inside_of_a_torus_and_forgives_a_hole() -> None:
    ring = trimesh.creation.torus(0.6, 0.25)
    mesh = TriMesh(torch.tensor(ring.vertices).float(), torch.tensor(ring.faces).long())
    torn = TriMesh(mesh.vertices, mesh.faces[4:])
    side = torch.linspace(-1, 1, 33)
    x, y, z = torch.meshgrid(side, side, side, indexing="ij")
    true = ((x.square() + y.square()).sqrt() - 0.6).square() + z.square() < 0.25**2
    found = inside_mesh(mesh, side)
    assert (found != true).float().mean() < 0.01
    assert torch.equal(inside_mesh(torn, side), found)


def test_bad_configurations_and_assets_are_refused() -> None:
    for wrong in ({"resolution": 4}, {"radius": 1.5}, {"smoothing": 1.0}, {"level": 0.0}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is .*; it must be"):
            Config(**wrong)  # type: ignore[arg-type]
    cloud = GaussianCloud(
        torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1, 3), torch.ones(1), torch.zeros(1, 1, 3)
    )
    with pytest.raises(UserError, match="GaussianCloud"):
        Tetrahedra.from_asset(Config(resolution=8), 0, cloud)
    flat = TriMesh(5 + torch.eye(3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(UserError, match="encloses nothing"):
        Tetrahedra.from_asset(Config(resolution=8), 0, flat)


def test_state_round_trip() -> None:
    scene = Tetrahedra(Config(resolution=8))
    with torch.no_grad():
        for parameter in scene.parameters():
            parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    other = Tetrahedra(Config(resolution=8))
    other.load_state_dict(scene.state_dict())
    torch.testing.assert_close(other.at().vertices, scene.at().vertices, rtol=0, atol=0)
