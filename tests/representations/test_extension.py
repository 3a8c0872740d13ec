"""Motions that continue earlier ones and motions that return to rest, with fields made by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from splatting_scenes import random_cloud
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.core.transforms import matrix_from_quat, quat_from_vector, vector_from_quat
from threedgen.core.types import Frames, GaussianCloud
from threedgen.jobs.build import continue_earlier
from threedgen.representations import deformation, motion_terms, trajectory
from threedgen.representations.deformation import make_field
from threedgen.representations.dynamic_gaussians import Config, DynamicGaussians
from threedgen.representations.extension import Closed, Handover, chi
from threedgen.representations.extension import Config as After
from threedgen.representations.gaussians import Config as GaussiansConfig
from threedgen.representations.gaussians import Gaussians
from threedgen.representations.motion_terms import MovedPoints, handover, loop, nearest
from threedgen.representations.trajectory import CarriedField

SMALL = deformation.Config(width=8, depth=1, resolution=4, moments=3, channels=4)
FRAMES = 48


class Slide(nn.Module):
    """0.6 sin(2 pi time) along x."""

    def forward(self, points: Tensor, times: Tensor) -> Tensor:
        shift = 0.6 * torch.sin(2.0 * torch.pi * times)
        return shift[:, None, None] * points.new_tensor([1.0, 0.0, 0.0]) + torch.zeros_like(points)


class Spin(nn.Module):
    """One turn about y."""

    def forward(self, points: Tensor, times: Tensor) -> Tensor:
        angle = (2.0 * torch.pi * times)[:, None]
        x, _, z = points.unbind(1)
        c, s = angle.cos(), angle.sin()
        return torch.stack([c * x + s * z - x, torch.zeros(len(times), len(x)), -s * x + c * z - z], dim=2)


def points(count: int = 40) -> Tensor:
    return random_cloud(count).means


def carried(kind: str) -> Any:
    """The same motions as trajectories."""
    config = trajectory.Config(degree=1, terms=1)
    field = CarriedField(config, make_field(SMALL, 40), False, False)
    with torch.no_grad():
        if kind == "slide":
            field.trajectory.coefficients[2, 3] = 0.6
        else:
            field.trajectory.coefficients[0, 1] = 2.0 * math.pi
    return field


def one_after_the_other(first: nn.Module, second: nn.Module, after: After, where: Tensor) -> Tensor:
    """Frames of `first` until its end begins, then of `second`; both last 48 frames."""
    before = torch.arange(round(FRAMES * (1.0 - after.last))) / FRAMES
    with torch.no_grad():
        return torch.cat([first(where, before), second(where, torch.arange(FRAMES + 1) / FRAMES)])[..., :3]


def steps(moved: Tensor) -> Tensor:
    return moved.diff(dim=0).norm(dim=2).mean(1)


@given(st.floats(0.0, 1.0))
def test_chi_rises_from_0_to_1_without_a_slope_at_its_ends(share):
    s = torch.tensor([share, 1.0 - share], dtype=torch.float64)
    assert float(chi(s).sum()) == pytest.approx(1.0)
    ends = torch.tensor([-1.0, 0.0, 1.0, 2.0], requires_grad=True)
    assert chi(ends).tolist() == [0.0, 0.0, 1.0, 1.0]
    chi(ends).sum().backward()
    assert ends.grad is not None
    assert ends.grad.tolist() == [0.0, 0.0, 0.0, 0.0]
    assert bool((chi(torch.linspace(0.0, 1.0, 20)).diff() > 0.0).all())


@pytest.mark.parametrize("make", [lambda: (Slide(), Spin()), lambda: (carried("slide"), carried("spin"))])
def test_a_later_motion_is_the_earlier_one_at_first_and_itself_after_the_overlap(make):
    first, second = make()
    both, where = Handover(After("x", overlap=0.4, last=0.25), first, second), points()
    times = torch.tensor([0.0, 0.4, 0.7, 1.0])
    moved = both(where, times)
    torch.testing.assert_close(moved[:1], first(where, torch.tensor([0.75])), atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[1:, :, :3], second(where, times[1:])[..., :3], atol=1e-6, rtol=0)
    halfway = both(where, torch.tensor([0.2]))[..., :3]
    assert not torch.allclose(halfway, first(where, torch.tensor([0.875]))[..., :3], atol=1e-2)
    assert not torch.allclose(halfway, second(where, torch.tensor([0.2]))[..., :3], atol=1e-2)


@given(st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_handing_over_to_what_continues_as_before_changes_nothing(overlap, last):
    class Later(nn.Module):
        def forward(self, where: Tensor, times: Tensor) -> Tensor:
            return Spin()(where, 1.0 - last + last * times / overlap)

    both, where, times = Handover(After("x", overlap, last), Spin(), Later()), points(), torch.rand(9)
    torch.testing.assert_close(both(where, times), Later()(where, times), atol=1e-5, rtol=0)
    assert float(both.departure(where).abs().max()) < 1e-5


@pytest.mark.parametrize("make", [lambda: (Slide(), Spin()), lambda: (carried("slide"), carried("spin"))])
@pytest.mark.parametrize("turned_round", [False, True])
def test_sliding_hands_over_to_spinning_without_a_jump(make, turned_round):
    """Sliding ends early, at a distance of 0.6, so that a cut would be visible."""
    first, second = reversed(make()) if turned_round else make()
    after, where = After("x", overlap=0.5, last=0.25), points()
    both = Handover(after, first, second)
    moved = one_after_the_other(first, both, after, where)
    step = steps(moved)
    seam = round(FRAMES * 0.75) - 1
    assert float(step[seam]) <= float(step.median())
    fine = torch.linspace(0.0, 0.5, 16 * FRAMES // 2 + 1)
    with torch.no_grad():
        smooth = steps(both(where, fine)[..., :3])
        cut = steps(one_after_the_other(first, second, after, where))
    assert float(smooth.max()) <= 0.5 * float(step.median())
    assert float(cut[seam]) > 5.0 * float(step.median())


def test_what_spins_while_it_is_handed_over_keeps_its_shape():
    """Averaged positions would shrink during the overlap, as those of plain fields do."""
    after, where, times = After("x", 0.5, 0.5), points(), torch.linspace(0.0, 0.5, 9)

    def radii(first: nn.Module, second: nn.Module) -> Tensor:
        with torch.no_grad():
            moved = where + Handover(after, first, second)(where, times)[..., :3]
        return (moved - moved.mean(1, keepdim=True)).norm(dim=2) / (where - where.mean(0)).norm(dim=1)

    for order in (("slide", "spin"), ("spin", "slide")):
        ratio = radii(*map(carried, order))
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)
    assert float(radii(Slide(), Spin()).mean(1).min()) < 0.8


def test_a_motion_that_closes_ends_where_it_rests_and_is_itself_before():
    class Drift(nn.Module):
        def forward(self, where: Tensor, times: Tensor) -> Tensor:
            return times[:, None, None] * torch.ones_like(where)

    closed, where = Closed(Drift(), 0.25), points()
    moved = closed(where, torch.tensor([0.3, 0.75, 0.9, 1.0]))
    torch.testing.assert_close(moved[:2], Drift()(where, torch.tensor([0.3, 0.75])))
    assert torch.equal(moved[3], torch.zeros_like(where))
    assert 0.0 < float(moved[2].min()) < 0.75
    whole = torch.linspace(0.0, 1.0, 16 * FRAMES)
    assert float(steps(closed(where, whole)).max()) < 10.0 * float(steps(closed(where, whole)).median())


def test_what_spun_round_is_not_unwound_where_it_closes():
    """A spin of 300 degrees is completed to a whole turn in the same direction."""
    spin = carried("spin")
    with torch.no_grad():
        spin.trajectory.coefficients[0, 1] *= 300.0 / 360.0
        times = torch.linspace(0.8, 1.0, 9)
        turns = Closed(spin, 0.2)(points(), times)[:, 0, 3:6]
    degrees = torch.rad2deg(turns[:, 1]) % 360.0
    assert float(turns[:, [0, 2]].abs().max()) < 1e-5
    assert float(degrees[0]) == pytest.approx(240.0, abs=0.01)
    assert bool((degrees[:-1].diff() > 0.0).all())
    assert min(float(degrees[-1]), 360.0 - float(degrees[-1])) < 0.01


def test_a_closed_handover_of_trajectories_begins_and_ends_as_it_should():
    both = Closed(Handover(After("x", 0.5, 0.5), carried("spin"), carried("slide")), 0.25)
    where, times = points(), torch.tensor([0.0, 0.6, 1.0])
    moved = both(where, times)
    torch.testing.assert_close(moved[0], carried("spin")(where, torch.tensor([0.5]))[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[1, :, :3], Slide()(where, times[1:2])[0], atol=1e-5, rtol=0)
    assert float(moved[2].detach().abs().max()) < 1e-6


def test_terms_measure_how_far_a_motion_is_from_its_beginning_and_from_the_one_before():
    where, close = points(), nearest(points(), 3)
    end, apart = where + 0.5, torch.full((4, 40, 3), 0.1)
    of = MovedPoints(where, where[None], close, lambda: end, lambda: apart)
    assert float(loop(of)) == pytest.approx(0.75)
    assert float(handover(of)) == pytest.approx(0.03)


def stirred(of: DynamicGaussians) -> DynamicGaussians:
    torch.manual_seed(1)
    for parameter in of.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return of


@pytest.mark.parametrize("kind", ["mlp", "fourier"])
@pytest.mark.parametrize("whole", [trajectory.Config(), trajectory.Config(degree=1, terms=1)])
def test_only_the_later_motion_learns_and_its_state_needs_no_other_file(kind, whole, tmp_path):
    after, shape = After(str(tmp_path / "nowhere"), 0.5, 0.5), replace(SMALL, kind=kind)
    config = Config(
        deformation=shape,
        trajectory=whole,
        after=after,
        closing=0.25,
        regularizers=motion_terms.Config(handover=2.0, loop=3.0),
    )
    of = stirred(DynamicGaussians(config, 0, random_cloud(17)))
    learning = {id(p) for group in of.parameter_groups().values() for p in group}
    assert learning == {id(p) for p in of.parameters() if p.requires_grad}
    assert set(of.parameter_groups()) == set(of.learning_rates())
    moving = of.at(torch.tensor([0.1, 0.3]))
    loss, values = of.penalty(moving, 0, 10)
    assert values["regularizers/loop"] == pytest.approx(0.0, abs=1e-9)  # it closes
    assert values["regularizers/handover"] > 0.0
    torch.as_tensor(loss).backward()
    frozen = [p for p in of.parameters() if id(p) not in learning]
    assert frozen
    assert all(p.grad is None for p in frozen)
    assert sum(float(p.grad.abs().sum()) for p in of.parameters() if p.grad is not None) > 0.0
    blank = DynamicGaussians.blank(config)
    blank.load_state_dict(of.state_dict())
    times = torch.linspace(0.0, 1.0, 7)
    assert torch.equal(blank.moved(times), of.moved(times))
    assert blank.goes_on_from(of) is False  # it is the same motion, not the one that it continues


def clouds(of: DynamicGaussians) -> list[GaussianCloud]:
    moving = of.at(torch.tensor([0.0, 0.7]))
    assert isinstance(moving, Frames)
    return [frame for frame in moving.frames if isinstance(frame, GaussianCloud)]


@torch.no_grad()
def test_gaussians_turn_and_grow_with_what_carries_them():
    for turns, sizes in ((True, False), (False, True), (True, True)):
        config = Config(deformation=replace(SMALL, turns=turns, sizes=sizes))
        of = DynamicGaussians(config, 0, random_cloud(9))
        cloud = of.rest
        for frame in clouds(of):
            for name in ("quats", "scales"):  # at the start nothing turns or grows
                torch.testing.assert_close(getattr(frame, name), getattr(cloud, name))
        stirred(of)
        still, later = clouds(of)
        assert torch.equal(still.quats, cloud.quats)
        assert torch.equal(still.scales, cloud.scales)
        assert torch.allclose(later.quats, cloud.quats) is not turns
        assert torch.allclose(later.scales, cloud.scales) is not sizes
        assert bool((later.scales > 0.0).all())
        torch.testing.assert_close(later.quats.norm(dim=1), cloud.quats.norm(dim=1))


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.floats(-3.0, 3.0))
def test_rotation_vectors_and_quaternions_agree(x, y, z):
    vector = torch.tensor([[x, y, z]], dtype=torch.float64)
    quat = quat_from_vector(vector)
    a, b, c = vector[0]
    generator = torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(matrix_from_quat(quat)[0], torch.linalg.matrix_exp(generator))
    back = quat_from_vector(vector_from_quat(quat))
    torch.testing.assert_close(matrix_from_quat(back), matrix_from_quat(quat))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: After("x", overlap=0.0), "overlap is 0; it must be greater than 0 and at most 1"),
        (lambda: After("x", last=1.5), "last is 1.5"),
        (lambda: Config(closing=-0.1), "closing is -0.1"),
        (
            lambda: Config(closing=0.6, after=After("x", overlap=0.5)),
            "closing is 0.6; it must be at most 0.5",
        ),
        (
            lambda: Config(regularizers=motion_terms.Config(handover=1.0)),
            "regularizers.handover needs an earlier motion",
        ),
        (lambda: continue_earlier(motion(after=After("gone"))), "there is no run 'gone'"),
    ],
)
def test_settings_of_an_earlier_motion_that_do_not_fit_are_reported(make, message):
    with pytest.raises(UserError, match=message):
        make()


def motion(count: int = 3, seed: int = 0, **changes: Any) -> DynamicGaussians:
    config = Config(**{"deformation": SMALL, **changes})
    return stirred(DynamicGaussians(config, 0, random_cloud(count, seed=seed)))


def test_a_motion_reads_no_run_and_continues_the_scene_that_it_is_given():
    later, earlier = motion(after=After("gone", 0.5, 0.5)), motion()
    assert later.earlier_run == "gone"
    assert earlier.earlier_run == ""
    for parameter in earlier.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    later.continue_from(earlier)
    ends = later.moved(torch.tensor([0.0]))
    torch.testing.assert_close(ends, earlier.moved(torch.tensor([0.5])))


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        (lambda: Gaussians(GaussiansConfig(count=3)), "holds no dynamic-gaussians"),
        (lambda: motion(4), "moves other Gaussians: set the asset"),
        (lambda: motion(seed=1), "moves other Gaussians: set the asset"),
        (lambda: motion(deformation=replace(SMALL, width=9)), "has another deformation"),
        (lambda: motion(trajectory=trajectory.Config(degree=1)), "has another trajectory"),
        (lambda: motion(closing=0.25), "returns to rest at its end"),
        (lambda: motion(after=After("first", overlap=0.6)), "still blended with the one before it"),
    ],
)
def test_an_earlier_motion_whose_end_cannot_be_continued_is_reported(earlier, message):
    with pytest.raises(UserError, match=message) as caught:
        motion(after=After("gone", 0.5, 0.5)).continue_from(earlier())
    assert "'gone'" in str(caught.value)
