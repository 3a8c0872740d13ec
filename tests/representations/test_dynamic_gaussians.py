"""Gaussians that move: at rest, in motion, on disk, and in the loop with a prior whose score is known."""

from dataclasses import replace

import pytest
import torch
from splatting_scenes import random_cloud

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.types import Frames, GaussianCloud
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat import write_splats
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations import deformation, motion_terms
from threedgen.representations.dynamic_gaussians import CLOUD, Config, DynamicGaussians

SMALL = deformation.Config(width=8, depth=1, resolution=4, moments=3, channels=4)


def scene(count: int = 30, **changes) -> DynamicGaussians:
    return DynamicGaussians(Config(deformation=SMALL, **changes), 0, random_cloud(count))


def stirred(of: DynamicGaussians) -> DynamicGaussians:
    torch.manual_seed(1)
    for parameter in of.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return of


def frames(of: DynamicGaussians, *times: float) -> list[GaussianCloud]:
    moving = of.at(torch.tensor(times))
    assert isinstance(moving, Frames)
    return [frame for frame in moving.frames if isinstance(frame, GaussianCloud)]


def cameras(times: list[float], size: int = 16):
    full = torch.ones(len(times))
    views = orbit(30.0 * full, 10.0 * full, 3.0 * full, 40.0, size, size)
    return replace(views, time=torch.tensor(times))


def test_at_rest_it_is_the_cloud_that_it_was_made_of():
    cloud, of = random_cloud(30), scene()
    assert isinstance(of.at(None), GaussianCloud)
    for name in CLOUD:
        assert torch.equal(getattr(of.at(None), name), getattr(cloud, name))
    first, second = frames(stirred(of), 0.0, 0.5)
    assert torch.equal(first.means, cloud.means)
    assert not torch.allclose(second.means, cloud.means)


def test_only_the_field_learns_and_only_means_move():
    of = stirred(scene())
    assert {id(p) for p in of.parameters()} == {id(p) for p in of.parameter_groups()["deformation"]}
    (late,) = frames(of, 0.9)
    for name in CLOUD[1:]:
        assert torch.equal(getattr(late, name), getattr(of, name))


def test_every_camera_sees_its_own_moment_in_the_order_of_the_cameras():
    of, render = stirred(scene()), SplattingRenderer()
    views = cameras([0.8, 0.0, 0.4, 0.8])
    behind = torch.rand(4, 3)
    together = render(of.at(views.time), views, behind)
    for index in range(4):
        one = views[torch.tensor([index])]
        alone = render(frames(of, float(one.time))[0], one, behind[index])
        torch.testing.assert_close(together.rgb[index], alone.rgb[0])
        torch.testing.assert_close(together.alpha[index], alone.alpha[0])
    assert torch.equal(together.alpha[0], together.alpha[3])
    still = render(of.at(None), views[torch.tensor([1])], behind[1])
    torch.testing.assert_close(together.rgb[1], still.rgb[0])


def test_moments_of_other_cameras_are_refused():
    of, views = scene(), cameras([0.1, 0.2])
    with pytest.raises(ValueError, match="there are 1 moments for 2 cameras"):
        SplattingRenderer()(of.at(torch.tensor([0.5])), views, torch.ones(3))


def test_gradients_of_pictures_reach_the_field_only():
    of = stirred(scene())
    views = cameras([0.3, 0.7])
    SplattingRenderer()(of.at(views.time), views, torch.ones(3)).rgb.sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0.0 for p in of.parameters())
    assert of.means.grad is None


@pytest.mark.parametrize("kind", ["mlp", "hexplane", "fourier"])
def test_states_of_any_number_of_gaussians_come_back(kind):
    config = Config(deformation=replace(SMALL, kind=kind))
    of = stirred(DynamicGaussians(config, 0, random_cloud(17)))
    blank = DynamicGaussians.blank(config)
    blank.load_state_dict(of.state_dict())
    times = torch.tensor([0.2, 1.0])
    assert torch.equal(blank.moved(times), of.moved(times))
    assert torch.equal(blank.rest.sh, of.rest.sh)


def test_terms_are_weighted_and_the_motion_is_logged():
    quiet = scene()
    loss, values = quiet.penalty(quiet.at(torch.tensor([0.5])), 0, 10)
    assert loss == 0.0
    assert values == {"motion": 0.0}
    of = stirred(scene(regularizers=motion_terms.Config(jsd=2.0, rigidity=3.0)))
    loss, values = of.penalty(of.at(torch.tensor([0.2, 0.9])), 0, 10)
    assert set(values) == {"motion", "regularizers/jsd", "regularizers/rigidity"}
    expected = 2.0 * values["regularizers/jsd"] + 3.0 * values["regularizers/rigidity"]
    assert float(torch.as_tensor(loss).detach()) == pytest.approx(float(expected), rel=1e-5)
    far = (of.moved(torch.tensor([0.2, 0.9])) - of.means).norm(dim=2).mean(1).max()
    assert float(values["motion"]) == pytest.approx(float(far.detach()))
    assert of.penalty(of.at(None), 0, 10) == (0.0, {})


def test_a_file_of_gaussians_or_a_mesh_is_what_moves(tmp_path):
    cloud = random_cloud(9)
    write_splats(tmp_path / "asset.ply", SplatParameters.from_cloud(cloud))
    of = DynamicGaussians(Config(asset=str(tmp_path / "asset.ply")))
    torch.testing.assert_close(of.rest.means, cloud.means)
    (tmp_path / "tri.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    mesh = DynamicGaussians(Config(asset=str(tmp_path / "tri.obj")))
    assert len(mesh) == 6000
    assert float(mesh.opacities.min()) > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DynamicGaussians(Config()), "nothing to move"),
        (
            lambda: DynamicGaussians.from_asset(Config(asset="a.ply"), 0, random_cloud(3)),
            "leave one of them out",
        ),
        (lambda: Config(learning_rate=0.0), "learning_rate is 0; it must be greater than 0"),
        (lambda: Config(neighbours=0), "neighbours is 0; it must be at least 1"),
        (lambda: DynamicGaussians(Config(asset="missing.ply")), "there is no file or folder .missing.ply."),
    ],
)
def test_what_cannot_move_is_reported(make, message):
    with pytest.raises(UserError, match=message):
        make()
