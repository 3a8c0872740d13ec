"""Measures of motion, against closed forms: motions whose measures are known."""

import math

import pytest
import torch
from eval_parts import MeanColour
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from threedgen.core.random import generator
from threedgen.core.transforms import matrix_from_quat
from threedgen.datasets import motions
from threedgen.metrics.motion import (
    NONE,
    STILL,
    diameter,
    farthest,
    fitted,
    motion_scores,
    picture_scores,
    true_paths,
    truth_scores,
)

T = 25
TIMES = torch.linspace(0.0, 1.0, T)
KNOWN = [
    (shape, name)
    for shape in ("cube", "cone", "chair", "table", "mug")
    for name, kind in motions.MOTIONS.items()
    if kind.body and shape in kind.shapes
]


def corners() -> Float[Tensor, "8 3"]:
    """The corners of a cube whose diameter is 2 sqrt(3)."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)


def ball(count: int = 200) -> Float[Tensor, "N 3"]:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator(0, "ball", 0)), dim=1)


def asset(shape: str) -> Float[Tensor, "V 3"]:
    return motions.build(motions.canonical(shape, "red", "still")).rest.mesh.vertices


def seen_from(phase: float, shape: str, motion: str, times: Tensor = TIMES) -> Float[Tensor, "T V 3"]:
    """The canonical member of a class in its motion, beginning at the moment `phase`."""
    moving = motions.build(motions.canonical(shape, "red", motion))
    return torch.stack(
        [moving.vertices(phase + t if phase + t <= 1.0 else phase + t - 1.0) for t in times.tolist()]
    )


def along(direction: tuple[float, float, float], how_far: Float[Tensor, " T"]) -> Float[Tensor, "T 8 3"]:
    return corners() + how_far[:, None, None] * torch.tensor(direction)


def test_the_diameter_is_that_of_the_sphere_around_the_box():
    assert diameter(corners()) == pytest.approx(2.0 * math.sqrt(3.0))
    assert diameter(corners() + 5.0) == pytest.approx(2.0 * math.sqrt(3.0))
    assert diameter(3.0 * corners()) == pytest.approx(6.0 * math.sqrt(3.0))


def test_a_steady_translation():
    found = motion_scores(along((0.0, 0.6, 0.8), 2.0 * TIMES))
    assert found.amount == pytest.approx(1.0 / math.sqrt(3.0), rel=1e-5)
    assert found.loop == pytest.approx(found.amount)
    assert found.local == pytest.approx(0.0, abs=1e-6)
    assert found.jerk == pytest.approx(0.0, abs=1e-4)
    assert farthest(along((0.0, 0.6, 0.8), 2.0 * TIMES)) == pytest.approx(found.amount)


def test_trembling_points_have_a_jerk_of_2():
    found = motion_scores(along((1.0, 0.0, 0.0), torch.arange(T) % 2 * 0.3))
    assert found.jerk == pytest.approx(2.0, rel=1e-5)
    assert found.loop == 0.0


def test_a_spin_is_no_local_motion_and_closes():
    points = ball()
    angle = 2.0 * math.pi * TIMES
    zero = torch.zeros(T)
    turns = matrix_from_quat(torch.stack([(angle / 2).cos(), zero, (angle / 2).sin(), zero], dim=1))
    found = motion_scores(points @ turns.transpose(1, 2))
    assert found.amount == pytest.approx(
        2.0 * float(points[:, [0, 2]].norm(dim=1).mean()) / diameter(points), rel=1e-4
    )
    assert found.local == pytest.approx(0.0, abs=1e-5)
    assert found.loop == pytest.approx(0.0, abs=1e-5)
    # A chord of an arc, and the difference of two neighbouring ones: 2 sin(half of the step's angle).
    assert found.jerk == pytest.approx(2.0 * math.sin(math.pi / (T - 1)), rel=1e-3)


def test_growth_is_no_local_motion():
    found = motion_scores((1.0 + 0.5 * TIMES)[:, None, None] * corners())
    assert found.amount == pytest.approx(0.25, rel=1e-5)
    assert found.local == pytest.approx(0.0, abs=1e-6)
    assert found.jerk == pytest.approx(0.0, abs=1e-4)


def test_bending_is_local_motion():
    """Half of the corners rise and half sink, so that no similarity explains any of the motion."""
    twist = corners().prod(1)[None, :, None] * torch.tensor([0.0, 1.0, 0.0]) * TIMES[:, None, None]
    found = motion_scores(corners() + 0.2 * twist)
    assert found.amount == pytest.approx(0.2 / diameter(corners()), rel=1e-5)
    assert found.local == pytest.approx(found.amount, rel=0.05)


def test_an_asset_that_stands_still_has_no_motion_and_no_jerk():
    paths = corners().expand(T, -1, -1)
    assert motion_scores(paths) == motion_scores(paths + 0.0)
    found = motion_scores(paths)
    assert (found.amount, found.jerk, found.loop) == (0.0, 0.0, 0.0)
    assert found.local == pytest.approx(0.0, abs=1e-6)
    # Rounding errors do not count as trembling, and points at one position have no size to divide by.
    noise = 1e-7 * torch.randn(T, 8, 3, generator=generator(0, "noise", 0))
    assert motion_scores(paths + noise).jerk == 0.0
    assert motion_scores(torch.zeros(T, 8, 3)) == motion_scores(torch.ones(T, 1, 3))


@settings(max_examples=20)
@given(st.floats(0.1, 10.0), st.tuples(*[st.floats(-3.0, 3.0)] * 3))
def test_scores_do_not_depend_on_size_and_position(scale, offset):
    paths = seen_from(0.0, "cone", "swaying").double()
    paths = paths + 0.05 * torch.randn(paths.shape, generator=generator(0, "noise", 1)) * TIMES[:, None, None]
    one, other = motion_scores(paths), motion_scores(scale * paths + torch.tensor(offset))
    for name in ("amount", "local", "jerk", "loop"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-4)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.05, 20.0))
def test_the_fit_is_exact_on_similarities(seed, scale):
    rng = generator(seed, "similarity", 0)
    turns = matrix_from_quat(torch.randn(3, 4, generator=rng).double())
    points = torch.randn(12, 3, generator=rng).double()
    paths = scale * points @ turns.transpose(1, 2) + torch.randn(3, 1, 3, generator=rng).double()
    torch.testing.assert_close(fitted(points, paths), paths, atol=1e-9 * scale + 1e-9, rtol=0)


def test_the_fit_is_the_nearest_similarity():
    """No small change of rotation, size or position comes nearer."""
    rng = generator(0, "fit", 0)
    points = torch.randn(15, 3, generator=rng).double()
    paths = points[None] + 0.4 * torch.randn(2, 15, 3, generator=rng).double()
    best = (fitted(points, paths) - paths).square().sum((1, 2))
    for _ in range(20):
        turn = matrix_from_quat(
            torch.tensor([1.0, 0, 0, 0]) + 0.02 * torch.randn(2, 4, generator=rng)
        ).double()
        grown = (1.0 + 0.02 * torch.randn(2, 1, 1, generator=rng)) * fitted(points, paths)
        near = grown @ turn + 0.02 * torch.randn(2, 1, 3, generator=rng)
        assert bool(((near - paths).square().sum((1, 2)) > best).all())


def test_a_reflection_is_no_similarity():
    points = torch.randn(30, 3, generator=generator(0, "mirror", 0))
    over = torch.tensor([-1.0, 1.0, 1.0])
    left = (fitted(points, (points * over)[None]) - points * over).norm(dim=2).mean()
    assert float(left) > 0.1 * diameter(points)
    flat = points * torch.tensor([1.0, 1.0, 0.0])  # a flat object can be turned over
    torch.testing.assert_close(fitted(flat, (flat * over)[None])[0], flat * over, atol=1e-5, rtol=0)


def test_fewer_than_three_moments_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        motion_scores(torch.zeros(2, 8, 3))
    with pytest.raises(ValueError, match="at least 3"):
        picture_scores(torch.zeros(2, 8, 8, 3), MeanColour())


@pytest.mark.parametrize(("shape", "motion"), KNOWN)
def test_every_true_motion_is_recognised(shape, motion):
    found = truth_scores(seen_from(0.0, shape, motion), shape, motion)
    assert found.nearest == motion
    assert found.error == pytest.approx(0.0, abs=1e-4)
    assert found.phase == 0.0


def test_held_out_pairs_are_among_them():
    assert set(KNOWN) >= motions.HELD_OUT


@pytest.mark.parametrize("motion", ["bouncing", "swaying", "sliding"])
@pytest.mark.parametrize("phase", [1, 4, 9])
def test_the_phase_is_recovered(motion, phase):
    """The paths are vertices of the shape world at other times, not those of `true_paths`."""
    found = truth_scores(seen_from(phase / 12, "cone", motion), "cone", motion)
    assert found.nearest == motion
    assert found.error == pytest.approx(0.0, abs=2e-3)
    assert found.phase == pytest.approx(phase / 12)


def test_a_spin_is_the_same_in_every_phase():
    found = truth_scores(seen_from(5 / 12, "chair", "spinning"), "chair", "spinning")
    assert (found.nearest, found.phase) == ("spinning", 0.0)
    assert found.error == pytest.approx(0.0, abs=1e-4)


def test_the_first_moment_of_a_true_path_is_where_the_points_are():
    points = ball(20)
    for phase in (0.0, 0.25, 0.7):
        torch.testing.assert_close(true_paths(points, "swaying", 5, phase)[0], points, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", ["cube", "table"])
def test_a_reversed_spin_is_no_spin(shape):
    found = truth_scores(seen_from(0.0, shape, "spinning").flip(0), shape, "spinning")
    assert found.nearest == NONE
    assert found.error > 0.9


@pytest.mark.parametrize("motion", ["spinning", "bouncing", "still"])
def test_an_asset_that_stands_still_is_still(motion):
    paths = asset("cube").expand(T, -1, -1)
    found = truth_scores(paths, "cube", motion)
    assert found.nearest == "still"
    assert found.error == pytest.approx(0.0 if motion == "still" else 1.0, abs=1e-5)
    trembling = paths + 0.3 * STILL * torch.randn(paths.shape, generator=generator(0, "noise", 2))
    assert truth_scores(trembling, "cube", motion).nearest == "still"


def test_most_of_a_motion_resembles_it_and_a_tenth_does_not():
    rest, truth = asset("cube"), seen_from(0.0, "cube", "bouncing")
    most, little = (truth_scores(rest + share * (truth - rest), "cube", "bouncing") for share in (0.7, 0.1))
    assert (most.nearest, little.nearest) == ("bouncing", NONE)
    assert most.error == pytest.approx(0.3, abs=1e-4)
    assert 0.8 < little.error <= 0.9  # a bounce that begins in mid-air explains a little more


def test_another_motion_than_the_prompted_one_is_named():
    found = truth_scores(seen_from(0.0, "table", "sliding"), "table", "bouncing")
    assert found.nearest == "sliding"
    assert found.error > 0.5


@pytest.mark.parametrize(
    ("shape", "motion"), [("sphere", "spinning"), ("car", "driving"), ("mug", "opening")]
)
def test_motions_of_single_pieces_are_refused(shape, motion):
    with pytest.raises(ValueError, match="has no truth"):
        truth_scores(torch.zeros(3, 8, 3), shape, motion)


def clip_of(values: Tensor) -> Float[Tensor, "T 8 8 3"]:
    return values.float()[:, None, None, None].expand(-1, 8, 8, 3)


def test_pictures_that_change_steadily_do_not_flicker():
    found = picture_scores(clip_of(torch.linspace(0.2, 0.6, 9)), MeanColour())
    assert found.change == pytest.approx(0.4)
    assert found.flicker == pytest.approx(0.0, abs=1e-5)


def test_pictures_that_alternate_flicker():
    found = picture_scores(clip_of(torch.arange(9) % 2 * 0.5), MeanColour())
    assert found.flicker == pytest.approx(2.0)
    assert found.change == pytest.approx(0.5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_pictures_keep_their_identity(value):
    """Also black pictures, whose features are 0."""
    found = picture_scores(clip_of(torch.full((5,), value)), MeanColour())
    assert (found.change, found.flicker) == (0.0, 0.0)
    assert found.identity == pytest.approx(1.0)


def test_identity_is_the_smallest_cosine():
    clip = torch.zeros(4, 8, 8, 3)
    clip[:, ..., 0] = 1.0
    clip[2, ..., 1] = 1.0  # yellow between red pictures: 45 degrees
    found = picture_scores(clip, MeanColour())
    assert found.identity == pytest.approx(math.sqrt(0.5), abs=1e-6)
