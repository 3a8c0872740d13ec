"""The shape world in motion: rest, loops, what moves and how far."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from threedgen.datasets import motions, world
from threedgen.datasets.motions import HELD_OUT, MOTIONS, build, canonical, sample
from threedgen.training.clip_bank import ELEVATION, RADIUS
from threedgen.training.render_bank import FOV

PAIRS = [(shape, name) for name, motion in MOTIONS.items() for shape in motion.shapes]
TIMES = st.floats(0.0, 1.0)


@pytest.mark.parametrize(("shape", "name"), PAIRS)
def test_everything_rests_at_time_0_and_comes_back_where_it_is_a_loop(shape, name):
    moving = build(canonical(shape, "red", name))
    rest = moving.rest.mesh.vertices
    torch.testing.assert_close(moving.vertices(0.0), rest)
    end = (moving.vertices(1.0) - rest).norm(dim=1).max()
    assert (float(end) < 1e-5) is MOTIONS[name].loops


@pytest.mark.parametrize("name", [name for name in MOTIONS if name != "still"])
@pytest.mark.parametrize("time", [0.2, 0.3])
def test_everything_else_moves(name, time):
    shape = MOTIONS[name].shapes[-1]
    moving = build(canonical(shape, "red", name))
    far = (moving.vertices(time) - moving.rest.mesh.vertices).norm(dim=1)
    assert float(far.max()) > 0.1


def test_what_is_still_does_not_move():
    moving = build(canonical("cube", "red", "still"))
    assert torch.equal(moving.vertices(0.4), moving.rest.mesh.vertices)


@given(TIMES)
def test_bouncing_is_a_parabola_and_sliding_a_sine(time):
    for name, axis, way in (
        ("bouncing", 1, lambda amount: 4.0 * amount * time * (1.0 - time)),
        ("sliding", 0, lambda amount: amount * math.sin(2.0 * math.pi * time)),
    ):
        moving = build(canonical("cube", "red", name))
        shift = moving.vertices(time) - moving.rest.mesh.vertices
        expected = torch.zeros(3)
        expected[axis] = way(moving.amount)
        torch.testing.assert_close(shift, expected.expand_as(shift), atol=1e-5, rtol=0)


@given(TIMES)
def test_what_spins_or_sways_keeps_its_shape_and_what_grows_its_proportions(time):
    for name, expected in (("spinning", 1.0), ("swaying", 1.0), ("growing", 1.0 + 0.6 * time)):
        moving = build(canonical("chair", "red", name))
        distances = torch.pdist(moving.vertices(time)[::7])
        torch.testing.assert_close(
            distances, expected * torch.pdist(moving.rest.mesh.vertices[::7]), atol=1e-4, rtol=1e-4
        )


def test_what_sways_stands_on_its_foot():
    moving = build(canonical("cone", "red", "swaying"))
    rest = moving.rest.mesh.vertices
    foot = rest[(rest[:, 1] == rest[:, 1].min()) & (rest[:, [0, 2]].norm(dim=1) < 1e-6)][0]
    index = int((rest - foot).norm(dim=1).argmin())
    for time in (0.1, 0.25, 0.6):
        torch.testing.assert_close(moving.vertices(time)[index], foot, atol=1e-6, rtol=0)
    tip = int(rest[:, 1].argmax())
    assert float(moving.vertices(0.25)[tip, 0]) < -0.3 < 0.3 < float(moving.vertices(0.75)[tip, 0])


@pytest.mark.parametrize(("shape", "name", "joints"), [("car", "driving", 4), ("mug", "opening", 1)])
def test_pieces_move_and_the_rest_stays(shape, name, joints):
    moving = build(canonical(shape, "red", name))
    assert int(moving.joint.max()) + 1 == joints
    far = (moving.vertices(0.3) - moving.rest.mesh.vertices).norm(dim=1)
    assert float(far[moving.joint < 0].max()) == 0.0
    for joint in range(joints):
        assert float(far[moving.joint == joint].max()) > 0.1


def test_a_mug_under_its_lid_is_the_mug():
    moving = build(canonical("mug", "red", "opening"))
    body = world.build(world.canonical("mug", "red")).mesh.vertices
    assert torch.equal(moving.rest.mesh.vertices[moving.joint < 0], body)


@pytest.mark.parametrize(("shape", "name"), PAIRS)
def test_normals_turn_with_the_surface(shape, name):
    """They remain the normals of the faces."""
    at = build(canonical(shape, "red", name)).at(0.35)
    mesh = at.mesh
    assert mesh.normals is not None
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    cross = torch.linalg.cross(b - a, c - a)
    facing = (cross * mesh.normals[mesh.faces].mean(1)).sum(1)
    assert bool((facing > 0.0).all())
    torch.testing.assert_close(mesh.normals.norm(dim=1), torch.ones(len(mesh.normals)))


@pytest.mark.parametrize(("shape", "name"), PAIRS)
@pytest.mark.parametrize("time", [0.25, 0.5, 0.75, 1.0])
def test_everything_stays_in_the_picture(shape, name, time):
    """Seen from the nearest camera of the clips, at their middle elevation."""
    moving = build(canonical(shape, "red", name))
    reach = math.tan(math.radians(0.5 * FOV))
    for azimuth in range(0, 360, 45):
        cameras = motions_camera(float(azimuth))
        local = (moving.vertices(time) - cameras.world_from_camera[0, :3, 3]) @ cameras.world_from_camera[
            0, :3, :3
        ]
        assert float((local[:, :2].abs() / local[:, 2:]).max()) < reach


def motions_camera(azimuth: float):
    from threedgen.cameras.orbit import orbit

    middle = torch.tensor([0.5 * sum(ELEVATION)])
    return orbit(torch.tensor([azimuth]), middle, torch.tensor([RADIUS[0]]), FOV, 8, 8)


def test_draws_leave_out_what_is_held_out_and_are_a_function_of_the_generator():
    drawn = [sample(np.random.default_rng(seed)) for seed in range(400)]
    pairs = {(item.item.shape, item.motion) for item in drawn}
    assert not pairs & HELD_OUT
    assert {motion for _, motion in pairs} == set(MOTIONS)
    assert all(item.item.shape in MOTIONS[item.motion].shapes for item in drawn)
    assert all(
        MOTIONS[item.motion].amount[0] <= item.amount <= MOTIONS[item.motion].amount[1] for item in drawn
    )
    assert sample(np.random.default_rng(7)) == drawn[7]
    for shape, name in HELD_OUT:
        assert shape in MOTIONS[name].shapes


def test_captions_name_the_object_and_its_motion():
    assert canonical("cube", "orange", "bouncing").caption == "an orange cube bouncing"
    assert set(motions.MORE_WORDS) < set(MOTIONS)
