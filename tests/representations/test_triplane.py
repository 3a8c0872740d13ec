from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.types import Cameras, RenderOutput
from threedgen.loop import optim
from threedgen.renderers.volume import VolumeRenderer
from threedgen.representations import occupancy
from threedgen.representations.triplane import Config, LearningRates, Terms, Triplane, smoothness

SMALL = Config(resolution=16, channels=4, hidden=8, occupancy=occupancy.Config(resolution=12, interval=4))


def views(size: int = 12, count: int = 3) -> Cameras:
    turns = torch.arange(count) * (360.0 / count)
    return orbit(turns, torch.full((count,), 20.0), torch.full((count,), 3.0), 40.0, size, size)


def blank_output() -> RenderOutput:
    return RenderOutput(torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 1))


def points(count: int = 200) -> Tensor:
    return torch.rand(count, 3, generator=generator(0, "points", 0)) * 2 - 1


class NoRows:
    """An optimizer whose rows must not be changed."""

    def replace_rows(self, old: object, new: object, source: object) -> None:
        raise AssertionError

    def zero_moments(self, parameter: object) -> None:
        raise AssertionError


def test_the_start_is_a_ball_of_the_configured_radius() -> None:
    scene = Triplane(Config(radius=0.4))
    density, rgb = scene.at().query(points(4000), points(4000))
    radius = points(4000).norm(dim=-1)
    assert float(density[radius < 0.2].min()) > 4 * float(density[(radius > 0.5)].max())
    assert 0.4 < float(rgb.mean()) < 0.6
    alpha = VolumeRenderer()(scene.at(), views(), torch.zeros(3)).alpha
    assert float(alpha[:, 6, 6].min()) > 0.9
    assert float(alpha[:, 0, 0].max()) < 0.01


def test_the_first_occupancy_leaves_empty_space_out_and_changes_no_picture() -> None:
    scene = Triplane(Config())
    field = scene.at()
    assert field.occupancy is not None
    assert 0.02 < float(field.occupancy.float().mean()) < 0.5
    whole = dataclasses.replace(field, occupancy=None)
    with torch.no_grad():
        pictures = [VolumeRenderer()(each, views(), torch.zeros(3)).rgb for each in (field, whole)]
    torch.testing.assert_close(pictures[0], pictures[1], rtol=0, atol=0.02)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_turning_the_planes_turns_the_field(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """new(p) = old(q) with q[axes[i]] = signs[i] p[i]: each plane is one of the old ones, transposed or flipped."""
    pairs = ((0, 1), (0, 2), (1, 2))
    old, new = Triplane(SMALL), Triplane(SMALL)
    new.load_state_dict(old.state_dict())
    width = SMALL.channels
    with torch.no_grad():
        for index, (first, second) in enumerate(pairs):
            a, b = axes[first], axes[second]
            source = pairs.index((min(a, b), max(a, b)))
            plane = old.planes[source]
            if a > b:  # the old plane runs along b first
                plane = plane.transpose(0, 1)
            if signs[first] < 0:
                plane = plane.flip(1)
            if signs[second] < 0:
                plane = plane.flip(0)
            new.planes[index] = plane
            rows = slice(index * width, (index + 1) * width)
            new.weights[0][:, rows] = old.weights[0][:, source * width : (source + 1) * width]
    place, moved = points(), torch.empty_like(points())
    for i, axis in enumerate(axes):
        moved[:, axis] = signs[i] * place[:, i]
    for got, truth in zip(new.at().query(place, place), old.at().query(moved, moved), strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-5)


def test_a_state_makes_the_round_trip_with_its_occupancy() -> None:
    scene, other = Triplane(SMALL, 1), Triplane(SMALL, 2)
    scene.planes.data += 0.3
    scene.adapt(3, 100, blank_output(), NoRows(), 0)
    assert not torch.equal(scene.occupancy.density, other.occupancy.density)
    other.load_state_dict(scene.state_dict())
    pictures = [VolumeRenderer()(each.at(), views(), torch.ones(3)).rgb for each in (scene, other)]
    assert torch.equal(pictures[0], pictures[1])
    for mine, theirs in zip(
        scene.at().query(points(), points()), other.at().query(points(), points()), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_the_start_and_the_occupancy_depend_on_seed_and_step_only() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.rand(7)  # draws from the global generator do not matter
        scene = Triplane(SMALL, seed)
        scene.adapt(3, 100, blank_output(), NoRows(), seed)
        states.append(scene.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["planes"], states[2]["planes"])


def test_occupancy_follows_the_field_at_its_interval_and_forgets() -> None:
    scene = Triplane(SMALL)
    with torch.no_grad():
        scene.biases[-1][0] = -100.0  # everything becomes empty
    shares = [scene.adapt(step, 100, blank_output(), NoRows(), 0)["occupied"] for step in range(120)]
    assert shares[0] == shares[2] > 0
    assert shares[-1] == 0.0
    with torch.no_grad():
        scene.biases[-1][0] = 100.0
    assert scene.adapt(123, 100, blank_output(), NoRows(), 0)["occupied"] == 1.0


def test_every_parameter_has_its_group_and_rate_and_a_gradient() -> None:
    scene = Triplane(SMALL)
    optim.build_optimizer(
        scene.parameter_groups(),
        optim.Config(),
        learning_rates=scene.learning_rates(),
        total_steps=1,
        owner=scene,
    )
    output = VolumeRenderer()(scene.at(), views(), torch.zeros(3), generator(0, "render", 0))
    (output.rgb.square().sum() + output.alpha.sum()).backward()
    for name, parameter in scene.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


def test_smoothness_is_the_mean_squared_step_and_a_penalty_only_when_asked() -> None:
    planes = torch.zeros(3, 4, 4, 2)
    planes[:, :, 2:] = 2.0  # one step of 2 in three, along one axis
    assert float(smoothness(planes)) == pytest.approx(4.0 / 3.0)
    plain = Triplane(SMALL)
    assert plain.penalty(plain.at(), 0, 10) == (0.0, {})
    scene = Triplane(dataclasses.replace(SMALL, regularizers=Terms(smoothness=0.5)))
    loss, values = scene.penalty(scene.at(), 0, 10)
    assert float(loss) == pytest.approx(0.5 * values["regularizers/smoothness"])


def test_it_fits_a_shape_and_its_colours() -> None:
    def target(cameras: Cameras) -> tuple[Tensor, Tensor]:
        """Exact pictures of a ball beside the centre, whose colour depends on the side of the camera."""
        rays = torch.stack(
            torch.meshgrid(torch.arange(16) + 0.5, torch.arange(16) + 0.5, indexing="xy"), dim=-1
        )
        focal, principal = cameras.intrinsics[0, 0, 0], cameras.intrinsics[0, :2, 2]
        local = torch.cat([(rays - principal) / focal, torch.ones(16, 16, 1)], dim=-1)
        local = torch.nn.functional.normalize(local, dim=-1)
        ways = torch.einsum("bij,hwj->bhwi", cameras.world_from_camera[:, :3, :3], local)
        offset = cameras.centers[:, None, None] - torch.tensor([0.25, 0.1, 0.0])
        along = -(ways * offset).sum(-1)
        gap = 0.4**2 - (offset.square().sum(-1) - along**2)
        place = cameras.centers[:, None, None] + (along - gap.clamp(min=0).sqrt())[..., None] * ways
        return torch.sigmoid(8 * place) * (gap > 0)[..., None], (gap > 0)[..., None].float()

    scene = Triplane(dataclasses.replace(SMALL, resolution=24))
    renderer, steps, all_views = VolumeRenderer(VolumeRenderer.Config(samples=48)), 60, views(16, 9)
    optimizer = optim.build_optimizer(
        scene.parameter_groups(),
        optim.Config(),
        learning_rates=scene.learning_rates(),
        total_steps=steps,
        owner=scene,
    )

    def error() -> tuple[float, float]:
        rgb, alpha = target(all_views)
        with torch.no_grad():
            output = renderer(scene.at(), all_views, torch.zeros(3))
        return float((output.rgb - rgb).square().mean()), float((output.alpha - alpha).abs().mean())

    before = error()
    for step in range(steps):
        cameras = all_views[torch.randperm(9, generator=generator(0, "views", step))[:3]]
        background = torch.rand(3, generator=generator(0, "background", step))
        output = renderer(scene.at(), cameras, background, generator(0, "render", step))
        rgb, alpha = target(cameras)
        optimizer.zero_grad()
        (output.rgb - rgb - (1 - alpha) * background).square().mean().backward()
        optimizer.step()
        scene.adapt(step, steps, output, optimizer, 0)
    after = error()
    assert after[0] < 0.1 * before[0]
    assert after[1] < 0.03


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"resolution": 1}, "resolution"),
        ({"channels": 0}, "channels"),
        ({"layers": 0}, "layers"),
        ({"extent": math.nan}, "extent"),
        ({"radius": 0.0}, "radius"),
        ({"gain": -1.0}, "gain"),
        ({"ball": -1.0}, "ball"),
        ({"gain": 1e38}, "gain"),
        ({"noise": math.inf}, "noise"),
        ({"resolution": 200_000}, "would take 30,720 GB .* lower resolution"),
        ({"channels": 10**9}, "would take .* GB"),
        ({"hidden": 10**6, "layers": 3}, "would take .* GB"),
    ],
)
def test_bad_settings_are_the_users(changes: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Config(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"resolution": 0}, {"interval": 0}, {"decay": 1.0}, {"threshold": 0.0}, {"margin": -1}]
)
def test_bad_occupancy_settings_are_the_users(changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(changes))} is .*; it must be"):
        occupancy.Config(**changes)  # type: ignore[arg-type]


def test_learning_rates_are_the_configs() -> None:
    scene = Triplane(dataclasses.replace(SMALL, learning_rates=LearningRates(planes=0.5, decoder=0.25)))
    assert scene.learning_rates() == {"planes": 0.5, "decoder": 0.25}
