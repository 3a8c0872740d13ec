"""The triplane of the source camera: it is aligned with pixels, empty outside of the view, and independent of the
frame of the world."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from nerfdiff_scenes import SIZE, seen, source_camera

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras
from threedgen.nerfdiff.field import camera_field, scene_radius, source_frame, sphere_cells
from threedgen.renderers.volume import VolumeRenderer


def _points_of_pixels(camera: Cameras, depth: float) -> torch.Tensor:
    """World points at distance `depth` in front of the camera, behind each pixel centre, row by row."""
    centres = torch.arange(camera.width) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    k = camera.intrinsics[0]
    local = (
        torch.stack([(x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], torch.ones_like(x)], dim=-1) * depth
    )
    pose = camera.world_from_camera[0]
    return local.reshape(-1, 3) @ pose[:3, :3].T + pose[:3, 3]


@given(
    st.floats(0.0, 360.0),
    st.floats(-80.0, 80.0),
    st.floats(1.5, 5.0),
    st.floats(20.0, 70.0),
    st.floats(-0.9, 0.9),
)
def test_a_point_behind_a_pixel_is_at_that_pixels_texel(azimuth, elevation, distance, fov, share):
    angles = torch.tensor([[azimuth], [elevation], [distance]])
    camera = orbit(angles[0], angles[1], angles[2], fov, SIZE, SIZE)
    radius = scene_radius(camera)
    points = _points_of_pixels(camera, distance + share * radius)
    places, inside = source_frame(camera, radius).coordinates(points, SIZE)
    assert inside.all()
    # align_corners: -1 and 1 are the centres of the outermost texels
    texels = torch.linspace(-1.0, 1.0, SIZE)
    y, x = torch.meshgrid(texels, texels, indexing="ij")
    torch.testing.assert_close(places[:, :2], torch.stack([x, y], -1).reshape(-1, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        places[:, 2], torch.full((SIZE**2,), share * SIZE / (SIZE - 1)), atol=1e-4, rtol=0
    )


def test_nothing_is_behind_the_camera_outside_its_picture_or_beyond_the_sphere():
    camera = source_camera()
    frame = source_frame(camera, 0.9)
    centre, forward = camera.centers[0], camera.world_from_camera[0, :3, 2]
    right = camera.world_from_camera[0, :3, 0]
    outside = torch.stack([centre - forward, 3.0 * right, forward * 0.95, -forward * 0.95])
    assert not frame.coordinates(outside, 8)[1].any()
    planes = torch.randn(3, 8, 8, 2)
    field = camera_field(planes, [torch.randn(4, 6)], [torch.ones(4)], frame)
    # A point in the box but outside of the sphere, and the middle.
    corner = torch.tensor([[0.88, 0.88, 0.88], [0.0, 0.0, 0.0]])
    density = field.query(torch.cat([outside, corner]), torch.zeros(6, 3))[0]
    assert (density[:5] == 0).all()
    assert density[5] > 0


def test_the_source_view_sees_the_xy_plane_as_its_picture():
    camera = source_camera()
    picture = seen(camera).images[0]
    planes = torch.zeros(3, SIZE, SIZE, 3)
    planes[0] = torch.logit(picture.clamp(0.01, 0.99))
    # The decoder passes the xy plane on as colour, with a high density everywhere.
    weight = torch.zeros(4, 9)
    weight[1:, :3] = torch.eye(3)
    field = camera_field(planes, [weight], [torch.tensor([10.0, 0.0, 0.0, 0.0])], source_frame(camera, 0.97))
    render = VolumeRenderer(VolumeRenderer.Config(samples=200))(field, camera, torch.ones(3))
    solid = render.alpha > 0.999
    assert solid.float().mean() > 0.6
    assert (render.rgb - picture.clamp(0.01, 0.99))[solid.expand_as(render.rgb)].abs().max() < 0.02


def test_only_relative_poses_matter():
    """A rotation of the world together with both cameras changes no picture."""
    torch.manual_seed(0)
    planes, weights, biases = torch.randn(3, 8, 8, 2), [torch.randn(4, 6)], [torch.zeros(4)]
    pictures = []
    for turn in (0.0, 77.0):
        angles = torch.tensor([10.0, 80.0]) + turn
        pair = orbit(angles, torch.full((2,), 20.0), torch.full((2,), 2.85), 40.0, SIZE, SIZE)
        field = camera_field(planes, weights, biases, source_frame(pair[:1], 0.9))
        pictures.append(VolumeRenderer()(field, pair[1:], torch.ones(3)).rgb)
    # The box turns with the world, so samples lie elsewhere on the rays: nearly the same.
    assert (pictures[0] - pictures[1]).abs().mean() < 0.02
    assert pictures[0].std() > 0.05


def test_the_sphere_of_a_scene_is_what_every_view_sees_whole():
    camera = orbit(torch.zeros(2), torch.zeros(2), torch.tensor([2.0, 3.0]), 60.0, 8, 8)
    assert abs(scene_radius(camera) - 2.0 * 0.5) < 1e-5


@given(st.integers(2, 24), st.integers(0, 1000))
def test_cells_of_the_sphere_hold_every_point_inside_it(cells, seed):
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(seed))
    points = (
        points
        / points.norm(dim=1, keepdim=True)
        * torch.rand(200, 1, generator=torch.Generator().manual_seed(seed))
    )
    cell = ((points + 1.0) / 2.0 * cells).long().clamp(0, cells - 1)
    assert sphere_cells(cells)[cell[:, 0], cell[:, 1], cell[:, 2]].all()
