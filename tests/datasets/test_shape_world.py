import math

import numpy as np
import pytest
import torch
import trimesh

from threedgen.cameras.orbit import orbit
from threedgen.core.pictures import psnr, silhouette_iou, ssim
from threedgen.datasets import solids, world
from threedgen.datasets.shapes import CLASSES, COLORS


def cameras(azimuth, elevation=20.0, size=64):
    count = len(azimuth)
    return orbit(
        torch.tensor(azimuth), torch.full((count,), elevation), torch.full((count,), 2.85), 40.0, size, size
    )


def as_trimesh(solid):
    mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    return mesh


@pytest.mark.parametrize(
    ("solid", "volume"),
    [
        (solids.box((1.0, 2.0, 0.5)), 1.0),
        (solids.sphere(0.7, 96), 4 / 3 * math.pi * 0.7**3),
        (solids.cylinder(0.5, 1.2, 96), math.pi * 0.25 * 1.2),
        (solids.cone(0.6, 1.2, 96), math.pi * 0.36 * 1.2 / 3),
        (solids.torus(0.5, 0.2, 96, 96), 2 * math.pi**2 * 0.5 * 0.04),
        (solids.cup(0.5, 1.0, 0.1, 96), math.pi * (0.25 * 1.0 - 0.16 * 0.9)),
        (solids.prism(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 2.0), 1.0),
    ],
)
def test_solids_are_closed_outward_and_of_the_right_volume(solid, volume):
    mesh = as_trimesh(solid)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(volume, rel=5e-3)  # positive: faces are turned outward


@pytest.mark.parametrize("solid", [solids.sphere(0.7), solids.torus(0.5, 0.2), solids.cylinder(0.4, 1.0)])
def test_vertex_normals_are_unit_and_agree_with_the_faces(solid):
    np.testing.assert_allclose(np.linalg.norm(solid.normals, axis=1), 1.0, atol=1e-6)
    a, b, c = (solid.vertices[solid.faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    face_normals = cross / np.linalg.norm(cross, axis=1, keepdims=True)
    cosine = (solid.normals[solid.faces] * face_normals[:, None]).sum(axis=-1)
    assert cosine.min() > 0.9


def test_torus_has_one_hole():
    assert as_trimesh(solids.torus(0.5, 0.2)).euler_number == 0


@pytest.mark.parametrize("name", CLASSES)
def test_every_member_lies_centred_in_the_unit_sphere(name):
    rng = np.random.default_rng(0)
    for _ in range(10):
        scene = world.Scene((world.WorldObject(name, "red", CLASSES[name].sample(rng)),))
        vertices = world.build(scene).mesh.vertices
        assert vertices.norm(dim=1).max() < 0.95
        middle = 0.5 * (vertices.amin(dim=0) + vertices.amax(dim=0))
        # A mug's handle reaches to one side; everything else is centred.
        assert middle.abs().max() < (0.05 if name == "mug" else 0.02)


def test_front_of_the_car_and_back_of_the_chair():
    front, back = world.render(world.canonical("car", "red"), cameras([0.0, 180.0]))[0]

    def lamps(picture):
        """Pale yellow pixels: much red, nearly as much green, clearly less blue."""
        red, green, blue = picture.unbind(-1)
        return int(((red > 0.5) & (green > 0.85 * red) & (blue < 0.8 * red)).sum())

    assert lamps(front) > 3 * max(lamps(back), 1), "headlights are in front"
    chair = world.build(world.canonical("chair", "red")).mesh.vertices
    assert chair[chair[:, 1] > 0.5][:, 2].max() < 0, "a chair's back is at -Z: it is seen from the front"


def test_stack_stands_and_fits():
    pair = world.Scene(
        (world.canonical("torus", "red").objects[0], world.canonical("cube", "blue").objects[0])
    )
    layered = world.build(pair)
    vertices = layered.mesh.vertices
    top, bottom = vertices[layered.owner == 0], vertices[layered.owner == 1]
    assert float(top[:, 1].min()) == pytest.approx(float(bottom[:, 1].max()), abs=1e-6)
    assert float(vertices.norm(dim=1).max()) == pytest.approx(world.STACK_RADIUS, abs=1e-6)
    assert pair.caption == "a red torus on a blue cube"


def test_sampling_never_draws_a_held_out_pair():
    rng = np.random.default_rng(1)
    drawn = {(o.color, o.shape) for o in (world.sample_object(rng) for _ in range(3000))}
    assert not drawn & world.HELD_OUT
    assert len(drawn) == len(COLORS) * len(CLASSES) - len(world.HELD_OUT)
    for _ in range(200):
        top, bottom = world.sample_pair(rng).objects
        assert top.color != bottom.color


def test_layers_reproduce_any_colour_and_background():
    layered = world.build(world.canonical("car", "red"))
    view = cameras([30.0])
    layers = world.render_layers(layered, view, objects=1)
    white, _ = world.render(world.canonical("car", "blue"), view)
    again = world.compose(layers, torch.tensor(COLORS["blue"]).reshape(1, 1, 3), torch.ones(1, 3))
    torch.testing.assert_close(again, white)
    black = world.compose(layers, torch.tensor(COLORS["blue"]).reshape(1, 1, 3), torch.zeros(1, 3))
    torch.testing.assert_close(black + (1 - layers[..., -1:]), white)


def test_light_is_fixed_in_the_world():
    """The same surface point has the same colour from two cameras, and its shade is that of its normal."""
    mesh = world.paint(world.canonical("cube", "red"))
    assert mesh.vertex_colors is not None
    assert mesh.normals is not None
    lit = mesh.vertex_colors[:, 0] / COLORS["red"][0]
    assert float(lit.max()) > 0.8
    assert float(lit.min()) == pytest.approx(world.AMBIENT)
    torch.testing.assert_close(lit[:, None], world.shade(mesh.normals))
    half = float(mesh.vertices[:, 2].max())
    for point in ([0.0, 0.0, half], [half / 2, half / 2, half], [0.0, half, 0.0]):  # front, front, top
        views = cameras([-35.0, 50.0], elevation=30.0, size=128)
        picture = world.render(world.canonical("cube", "red"), views)[0]
        where = views.camera_from_world @ torch.tensor([*point, 1.0])
        pixels = (views.intrinsics @ where[:, :3, None])[..., 0]
        columns, rows = (pixels[:, :2] / pixels[:, 2:]).long().unbind(1)
        first, second = picture[torch.arange(2), rows, columns]
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
        assert first[0] > 0.5
        assert first[1] < 0.4, "the pixel shows the cube, not the white behind it"


def test_sphere_silhouette_area_matches_geometry():
    _, alpha = world.render(world.canonical("sphere", "red"), cameras([0.0, 77.0], size=128))
    radius = CLASSES["sphere"].canonical()["radius"]
    focal = 0.5 * 128 / math.tan(math.radians(20.0))
    apparent = focal * math.tan(math.asin(radius / 2.85))
    area = alpha.sum(dim=(1, 2, 3))
    assert torch.allclose(area, torch.tensor(math.pi * apparent**2), rtol=0.015)


def test_psnr_and_iou_known_values():
    rng = np.random.default_rng(0)
    target = torch.full((1, 64, 64, 3), 0.5)
    noisy = target + torch.from_numpy(rng.normal(0.0, 0.1, target.shape)).float()
    assert float(psnr(noisy, target)) == pytest.approx(20.0, abs=0.3)
    a, b = torch.zeros(1, 8, 8, 1), torch.zeros(1, 8, 8, 1)
    a[:, :4], b[:, 2:6] = 1.0, 1.0
    assert float(silhouette_iou(a, b)) == pytest.approx(2 / 6)
    assert float(silhouette_iou(0 * a, 0 * b)) == 1.0


def test_ssim_is_one_for_equal_pictures_and_agrees_with_another_implementation():
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.random((1, 48, 48, 3))).float()
    b = (a + 0.2 * torch.from_numpy(rng.normal(size=a.shape)).float()).clamp(0.0, 1.0)
    assert float(ssim(a, a)) == pytest.approx(1.0)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    reference = structural_similarity(a[0].numpy(), b[0].numpy(), channel_axis=-1, **options)
    assert float(ssim(a, b)) == pytest.approx(reference, abs=0.01)
