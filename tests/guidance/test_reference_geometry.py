"""Depth and normals in the view of the picture: laws of the terms, their gradients, and their effect on a scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from threedgen.cameras.orbit import orbit
from threedgen.cameras.reference import ReferenceOrbit
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.types import Cameras, RenderOutput
from threedgen.guidance import reference_geometry as geometry
from threedgen.guidance.reference_picture import Depth, ReferencePicture
from threedgen.loop.background import ColorBackground
from threedgen.loop.distill import distill
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations.gaussians import Gaussians

VIEW = orbit(torch.zeros(1), torch.zeros(1), torch.tensor([2.85]), 40.0, 12, 12).to("cpu", torch.float64)


def values(seed: int, count: int = 40) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def order(depth: torch.Tensor, nearness: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return geometry.misorder(depth, nearness, generator(seed, "reference", 0))


def surface(
    depth: torch.Tensor, alpha: float | torch.Tensor = 1.0, rgb: torch.Tensor | None = None
) -> RenderOutput:
    """A render whose expected depth is `depth` [H, W]."""
    cover = torch.as_tensor(alpha, dtype=depth.dtype).expand(depth.shape)[None, ..., None]
    color = cover.new_full((1, *depth.shape, 3), 0.5) if rgb is None else rgb
    return RenderOutput(color * cover + 1 - cover, cover, depth[None, ..., None] * cover)


def plane(cameras: Cameras, normal: tuple[float, float, float], distance: float = 2.85) -> torch.Tensor:
    """Camera z [H, W] of a plane through (0, 0, distance) in the axes of the camera."""
    n = torch.tensor(normal, dtype=torch.float64)
    place = torch.arange(cameras.width, dtype=torch.float64) + 0.5
    focal = cameras.intrinsics[0, 0, 0]
    x = (place[None, :] - cameras.intrinsics[0, 0, 2]) / focal
    y = (place[:, None] - cameras.intrinsics[0, 1, 2]) / focal
    return n[2] * distance / (n[0] * x + n[1] * y + n[2])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.floats(0.01, 100.0), st.floats(-10.0, 10.0))
def test_a_depth_picture_has_neither_unit_nor_origin(seed, scale, shift):
    depth, nearness = values(seed), values(seed + 100)
    away = geometry.decorrelation(depth, nearness)
    torch.testing.assert_close(geometry.decorrelation(depth, scale * nearness + shift), away)
    torch.testing.assert_close(
        geometry.decorrelation(depth, -nearness), 2.0 - away
    )  # inside out is the worst there is
    ranks = nearness.argsort().argsort() / 10.0  # no ties
    wrong = order(depth, ranks)
    torch.testing.assert_close(order(depth, ranks.exp()), wrong)
    assert 0.0 <= float(away) <= 2.0
    assert float(wrong) > 0.0


def test_depth_that_agrees_costs_nothing():
    depth = values(0).requires_grad_()
    assert geometry.decorrelation(depth, -3.0 * depth.detach() + 7.0).item() < 1e-5
    for nearness in (-depth.detach(), -(depth.detach() ** 3), (-depth.detach()).exp()):
        wrong = order(depth, nearness)
        assert wrong == 0
        assert (torch.autograd.grad(wrong, depth)[0] == 0).all()
    assert geometry.decorrelation(depth, depth.detach()).item() == pytest.approx(2.0, abs=1e-5)
    assert order(depth, depth.detach()) > 0.5


def test_a_wrong_pair_is_pushed_apart_the_right_way():
    depth = torch.tensor([3.0, 2.0], dtype=torch.float64, requires_grad=True)
    wrong = order(depth, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert wrong.item() == pytest.approx(1.0)
    assert torch.autograd.grad(wrong, depth)[0].tolist() == pytest.approx([1.0, -1.0])
    tied = order(depth, torch.tensor([0.51, 0.5], dtype=torch.float64))
    assert tied == 0
    for count in (0, 1):
        few = depth[:count]
        assert order(few, few.detach()) == 0
        assert geometry.decorrelation(few, few.detach()) == 0


def test_pairs_come_from_the_step():
    depth, nearness = values(0, 500), values(1, 500)
    assert order(depth, nearness, 0) == order(depth, nearness, 0)
    assert order(depth, nearness, 0) != order(depth, nearness, 1)


def test_gradients_are_those_of_finite_differences():
    nearness, picture = values(1, 30), values(2, 12 * 12 * 3).reshape(1, 12, 12, 3).sigmoid()
    depth = values(0, 30).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: geometry.decorrelation(d, nearness), (depth,))
    assert torch.autograd.gradcheck(lambda d: order(d, nearness), (depth,))
    bumpy = (plane(VIEW, (0.2, 0.1, -1.0)) + 0.05 * values(3, 144).reshape(12, 12))[None, ..., None]
    alpha = (0.8 + 0.1 * values(4, 144).sigmoid().reshape(1, 12, 12, 1)).requires_grad_()
    seen = torch.ones(1, 12, 12, 1, dtype=torch.bool)
    seen[:, 3:5, 6] = False

    def rough(sums: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
        normal, known = geometry.normals(RenderOutput(picture, cover, sums), VIEW, seen)
        return geometry.roughness(normal, known, picture[:, :11, :11])

    assert torch.autograd.gradcheck(rough, ((bumpy * alpha).detach().requires_grad_(), alpha))


@pytest.mark.parametrize("normal", [(0.0, 0.0, -1.0), (0.5, 0.0, -1.0), (-0.3, 0.6, -1.0)])
def test_normals_of_a_planes_depth(normal):
    """Normals point towards the camera at any alpha; a plane has no roughness, a crease has."""
    depth = plane(VIEW, normal)
    seen = torch.ones(1, 12, 12, 1, dtype=torch.bool)
    expected = torch.nn.functional.normalize(torch.tensor(normal, dtype=torch.float64), dim=0)
    found, known = geometry.normals(surface(depth, 0.7), VIEW, seen)
    assert known.all()
    torch.testing.assert_close(found, expected.expand(1, 11, 11, 3), atol=1e-5, rtol=0)
    plain = torch.full((1, 11, 11, 3), 0.5, dtype=torch.float64)
    assert float(geometry.roughness(found, known, plain)) < 1e-5
    creased = torch.minimum(depth, plane(VIEW, (1.0, 0.0, -1.0)))
    crease, known = geometry.normals(surface(creased), VIEW, seen)
    assert float(geometry.roughness(crease, known, plain)) > 0.01


def test_a_renderers_own_normals_are_taken():
    """Their length is that of alpha and has no effect."""
    direction = torch.nn.functional.normalize(values(5, 144 * 3).reshape(1, 12, 12, 3), dim=-1)
    output = RenderOutput(torch.ones(1, 12, 12, 3), torch.ones(1, 12, 12, 1), normal=0.6 * direction)
    seen = torch.ones(1, 12, 12, 1, dtype=torch.bool)
    found, known = geometry.normals(output, VIEW, seen)
    torch.testing.assert_close(found, direction)
    assert known is seen


def test_an_edge_of_the_picture_excuses_a_crease_there_and_nowhere_else():
    normal = torch.zeros(1, 8, 8, 3)
    normal[..., 2] = 1.0
    normal[:, :, 4:] = torch.tensor([1.0, 0.0, 0.0])
    known = torch.ones(1, 8, 8, 1, dtype=torch.bool)
    edge, elsewhere = torch.zeros(2, 1, 8, 8, 3).unbind(0)
    edge[:, :, 4:], elsewhere[:, :, 6:] = 1.0, 1.0
    plain = float(geometry.roughness(normal, known, torch.zeros(1, 8, 8, 3)))
    assert plain == pytest.approx(8 * (2**0.5 - 1e-3) / 112, rel=1e-3)
    assert float(geometry.roughness(normal, known, elsewhere)) == pytest.approx(plain)
    assert float(geometry.roughness(normal, known, edge)) < 1e-3 * plain
    known[:, :, 4] = False  # what is not known is not compared
    assert geometry.roughness(normal, known, torch.zeros(1, 8, 8, 3)) == 0


@pytest.fixture
def relief(tmp_path):
    """A grey square whose left half is near."""
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)
    rgba[12:52, 12:52] = (128, 128, 128, 255)
    Image.fromarray(rgba).save(tmp_path / "picture.png")
    near = np.zeros((64, 64), dtype=np.uint16)
    near[:, :32] = 65535
    Image.fromarray(near).save(tmp_path / "depth.png")
    return {"image": str(tmp_path / "picture.png")}, str(tmp_path / "depth.png")


def test_the_terms_of_the_guidance(relief):
    """The terms use pixels where picture and render are solid, with their weights."""
    picture, depth = relief
    cameras = ReferenceOrbit(ReferenceOrbit.Config(batch=1, resolution=64))(0, 0, 1)
    place = torch.linspace(2.0, 3.0, 64)
    alpha = torch.from_numpy(np.asarray(Image.open(picture["image"]))[..., 3] / 255.0).float()[..., None]

    def said(slope: torch.Tensor, **config: Any) -> tuple[float, dict]:
        z = slope.expand(64, 64)[..., None]
        rgb = alpha * 128 / 255 + (1 - alpha)
        output = RenderOutput(
            torch.stack([torch.ones(64, 64, 3), rgb.expand(-1, -1, 3)]),
            torch.stack([torch.zeros(64, 64, 1), alpha]),
            torch.stack([torch.zeros(64, 64, 1), alpha * z]),
        )
        signal = ReferencePicture(ReferencePicture.Config(**picture, **config))(output, cameras, "x", 0, 1, 0)
        return float(signal.loss), {name: float(value) for name, value in signal.metrics.items()}

    assert said(place) == (pytest.approx(0.0, abs=1e-4), {"psnr": pytest.approx(100.0), "mask_iou": 1.0})
    right, metrics = said(place, depth=Depth(depth, 7.0, 0.0))
    assert metrics["depth_correlation"] == pytest.approx(0.866, abs=0.01)  # of a ramp with a step
    assert metrics["depth_misorder"] == 0
    assert right == pytest.approx(7.0 * (1 - metrics["depth_correlation"]), rel=1e-3)
    inside_out, metrics = said(place.flip(0), depth=Depth(depth, 0.0, 5.0))
    assert metrics["depth_correlation"] == pytest.approx(-0.866, abs=0.01)
    assert inside_out == pytest.approx(5.0 * metrics["depth_misorder"], rel=1e-3)
    assert metrics["depth_misorder"] == pytest.approx(0.5 * 40 / 64, rel=0.1)
    smooth, metrics = said(place, normal_smoothness=3.0)
    assert smooth == pytest.approx(3.0 * metrics["roughness"], rel=1e-2, abs=1e-4)
    bumpy = place + 0.05 * torch.tensor([0.0, 1.0]).repeat(32)
    assert said(bumpy, normal_smoothness=3.0)[0] > 1.0


def test_what_is_behind_mixes_into_no_depth_and_each_step_has_its_pairs(relief, tmp_path):
    """At another size than that of the picture the depth at the rim is that of the object, not mixed with the
    background."""
    picture, _ = relief
    ramp = np.zeros((64, 64))
    ramp[12:52, 12:52] = np.linspace(0.6, 1.0, 40)
    Image.fromarray(np.round(65535 * ramp).astype(np.uint16)).save(tmp_path / "ramp.png")
    guide = ReferencePicture(ReferencePicture.Config(**picture, depth=Depth(str(tmp_path / "ramp.png"))))
    cameras = ReferenceOrbit(ReferenceOrbit.Config(batch=1, resolution=24))(0, 0, 1)[1:]
    blank = RenderOutput(torch.zeros(1, 24, 24, 3), torch.zeros(1, 24, 24, 1))
    image, alpha = guide.targets(blank)
    place = (torch.arange(24) + 0.5) / 24 * 64
    sloped = (3.0 - (place - 12.0) / 40.0).expand(24, 24)[None, ..., None]
    metrics = guide(RenderOutput(image, alpha, alpha * sloped), cameras, "x", 0, 2, 0).metrics
    assert metrics["depth_correlation"] > 0.995
    assert metrics["depth_misorder"] == 0
    noisy = RenderOutput(image, alpha, alpha * torch.rand(1, 24, 24, 1, generator=generator(0, "x", 0)))
    wrong = [
        guide(noisy, cameras, "x", *at).metrics["depth_misorder"] for at in ((0, 2, 0), (1, 2, 0), (0, 2, 1))
    ]
    assert len(set(wrong)) == 3
    assert guide(noisy, cameras, "x", 1, 2, 0).metrics["depth_misorder"] == wrong[1]


def test_renders_without_depth(relief):
    picture, depth = relief
    cameras = ReferenceOrbit(ReferenceOrbit.Config(batch=1, resolution=64))(0, 0, 1)
    output = RenderOutput(torch.ones(2, 64, 64, 3), torch.zeros(2, 64, 64, 1))
    configs: tuple[dict[str, Any], ...] = ({"normal_smoothness": 1.0}, {"depth": Depth(depth)})
    for config in configs:
        with pytest.raises(UserError, match="gives no depth"):
            ReferencePicture(ReferencePicture.Config(**picture, **config))(output, cameras, "x", 0, 1, 0)


def test_a_scene_takes_on_the_depth(relief):
    """The picture has one colour: only the depth picture shows that its left half is near."""
    picture, depth = relief
    correlations = []
    configs: tuple[dict[str, Any], ...] = ({}, {"depth": Depth(depth)})
    for more in configs:
        scene = Gaussians(Gaussians.Config(count=300))
        guide = ReferencePicture(ReferencePicture.Config(**picture, **more))
        cameras = ReferenceOrbit(ReferenceOrbit.Config(batch=1, resolution=24))
        renderer = SplattingRenderer(SplattingRenderer.Config())
        white = ColorBackground(ColorBackground.Config(random=0.0))
        distill(scene, renderer, cameras, [guide], "x", steps=60, background=white, listeners=[])
        with torch.no_grad():
            output = renderer(scene.at(None), cameras.reference(64), torch.ones(3))
        solid = (output.alpha > 0.5)[0]
        near = torch.from_numpy(np.asarray(Image.open(depth)) / 65535.0).float()[..., None]
        found = geometry.decorrelation(geometry.expected_depth(output)[0][solid], near[solid])
        correlations.append(1.0 - float(found))
    assert correlations[0] < 0.5
    assert correlations[1] > 0.8, correlations
