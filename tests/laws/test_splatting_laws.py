"""Laws of splatting renderers, for each CPU backend."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from splatting_scenes import FIELDS, cameras_around, cast, random_cloud, render_with_gradients
from torch import Tensor

from threedgen.core.types import Cameras, GaussianCloud, RenderOutput
from threedgen.kernels import why_absent
from threedgen.renderers.backends import load
from threedgen.renderers.backends.torch import rotation_matrices, sh_basis
from threedgen.renderers.splatting import SplattingRenderer

BACKENDS = ["torch", "native"] if why_absent() is None else ["torch"]
Render = Callable[..., RenderOutput]


@pytest.fixture(params=BACKENDS)
def render(request: pytest.FixtureRequest) -> Render:
    return SplattingRenderer(SplattingRenderer.Config(backend=request.param))


def one_gaussian(opacity: float, scale: float, color: Tensor) -> GaussianCloud:
    return GaussianCloud(
        means=torch.zeros(1, 3),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.full((1, 3), scale),
        opacities=torch.tensor([opacity]),
        sh=((color - 0.5) / 0.28209479177387814).reshape(1, 1, 3),
    )


def test_the_torch_backend_passes_gradcheck() -> None:
    splat = load("splatting", "torch").splat
    cloud, cameras = cast(random_cloud(5, 3, size=0.3), torch.float64), cameras_around(6, 7, views=2)
    cameras = cameras.to("cpu", torch.float64)

    def images(*tensors: Tensor) -> tuple[Tensor, ...]:
        return splat(GaussianCloud(*tensors[:5]), cameras, tensors[5], tensors[6])[:3]

    inputs = [getattr(cloud, name) for name in FIELDS]
    inputs += [torch.rand(2, 3, dtype=torch.float64), torch.zeros(2, 5, 2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(images, [value.requires_grad_() for value in inputs])


def test_one_gaussian_has_the_closed_form_profile(render: Render) -> None:
    color, background = torch.tensor([0.9, 0.3, 0.1]), torch.tensor([0.2, 0.4, 1.0])
    cameras = cameras_around(33, 33, radius=2.0, views=1)
    scale, focal = 0.15, float(cameras.intrinsics[0, 0, 0])
    variance = (focal * scale / 2.0) ** 2 + 0.3
    for opacity in (1.0, 0.6):
        output = render(one_gaussian(opacity, scale, color), cameras, background)
        offset = torch.arange(33) - 16.0
        expected = opacity * torch.exp(-0.5 * offset.square() / variance)
        expected = torch.where(expected < 1 / 255, 0.0, expected.clamp(max=0.999))
        torch.testing.assert_close(output.alpha[0, 16, :, 0], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(output.alpha[0, :, 16, 0], expected, rtol=1e-5, atol=1e-6)
        center = float(expected[16])
        torch.testing.assert_close(output.rgb[0, 16, 16], center * color + (1 - center) * background)
        assert output.depth is not None
        assert float(output.depth[0, 16, 16, 0]) == pytest.approx(2.0 * center, rel=1e-5)


@pytest.mark.parametrize("degree", [0, 1])
def test_similarity_transform_of_scene_and_camera_changes_only_depth(render: Render, degree: int) -> None:
    cloud, cameras = random_cloud(80, degree), cameras_around(32, 32)
    turn, scale, shift = torch.tensor([0.3, -0.7, 0.5, 0.4]), 3.0, torch.tensor([0.7, -2.0, 1.1])
    rotation = rotation_matrices(turn[None])[0]
    w, v = turn[0], turn[1:]
    quat_w, quat_v = cloud.quats[:, :1], cloud.quats[:, 1:]
    quats = torch.cat(
        [
            w * quat_w - (quat_v * v).sum(1, keepdim=True),
            w * quat_v + quat_w * v + torch.linalg.cross(v.expand_as(quat_v), quat_v),
        ],
        dim=1,
    )
    sh = cloud.sh.clone()
    if degree == 1:  # Y_1 is linear in (-y, z, -x): its coefficients turn like a vector
        vector = torch.stack([-sh[:, 3], -sh[:, 1], sh[:, 2]], dim=1)
        vector = torch.einsum("ij,njc->nic", rotation, vector)
        sh = torch.stack([sh[:, 0], -vector[:, 1], vector[:, 2], -vector[:, 0]], dim=1)
    moved = GaussianCloud(
        scale * cloud.means @ rotation.T + shift, quats, scale * cloud.scales, cloud.opacities, sh
    )
    pose = cameras.world_from_camera.clone()
    pose[:, :3, :3] = rotation @ pose[:, :3, :3]
    pose[:, :3, 3] = scale * pose[:, :3, 3] @ rotation.T + shift
    there = dataclasses.replace(
        cameras, world_from_camera=pose, near=scale * cameras.near, far=scale * cameras.far
    )
    background = torch.rand(3)
    first, second = render(cloud, cameras, background), render(moved, there, background)
    assert first.depth is not None
    assert second.depth is not None
    torch.testing.assert_close(second.rgb, first.rgb, rtol=0, atol=1e-4)
    torch.testing.assert_close(second.alpha, first.alpha, rtol=0, atol=1e-4)
    torch.testing.assert_close(second.depth, scale * first.depth, rtol=0, atol=1e-3)


def test_spherical_harmonics_are_orthonormal() -> None:
    rng = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(
        torch.randn(400_000, 3, generator=rng, dtype=torch.float64), dim=1
    )
    basis = sh_basis(directions, 16)
    gram = basis.T @ basis / len(basis) * 4 * math.pi
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), rtol=0, atol=0.02)


def test_order_of_the_gaussians_does_not_matter(render: Render) -> None:
    cloud, cameras = random_cloud(200), cameras_around(40, 24)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    shuffled = GaussianCloud(**{name: getattr(cloud, name)[order] for name in FIELDS})
    first, second = render(cloud, cameras, torch.ones(3)), render(shuffled, cameras, torch.ones(3))
    torch.testing.assert_close(second.rgb, first.rgb, rtol=0, atol=1e-6)
    assert first.screen is not None
    assert second.screen is not None
    torch.testing.assert_close(second.screen.radii, first.screen.radii[:, order])


def test_alpha_is_a_fraction_and_pictures_are_affine_in_the_background(render: Render) -> None:
    cloud, cameras = random_cloud(300, size=0.3), cameras_around(33, 47)
    over_black, over_color = (
        render(cloud, cameras, torch.zeros(3)),
        render(cloud, cameras, torch.tensor([1.0, 0.5, 2.0])),
    )
    assert float(over_black.alpha.min()) >= 0.0
    assert float(over_black.alpha.max()) <= 1.0
    assert float(over_black.alpha.max()) > 0.99
    expected = over_black.rgb + (1 - over_black.alpha) * torch.tensor([1.0, 0.5, 2.0])
    torch.testing.assert_close(over_color.rgb, expected, rtol=0, atol=1e-6)


def test_the_nearer_gaussian_hides_the_other(render: Render) -> None:
    red, green = (
        one_gaussian(1.0, 0.3, torch.tensor([1.0, 0, 0])),
        one_gaussian(1.0, 0.3, torch.tensor([0, 1.0, 0])),
    )
    cameras = cameras_around(17, 17, views=1)
    towards = cameras.centers[0] / cameras.centers[0].norm()
    pair = {name: torch.cat([getattr(red, name), getattr(green, name)]) for name in FIELDS}
    for near, channel in ((0, 0), (1, 1)):
        pair["means"] = torch.stack(
            [towards * 0.2 if index == near else torch.zeros(3) for index in range(2)]
        )
        center = render(GaussianCloud(**pair), cameras, torch.zeros(3)).rgb[0, 8, 8]
        assert int(center.argmax()) == channel
        assert float(center[channel]) > 0.99


def test_moving_the_principal_point_moves_the_picture(render: Render) -> None:
    cloud, cameras = random_cloud(60, size=0.05), cameras_around(48, 48, views=1)
    small = GaussianCloud(cloud.means * 0.3, cloud.quats, cloud.scales, cloud.opacities, cloud.sh)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 2] += 5.0
    intrinsics[:, 1, 2] -= 3.0
    moved = render(small, dataclasses.replace(cameras, intrinsics=intrinsics), torch.zeros(3))
    still = render(small, cameras, torch.zeros(3))
    torch.testing.assert_close(moved.rgb[:, :45, 5:], still.rgb[:, 3:, :43], rtol=0, atol=2e-5)


def behind(cloud: GaussianCloud, cameras: Cameras) -> GaussianCloud:
    return dataclasses.replace(cloud, means=cloud.means * 0.1 + 2 * cameras.centers[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_see_gives_the_background_and_zero_gradients(backend: str) -> None:
    cameras, background = cameras_around(19, 21, views=1), torch.tensor([[0.3, 0.6, 0.9]])
    splat = load("splatting", backend).splat
    empty = GaussianCloud(**{name: getattr(random_cloud(4), name)[:0] for name in FIELDS})
    transparent = dataclasses.replace(random_cloud(4), opacities=torch.zeros(4))
    for cloud in (empty, behind(random_cloud(30), cameras), transparent):
        result = render_with_gradients(splat, cloud, cameras, background)
        assert torch.equal(result.images["rgb"], background.expand(1, 19, 21, 3))
        assert not result.images["alpha"].any()
        assert not result.images["depth"].any()
        assert not result.radii.any()
        for name in (*FIELDS, "means2d"):
            assert not result.gradients[name].any(), name


def test_invisible_gaussians_have_zero_radius_and_others_do_not(render: Render) -> None:
    cameras = cameras_around(32, 32, views=1)
    seen, unseen = random_cloud(10, size=0.1), behind(random_cloud(10), cameras)
    cloud = GaussianCloud(
        **{name: torch.cat([getattr(seen, name), getattr(unseen, name)]) for name in FIELDS}
    )
    screen = render(dataclasses.replace(cloud, opacities=torch.ones(20)), cameras, torch.zeros(3)).screen
    assert screen is not None
    assert (screen.radii[0, :10] > 0).all()
    assert not screen.radii[0, 10:].any()


def test_gaussian_that_is_not_a_number_is_not_drawn(render: Render) -> None:
    cloud = random_cloud(20, 0)
    for name in ("means", "quats", "scales", "opacities"):
        values = getattr(cloud, name).clone()
        values[3] = float("nan")
        output = render(dataclasses.replace(cloud, **{name: values}), cameras_around(16, 16), torch.zeros(3))
        rest = {field: torch.cat([getattr(cloud, field)[:3], getattr(cloud, field)[4:]]) for field in FIELDS}
        expected = render(GaussianCloud(**rest), cameras_around(16, 16), torch.zeros(3))
        torch.testing.assert_close(output.rgb, expected.rgb)
