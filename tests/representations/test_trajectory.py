"""Trajectories: no motion at the start, a similarity at every moment, and learned as one."""

import math
from typing import Any

import pytest
import torch
from jaxtyping import Float
from splatting_scenes import random_cloud
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.transforms import covariances, matrix_from_quat, quat_from_vector, transform
from threedgen.core.types import Frames, GaussianCloud
from threedgen.representations import deformation, motion_terms
from threedgen.representations.dynamic_gaussians import Config, DynamicGaussians
from threedgen.representations.trajectory import CarriedField, Trajectory, series
from threedgen.representations.trajectory import Config as TrajectoryConfig

SMALL = deformation.Config(width=8, depth=1)
BOTH = TrajectoryConfig(degree=2, terms=2)
SHAPES = [(2, 0), (0, 2), (2, 2)]
TIMES = torch.linspace(0.0, 1.0, 9)


def points(count: int = 20) -> Float[Tensor, "N 3"]:
    return torch.rand(count, 3, generator=generator(0, "points", 0)) + torch.tensor([0.3, -0.5, 0.1])


def scene(count: int = 20, **changes: Any) -> DynamicGaussians:
    settings: dict[str, Any] = {"deformation": SMALL, "trajectory": BOTH, **changes}
    return DynamicGaussians(Config(**settings), 0, random_cloud(count, degree=0))


def stirred(of: DynamicGaussians, local: float = 0.3) -> DynamicGaussians:
    """A motion as it may be after training. local: scale of the field that the trajectory carries."""
    torch.manual_seed(1)
    for name, parameter in of.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if "trajectory" in name else local)
    return of


def clouds(of: DynamicGaussians, times: Tensor) -> list[GaussianCloud]:
    with torch.no_grad():
        moving = of.at(times)
    assert isinstance(moving, Frames)
    return [frame for frame in moving.frames if isinstance(frame, GaussianCloud)]


def carrier(of: DynamicGaussians) -> CarriedField:
    assert isinstance(of.field, CarriedField)
    return of.field


@pytest.mark.parametrize(("degree", "terms"), SHAPES)
def test_every_term_is_0_at_time_0_and_none_is_later(degree, terms):
    found = series(torch.tensor([0.0, 0.3]), degree, terms)
    assert found.shape == (2, degree + 2 * terms)
    assert torch.equal(found[0], torch.zeros_like(found[0]))
    assert bool((found[1].abs() > 1e-3).all())


def test_the_terms_are_the_documented_ones():
    time = torch.tensor([0.37])
    turn = 2.0 * math.pi * 0.37
    expected = [
        *(0.37, 0.37**2),
        *(math.cos(turn) - 1.0, math.sin(turn)),
        *((math.cos(2.0 * turn) - 1.0) / 2.0, math.sin(2.0 * turn) / 2.0),
    ]
    torch.testing.assert_close(series(time, 2, 2)[0], torch.tensor(expected))


@pytest.mark.parametrize(("degree", "terms"), SHAPES)
def test_nothing_happens_at_the_start_of_a_run_and_ever_at_time_0(degree, terms):
    of = scene(trajectory=TrajectoryConfig(degree, terms))
    rest = of.rest
    for cloud in clouds(of, TIMES):
        for name in ("means", "scales", "quats"):
            assert torch.equal(getattr(cloud, name), getattr(rest, name))
    first, later = clouds(stirred(of), torch.tensor([0.0, 0.4]))
    for name in ("means", "scales", "quats"):
        assert torch.equal(getattr(first, name), getattr(rest, name))
        assert not torch.allclose(getattr(later, name), getattr(rest, name), atol=1e-3)


def test_a_carried_cloud_is_a_transformed_cloud():
    """If the field is zero, every moment is a similarity of the whole about the mean of the points."""
    of = stirred(scene(), local=0.0)
    quats, shift, growth = (row.detach() for row in carrier(of).trajectory(TIMES))
    pivot = of.means.mean(0)
    for moment, cloud in enumerate(clouds(of, TIMES)):
        rotation, scale = matrix_from_quat(quats)[moment], float(growth[moment].exp())
        offset = pivot + shift[moment] - scale * rotation @ pivot
        expected = transform(of.rest, rotation, offset, scale)
        torch.testing.assert_close(cloud.means, expected.means, atol=1e-5, rtol=0)
        torch.testing.assert_close(cloud.scales, expected.scales, rtol=1e-5, atol=0)
        torch.testing.assert_close(covariances(cloud), covariances(expected), atol=1e-6, rtol=1e-4)
        for name in ("opacities", "sh"):
            assert torch.equal(getattr(cloud, name), getattr(of.rest, name))


@pytest.mark.parametrize("own", [{}, {"turns": True}, {"sizes": True}, {"turns": True, "sizes": True}])
def test_a_field_is_carried_along(own):
    """First the motion of each point, then that of the whole: positions, rotations and sizes."""
    of = stirred(scene(deformation=deformation.Config(width=8, depth=1, **own)))
    times = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        local = carrier(of).own(of.means, times)
        quats, shift, growth = carrier(of).trajectory(times)
    alone = DynamicGaussians(Config(deformation=of.config.deformation), 0, of.rest)
    pivot = of.means.mean(0)
    for moment, cloud in enumerate(clouds(of, times)):
        rotation, scale = matrix_from_quat(quats)[moment], float(growth[moment].exp())
        bent = alone.carried(local[moment][None])[0]
        expected = transform(bent, rotation, pivot + shift[moment] - scale * rotation @ pivot, scale)
        torch.testing.assert_close(cloud.means, expected.means, atol=1e-5, rtol=0)
        torch.testing.assert_close(covariances(cloud), covariances(expected), atol=1e-6, rtol=1e-3)


def test_a_turn_may_go_round_more_than_once():
    """A rotation vector of 1.5 turns moves and turns the Gaussians as half a turn does."""
    of = scene(trajectory=TrajectoryConfig(degree=1))
    with torch.no_grad():
        carrier(of).trajectory.coefficients[0, 1] = 3.0 * math.pi
    half = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    pivot = of.means.mean(0)
    expected = transform(of.rest, half, pivot - half @ pivot)
    (cloud,) = clouds(of, torch.ones(1))
    torch.testing.assert_close(cloud.means, expected.means, atol=1e-5, rtol=0)
    torch.testing.assert_close(covariances(cloud), covariances(expected), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("own", [{}, {"turns": True, "sizes": True}])
def test_gradients_are_those_of_finite_differences(own):
    """Through the trajectory and the field that it carries, for positions, rotations and sizes of every point."""
    config = deformation.Config(kind="fourier", degree=1, terms=0, **own)
    torch.manual_seed(0)
    field = CarriedField(BOTH, deformation.make_field(config, 3), bool(own), bool(own)).double()
    names = [name for name, _ in field.named_parameters()]
    values = [0.3 * torch.randn_like(value) for value in field.parameters()]
    where, times = points(3).double(), torch.tensor([0.2, 0.7], dtype=torch.float64)

    def answer(*given: Tensor) -> Any:
        return torch.func.functional_call(field, dict(zip(names, given, strict=True)), (where, times))

    assert torch.autograd.gradcheck(answer, tuple(value.requires_grad_() for value in values))


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.5, 0.5]])
def test_gradients_are_finite_where_nothing_has_moved_yet(times):
    """The length of a rotation vector has no slope at 0, and every run begins at 0."""
    of = scene()
    of.offsets(torch.tensor(times)).square().sum().backward()
    of.moved(torch.tensor(times)).sum().backward()
    for parameter in of.parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all())


PATHS = {  # at a time: a rotation vector, a shift, a growth
    "turn": lambda time: ([0.0, 0.8 * math.pi * time, 0.0], [0.0, 0.0, 0.0], 0.0),
    "bounce": lambda time: ([0.0, 0.0, 0.0], [0.0, 2.8 * time * (1.0 - time), 0.0], 0.0),
    "slide": lambda time: ([0.0, 0.0, 0.0], [0.6 * math.sin(2.0 * math.pi * time), 0.0, 0.0], 0.0),
    "grow": lambda time: ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], math.log(1.0 + 0.6 * time)),
    "all": lambda time: ([0.4 * time, 1.5 * time, 0.0], [0.5 * time, 0.2 * time, 0.0], 0.3 * time),
}


@pytest.mark.parametrize("name", PATHS)
def test_known_paths_are_recovered_by_gradient_descent(name):
    """From positions alone. A rotation of more than half a turn would not be found: at its end the short way back
    is nearer. One combination of the terms is nearly 0 everywhere, so its share in a bounce is learned slowly."""
    where, still = points(), torch.zeros(len(TIMES), 20, 3)
    field = CarriedField(BOTH, torch.nn.Identity(), False, False)
    turns, shifts, growths = (
        torch.tensor(row) for row in zip(*map(PATHS[name], TIMES.tolist()), strict=True)
    )
    truth = field.carry(where, still, (quat_from_vector(turns), shifts, growths))[..., :3]
    optimizer = torch.optim.Adam(field.parameters(), lr=0.05)
    error = truth
    for _ in range(120):
        error = field.carry(where, still, field.trajectory(TIMES))[..., :3] - truth
        optimizer.zero_grad()
        error.square().sum(2).mean().backward()
        optimizer.step()
    assert float(truth.norm(dim=2).mean()) > 0.1
    assert float(error.detach().norm(dim=2).mean()) < 0.07 * float(truth.norm(dim=2).max())


def test_the_whole_is_no_bending():
    """The terms on the motion ignore the trajectory and judge the field alone: a spin costs nothing."""
    terms = motion_terms.Config(rigidity=1.0, smoothness=1.0, jsd=1.0)
    of = stirred(scene(regularizers=terms, neighbours=4), local=0.0)
    moving = of.at(torch.tensor([0.3, 0.9]))
    loss, values = of.penalty(moving, 0, 10)  # pyright: ignore[reportArgumentType]
    assert float(torch.as_tensor(loss).detach()) == pytest.approx(0.0, abs=1e-6)
    assert values["motion"] > 0.1
    loss, _ = stirred(of).penalty(of.at(torch.tensor([0.3, 0.9])), 0, 10)  # pyright: ignore[reportArgumentType]
    assert float(torch.as_tensor(loss).detach()) > 1e-3


def test_groups_and_rates():
    of = scene(learning_rate=3e-4, trajectory=TrajectoryConfig(1, 1, learning_rate=0.05))
    groups = of.parameter_groups()
    assert {name: len(group) > 0 for name, group in groups.items()} == {
        "deformation": True,
        "trajectory": True,
    }
    assert groups["trajectory"][0] is carrier(of).trajectory.coefficients
    assert sum(map(len, groups.values())) == len(list(of.parameters()))
    assert of.learning_rates() == {"deformation": 3e-4, "trajectory": 0.05}
    without = DynamicGaussians(Config(deformation=SMALL), 0, random_cloud(5))
    assert not any("trajectory" in name for name, _ in without.named_parameters())
    assert set(without.learning_rates()) == {"deformation"}


def test_a_motion_is_loaded_as_it_was_saved(tmp_path):
    from threedgen.core import checkpoint

    of = stirred(scene(closing=0.3))
    checkpoint.save(tmp_path / "checkpoint", dict(of.state_dict()), {"step": 1})
    tensors, _ = checkpoint.load(tmp_path / "checkpoint")
    again = DynamicGaussians.blank(of.config)
    again.load_state_dict(tensors)
    assert torch.equal(again.moved(TIMES), of.moved(TIMES))
    for one, other in zip(clouds(again, TIMES), clouds(of, TIMES), strict=True):
        assert torch.equal(one.quats, other.quats)
        assert torch.equal(one.scales, other.scales)
    torch.testing.assert_close(again.moved(torch.ones(1))[0], again.means, atol=1e-6, rtol=0)


def test_a_trajectory_of_its_own_starts_as_none():
    quats, shift, growth = Trajectory(BOTH)(TIMES)
    assert torch.equal(quats, torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(len(TIMES), -1))
    assert torch.equal(shift, torch.zeros(len(TIMES), 3))
    assert torch.equal(growth, torch.zeros(len(TIMES)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degree": -1}, "degree is -1; it must be at least 0"),
        ({"terms": -2}, "terms is -2"),
        ({"learning_rate": 0.0}, "learning_rate is 0; it must be greater than 0"),
        ({"learning_rate": math.nan}, "learning_rate"),
    ],
)
def test_bad_settings_are_reported(settings, message):
    with pytest.raises(UserError, match=message):
        TrajectoryConfig(**settings)


def test_what_it_did_is_taken_back():
    moving = stirred(scene())
    with torch.no_grad():
        own = moving.means + carrier(moving).own(moving.means, TIMES)[..., :3]
        back = carrier(moving).undone(moving.means, moving.moved(TIMES), TIMES)
    torch.testing.assert_close(back, own, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(moving.moved(TIMES), own, atol=0.1)
