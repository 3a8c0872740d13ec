"""The mesh representation: its start, the joint motion of its vertices, and its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mesh_scenes import ball, front_camera

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras, RenderOutput, Signal, TriMesh
from threedgen.export.obj import write_obj
from threedgen.loop.distill import distill
from threedgen.renderers.mesh import MeshRenderer
from threedgen.representations.mesh import Config, Mesh
from threedgen.representations.smooth_offsets import Smoother


def test_a_sphere_is_grey_and_round() -> None:
    mesh = Mesh(Config(radius=0.5, subdivisions=2)).at()
    torch.testing.assert_close(mesh.vertices.norm(dim=1), torch.full((162,), 0.5))
    assert mesh.vertex_colors is not None
    assert (mesh.vertex_colors == 0.5).all()
    assert len(mesh.faces) == 320


def test_a_shift_passes_the_smoother_and_noise_does_not() -> None:
    mesh = ball(3)
    smooth = Smoother(mesh.faces, len(mesh.vertices), 10.0)
    shift = torch.tensor([[0.1, -0.2, 0.3]]).expand(len(mesh.vertices), 3)
    torch.testing.assert_close(smooth(shift), shift)
    noise = torch.randn(len(mesh.vertices), 3, generator=torch.Generator().manual_seed(0))
    assert smooth(noise).std() < 0.1


def test_the_smoothers_gradient_matches_finite_differences() -> None:
    mesh = ball(1)
    smooth = Smoother(mesh.faces, len(mesh.vertices), 5.0)
    values = torch.randn(
        42, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: smooth(v).sin(), values)


def scene_middle(mesh: TriMesh) -> torch.Tensor:
    return (mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2


def extent(mesh: TriMesh) -> torch.Tensor:
    return (mesh.vertices - scene_middle(mesh)).norm(dim=1).max()


def test_a_file_keeps_its_colors_and_its_seams_are_closed(tmp_path: Path) -> None:
    mesh = ball(1)
    assert mesh.vertex_colors is not None
    split = TriMesh(  # every face with corners of its own, as files with seams have them
        mesh.vertices[mesh.faces].flatten(0, 1),
        torch.arange(240).view(80, 3),
        vertex_colors=mesh.vertex_colors[mesh.faces].flatten(0, 1),
    )
    path = write_obj(tmp_path / "a.obj", split)
    scene = Mesh(Config(source=str(path), radius=0.8))
    assert len(scene.base) == 42
    assert scene.at().vertices.norm(dim=1).max().item() == pytest.approx(0.8, rel=1e-5)
    order = torch.cdist(scene.base / 0.8, (mesh.vertices - scene_middle(mesh)) / extent(mesh)).argmin(1)
    torch.testing.assert_close(scene.colors.detach(), mesh.vertex_colors[order], rtol=0, atol=0.01)
    with pytest.raises(UserError, match="no file or folder"):
        Mesh(Config(source=str(tmp_path / "b.glb")))


@pytest.mark.parametrize("color", ["vertex", "texture"])
@pytest.mark.parametrize("vertices", ["learn", "fixed"])
def test_a_stage_starts_from_a_mesh_and_a_blank_takes_its_state(color: str, vertices: str) -> None:
    if color == "texture":
        pytest.importorskip("xatlas")
    mesh = ball(2)
    config = Config(color=color, vertices=vertices, texture_size=64)  # type: ignore[arg-type]
    scene = Mesh.from_asset(config, 0, mesh)
    assert set(scene.parameter_groups()) == set(scene.learning_rates())
    assert ("offsets" in scene.parameter_groups()) == (vertices == "learn")
    camera, render = front_camera(24), MeshRenderer()
    shown = render(scene.at(), camera, torch.zeros(3)).rgb
    assert (shown - render(mesh, camera, torch.zeros(3)).rgb).abs().mean() < 0.01
    with torch.no_grad():
        scene.offsets.normal_(generator=torch.Generator().manual_seed(0))
    other = Mesh.blank(config)
    other.load_state_dict(scene.state_dict())
    torch.testing.assert_close(other.at().vertices, scene.at().vertices, rtol=0, atol=0)
    if vertices == "learn":
        assert (scene.at().vertices - mesh.vertices.mean()).norm() > 0
        assert other.offsets.requires_grad
    torch.testing.assert_close(
        render(other.at(), camera, torch.zeros(3)).rgb, render(scene.at(), camera, torch.zeros(3)).rgb
    )


def test_an_assets_own_texture_is_taken_over() -> None:
    mesh = ball(2, textured=True)
    scene = Mesh.from_asset(Config(color="texture", texture_size=64), 0, mesh)
    camera, render = front_camera(24), MeshRenderer()
    shown, given = (render(each, camera, torch.zeros(3)).rgb for each in (scene.at(), mesh))
    assert (shown - given).abs().mean() < 0.03
    vertex = Mesh.from_asset(Config(), 0, mesh).at()
    assert vertex.vertex_colors is not None
    assert vertex.vertex_colors.std() > 0.1


def test_states_that_do_not_fit_are_one_clear_line() -> None:
    scene = Mesh(Config(subdivisions=1))
    state = dict(Mesh(Config(subdivisions=2)).state_dict())
    scene.load_state_dict(state)
    assert len(scene.base) == 162
    with pytest.raises(UserError, match="colors is"):
        scene.load_state_dict(state | {"colors": torch.zeros(7, 3)})
    with pytest.raises(UserError, match="base"):
        scene.load_state_dict({name: value for name, value in state.items() if name != "base"})


def test_bad_configurations_and_assets_are_refused() -> None:
    bad: list[dict[str, Any]] = [{"radius": -1.0}, {"subdivisions": 9}, {"vertices": "move"}]
    bad += [{"smoothness": -1.0}, {"color": "face"}, {"texture_size": 1}]
    for wrong in bad:
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is .*; it must be"):
            Config(**wrong)
    empty = TriMesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(UserError, match="has no faces"):
        Mesh.from_asset(Config(), 0, empty)


class Silhouettes:
    """A guidance with the outlines of an ellipsoid, and cameras that show them."""

    def __init__(self) -> None:
        self.target = ball(3, bumps=0.0)
        self.target.vertices.mul_(torch.tensor([0.6, 1.2, 0.8]))

    def cameras(self, seed: int, step: int, total: int) -> Cameras:
        angles = torch.tensor([0.0, 90.0, 45.0, 135.0]) + 20.0 * step
        return orbit(angles, torch.tensor([0.0, 20.0, -40.0, 60.0]), torch.full((4,), 3.0), 40.0, 48, 48)

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        with torch.no_grad():
            wanted = MeshRenderer()(self.target, cameras, torch.ones(3)).alpha
        return Signal(2.0 * (output.alpha - wanted).square().sum() / len(cameras))


def test_a_sphere_becomes_the_shape_of_its_silhouettes() -> None:
    scene, guide = Mesh(Config(subdivisions=3)), Silhouettes()
    before = scene.at().vertices.detach()
    distill(scene, MeshRenderer(), guide.cameras, (guide,), "an egg", steps=60)
    axes = torch.tensor([0.6, 1.2, 0.8]) * 0.7
    for vertices, least in ((before, 0.15), (scene.at().vertices.detach(), 0.0)):
        error = ((vertices / axes).norm(dim=1) - 1).abs().mean()
        assert error > least
    assert error < 0.05
