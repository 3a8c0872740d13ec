import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from threedgen.cameras.orbit import OrbitSampler, convert, look_at, orbit, spherical, view_features
from threedgen.core.errors import UserError
from threedgen.core.settings import SettingError

CONVENTIONS = ("opencv", "opengl", "blender", "srn")
angles = st.floats(-179.0, 179.0)
elevations = st.floats(-89.0, 89.0)


def one(azimuth: float, elevation: float = 0.0, radius: float = 3.0, fov: float = 40.0, size: int = 64):
    a, e, r = (torch.tensor([v], dtype=torch.float64) for v in (azimuth, elevation, radius))
    return orbit(a, e, r, fov, size, size)


def project(cameras, point):
    """Pixel position and depth of a world point in the first camera."""
    p = cameras.camera_from_world[0] @ torch.tensor([*point, 1.0], dtype=cameras.world_from_camera.dtype)
    k = cameras.intrinsics[0]
    return float(k[0, 0] * p[0] / p[2] + k[0, 2]), float(k[1, 1] * p[1] / p[2] + k[1, 2]), float(p[2])


@given(angles, elevations, st.floats(1.5, 10.0))
def test_orbit_and_spherical_are_inverse(azimuth, elevation, radius):
    a, e, r = spherical(one(azimuth, elevation, radius))
    assert float(a) == pytest.approx(azimuth, abs=1e-5)
    assert float(e) == pytest.approx(elevation, abs=1e-5)
    assert float(r) == pytest.approx(radius)


@given(angles, elevations)
def test_pose_is_rigid_and_looks_at_the_origin(azimuth, elevation):
    cameras = one(azimuth, elevation)
    rotation = cameras.world_from_camera[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=rotation.dtype))
    assert float(rotation.det()) == pytest.approx(1.0)
    assert project(cameras, (0.0, 0.0, 0.0)) == pytest.approx((32.0, 32.0, 3.0))


def test_front_camera_sees_plus_x_right_and_plus_y_up():
    x, y, _ = project(one(0.0), (0.5, 0.0, 0.0))
    assert x > 32
    assert y == pytest.approx(32)
    x, y, _ = project(one(0.0), (0.0, 0.5, 0.0))
    assert x == pytest.approx(32)
    assert y < 32
    assert project(one(0.0), (0.0, 0.0, 1.0))[2] == pytest.approx(2.0), "the front (+Z) is nearer"


def test_azimuth_90_is_on_plus_x():
    torch.testing.assert_close(one(90.0).centers[0].float(), torch.tensor([3.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_field_of_view_spans_the_image():
    distance, fov = 3.0, 40.0
    top = distance * math.tan(math.radians(fov / 2))
    assert project(one(0.0, fov=fov), (0.0, top, 0.0))[1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("source", CONVENTIONS)
@pytest.mark.parametrize("target", CONVENTIONS)
@settings(max_examples=10)
@given(angles, elevations)
def test_conversions_round_trip_and_compose(source, target, azimuth, elevation):
    pose = one(azimuth, elevation).world_from_camera
    there = convert(pose, source, target)
    torch.testing.assert_close(convert(there, target, source), pose)
    torch.testing.assert_close(convert(convert(pose, source, "opencv"), "opencv", target), there)
    assert float(there[0, :3, :3].det()) == pytest.approx(1.0), "no conversion mirrors the world"


def test_opengl_and_blender_axes():
    pose = one(30.0, 20.0).world_from_camera
    gl = convert(pose, "opencv", "opengl")[0]
    torch.testing.assert_close(gl[:3, 2], -pose[0, :3, 2])  # looks along -z
    torch.testing.assert_close(gl[:3, 1], -pose[0, :3, 1])  # y up
    torch.testing.assert_close(gl[:3, 3], pose[0, :3, 3])  # the camera does not move
    blender = convert(pose, "opencv", "blender")[0]
    assert float(blender[2, 3]) == pytest.approx(float(pose[0, 1, 3])), "height is z in Blender"
    assert float(blender[1, 3]) == pytest.approx(-float(pose[0, 2, 3])), "the front is -y in Blender"


def test_unknown_convention_is_named():
    with pytest.raises(UserError, match="colmap2"):
        convert(torch.eye(4)[None], "opencv", "colmap2")


def test_look_at_from_straight_above_is_rigid():
    rotation = look_at(torch.tensor([[0.0, 3.0, 0.0]]))[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3))


def test_resizing_keeps_the_picture():
    cameras = one(10.0, 5.0)
    x, y, _ = project(cameras, (0.3, 0.2, 0.1))
    assert project(cameras.resized(128, 32), (0.3, 0.2, 0.1))[:2] == pytest.approx((x / 2, y * 2))


@given(angles, elevations)
def test_view_features_are_periodic_and_know_the_view(azimuth, elevation):
    features = view_features(one(azimuth, elevation))
    assert features.shape == (1, 16)
    torch.testing.assert_close(view_features(one(azimuth + 360.0, elevation)), features)
    assert (view_features(one(azimuth + 45.0, elevation)) - features).norm() > 0.5
    torch.testing.assert_close(view_features(one(azimuth, elevation, size=32)), features)


def test_sampler_is_a_function_of_seed_and_step_and_spreads_its_views():
    sampler = OrbitSampler(OrbitSampler.Config(batch=4, resolution={0: 32, 0.5: 64}))
    first, again, other = sampler(1, 3, 100), sampler(1, 3, 100), sampler(1, 4, 100)
    assert torch.equal(first.world_from_camera, again.world_from_camera)
    assert not torch.equal(first.world_from_camera, other.world_from_camera)
    azimuth, elevation, radius = spherical(first)
    assert torch.allclose((azimuth[1:] - azimuth[:-1]) % 360, torch.full((3,), 90.0), atol=1e-3)
    assert elevation.std() < 1e-4
    assert radius.std() < 1e-5
    assert (first.height, sampler(1, 60, 100).height) == (32, 64)


NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", 0),
        ("fov", 0.0),
        ("fov", 180.0),
        ("fov", NAN),
        ("resolution", 0),
        ("resolution", NAN),
        ("resolution", {0: 64, 0.004: 0, 0.005: 64}),
        ("resolution", {"from": 64, "to": 0}),
        ("radius", (0.0, 3.0)),
        ("radius", (-1.0, 3.0)),
        ("radius", (3.0, 2.0)),
        ("radius", (2.0, INFINITE)),
        ("radius", (2.0, NAN)),
        ("elevation", (40.0, 10.0)),
        ("elevation", (-91.0, 0.0)),
        ("elevation", (0.0, 91.0)),
        ("elevation", (NAN, 10.0)),
        ("azimuth", (0.0, NAN)),
    ],
)
def test_sampler_refuses_nonsense(key, value):
    with pytest.raises(SettingError, match=f"^{key} .* must be") as caught:
        OrbitSampler.Config(**{key: value})
    assert caught.value.name == key


def test_sampler_takes_the_ends_of_its_ranges():
    config = OrbitSampler.Config(resolution=1, radius=(2.0, 2.0), elevation=(-90.0, 90.0))
    assert len(OrbitSampler(config)(0, 0, 1)) == 4
