"""Given pictures as guidance: zero loss for the true renders, exact gradients, the scale of score distillation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize
from threedgen.core.types import Cameras, RenderOutput
from threedgen.datasets import world
from threedgen.datasets.given import GivenViews, read_pictures
from threedgen.datasets.multiview import PosedPictures, write_srn, write_transforms
from threedgen.guidance.given_pictures import Pictures

ALL: dict[str, Any] = {"l1": 0.7, "l2": 0.3, "ssim": 0.5, "alpha": 1.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    cameras = orbit(
        torch.arange(4) * 70.0, torch.tensor([0.0, 20.0, 40.0, -20.0]), torch.full((4,), 2.85), 40.0, 24, 24
    )
    rgb, alpha = world.render(world.canonical("car", "red"), cameras)
    path = tmp_path_factory.mktemp("pictures")
    write_transforms(path / "alpha", PosedPictures(rgb, alpha, cameras))
    write_srn(path / "plain", PosedPictures(rgb, alpha, cameras))
    return path


def guidance(folder, kind: str = "alpha", **weights: Any):
    return Pictures(Pictures.Config(path=str(folder / kind), **weights), "cpu")


def views(folder, size=24) -> Cameras:
    sampler = GivenViews(GivenViews.Config(path=str(folder / "alpha"), batch=4))
    return sampler(0, 0, 1).resized(size, size)


def truth(folder, cameras) -> tuple[Tensor, Tensor]:
    pictures = read_pictures(folder / "alpha")
    return pictures.images[cameras.index], pictures.alpha[cameras.index]


def signal(guide, rgb, alpha, cameras):
    return guide(RenderOutput(rgb, alpha), cameras, "", 0, 1, 0)


def test_zero_at_the_truth_and_nowhere_else(folder):
    cameras = views(folder)
    rgb, alpha = truth(folder, cameras)
    guide = guidance(folder, **ALL)
    found = signal(guide, rgb, alpha, cameras)
    assert float(found.loss) == pytest.approx(0.0, abs=1e-4)
    assert found.metrics["mse"] == pytest.approx(0.0, abs=1e-9)
    assert found.preview is not None
    torch.testing.assert_close(found.preview(), torch.cat(list(rgb), dim=1))
    other = signal(guide, rgb[[1, 2, 3, 0]], alpha[[1, 2, 3, 0]], cameras)
    assert float(other.loss) > 1.0


def test_the_scale_is_that_of_score_distillation_at_its_truth(folder):
    """0.5 (2 d)^2 summed over pixels, averaged over views, as in benchmarks/text_to_3d.py."""
    cameras = views(folder)
    rgb, alpha = truth(folder, cameras)
    noise = 0.1 * torch.randn(rgb.shape, generator=torch.Generator().manual_seed(0)) * (alpha > 0)
    found = signal(guidance(folder, alpha=0.0), rgb + noise, alpha, cameras)
    torch.testing.assert_close(found.loss, 0.5 * (2.0 * noise).square().sum() / 4)
    assert found.metrics["psnr"] == pytest.approx(-10 * noise.square().mean().log10().item(), rel=1e-4)


@pytest.mark.parametrize("term", list(ALL))
def test_gradients_are_those_of_each_term(folder, term):
    cameras = views(folder)[:1]
    picture, cover = (part.double() for part in truth(folder, cameras))
    rng = torch.Generator().manual_seed(1)
    rgb = picture * 0.8 + 0.1 * torch.rand(picture.shape, generator=rng, dtype=torch.float64)
    cover = (0.8 * cover + 0.05).requires_grad_()
    weights: dict[str, Any] = {name: (2.0 if name == term else 0.0) for name in ALL}
    weights["l2"] = max(weights["l2"], 1e-9)
    guide = guidance(folder, **weights)
    direction = torch.randn(rgb.shape, generator=rng, dtype=torch.float64)
    rgb.requires_grad_()
    signal(guide, rgb, cover, cameras).loss.backward()

    def at(step: float) -> float:
        with torch.no_grad():
            return float(signal(guide, rgb + step * direction, cover + step, cameras).loss)

    assert rgb.grad is not None
    assert cover.grad is not None or term != "alpha"
    slope = (rgb.grad * direction).sum() + (0.0 if cover.grad is None else cover.grad.sum())
    assert float(slope) == pytest.approx((at(1e-6) - at(-1e-6)) / 2e-6, rel=1e-4)


def test_views_are_judged_alone(folder):
    cameras = views(folder)
    rgb, alpha = truth(folder, cameras)
    rgb = 0.9 * rgb
    guide = guidance(folder, **ALL)
    dim = lambda s: signal(guide, rgb[s], 0.0 * alpha[s] + 0.5, cameras[s]).loss  # noqa: E731
    alone = torch.stack([dim(slice(i, i + 1)) for i in range(4)])
    torch.testing.assert_close(dim(slice(0, 4)), alone.mean())


@pytest.mark.parametrize(("size", "expected"), [(12, "mean"), (9, None), (48, None)])
def test_pictures_are_compared_at_the_size_of_the_render(folder, size, expected):
    cameras = views(folder, size)
    picture, alpha = truth(folder, cameras)
    smaller = resize(picture, size, size)
    if expected == "mean":
        torch.testing.assert_close(smaller, picture.reshape(4, 12, 2, 12, 2, 3).mean(dim=(2, 4)))
    torch.testing.assert_close(smaller.mean(dim=(1, 2)), picture.mean(dim=(1, 2)), atol=0.02, rtol=0)
    found = signal(guidance(folder, **ALL), smaller, resize(alpha, size, size), cameras)
    assert float(found.loss) == pytest.approx(0.0, abs=2e-3)


def test_alpha_counts_only_where_the_pictures_have_one(folder):
    cameras = views(folder)
    rgb, alpha = truth(folder, cameras)
    empty = 0.5 * torch.ones_like(alpha)
    with_alpha = signal(guidance(folder, alpha=3.0), rgb, empty, cameras).loss
    torch.testing.assert_close(with_alpha, 2.0 * 3.0 * (empty - alpha).square().sum() / 4)
    assert float(signal(guidance(folder, "plain", alpha=3.0), rgb, empty, cameras).loss) < 1e-3


def test_a_background_that_is_not_white_is_refused(folder):
    cameras = views(folder)
    rgb, alpha = truth(folder, cameras)
    grey = rgb - 0.3 * (1.0 - alpha)
    with pytest.raises(UserError, match=r"set background\.color=\[1,1,1\]"):
        signal(guidance(folder), grey, alpha, cameras)
    signal(guidance(folder), grey, torch.ones_like(alpha), cameras)  # the object itself may be of any colour


def test_bad_input(folder):
    cameras = views(folder)
    rgb, alpha = truth(folder, cameras)
    with pytest.raises(UserError, match=r"needs cameras\.name=given"):
        signal(guidance(folder), rgb, alpha, replace(cameras, index=None))
    with pytest.raises(UserError, match='the `path` of guidance "pictures" names no folder'):
        Pictures(Pictures.Config())
    with pytest.raises(UserError, match="only the alpha of the pictures"):
        guidance(folder, "plain", l2=0.0)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"l1": -1.0}, "l1 is -1; it must be at least 0"),
        ({"l2": 0.0, "alpha": 0.0}, "l2, l1, ssim and alpha are all 0"),
        ({"ssim": float("nan")}, "ssim is nan; it must be at least 0"),
    ]
    for weights, message in wrong:
        with pytest.raises(UserError, match=message):
            Pictures.Config(**weights)


def test_renders_too_small_for_ssim_are_refused(folder):
    rgb, alpha = torch.ones(4, 5, 5, 3), torch.ones(4, 5, 5, 1)
    with pytest.raises(UserError, match="renders of 5 x 5 pixels are too small for SSIM, which needs 6"):
        signal(guidance(folder, ssim=0.2), rgb, alpha, views(folder, 5))
    assert signal(guidance(folder, ssim=0.0), rgb, alpha, views(folder, 5)).loss.isfinite()
    rgb, alpha = torch.ones(4, 6, 6, 3), torch.ones(4, 6, 6, 1)
    assert signal(guidance(folder, ssim=0.2), rgb, alpha, views(folder, 6)).loss.isfinite()


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Pictures whose depths are known in half of their solid pixels."""
    step = torch.arange(4)
    cameras = orbit(70.0 * step, torch.full((4,), 20.0), torch.full((4,), 2.85), 40.0, 24, 24)
    rgb, alpha = world.render(world.canonical("car", "red"), cameras)
    depths = 2.0 + torch.rand(4, 24, 24, generator=torch.Generator().manual_seed(2))
    depths[..., ::2] = torch.nan
    depths = torch.where(alpha[..., 0] > 0.5, depths, torch.nan)
    path = tmp_path_factory.mktemp("deep")
    write_transforms(path / "alpha", PosedPictures(rgb.clamp(0.0, 1.0), alpha, cameras, depths=depths))
    return path


def depth_signal(guide, pictures: PosedPictures, depth: Tensor, alpha: Tensor, cameras: Cameras):
    rgb = pictures.images[cameras.index].to(depth)
    return guide(RenderOutput(rgb, alpha, depth), cameras, "", 0, 1, 0)


def test_depth_counts_only_where_it_is_known(deep):
    cameras, pictures = views(deep), read_pictures(deep / "alpha", depths=True)
    guide = guidance(deep, l2=1e-9, alpha=0.0, depth=3.0)
    assert pictures.depths is not None
    depths = pictures.depths[cameras.index, ..., None]
    alpha = torch.full_like(depths, 0.7)
    anywhere = torch.full_like(depths, 50.0)
    right = torch.where(depths.isfinite(), 0.7 * depths, anywhere)
    found = depth_signal(guide, pictures, right, alpha, cameras)
    assert float(found.loss) == pytest.approx(0.0, abs=1e-4)
    known = int(depths.isfinite().sum())
    off = depth_signal(guide, pictures, right + 0.5, alpha, cameras)
    rounded = math.hypot(0.5, 0.01) - 0.01
    assert float(off.loss) == pytest.approx(2.0 * 3.0 * rounded * known / 4, rel=1e-3)
    assert off.metrics["depth_error"] == pytest.approx(0.5, rel=1e-3)
    smaller = cameras.resized(12, 12)
    half = pictures.depths[cameras.index][:, 1::2, 1::2, None]
    part = depth_signal(
        guide,
        replace(pictures, images=resize(pictures.images, 12, 12)),
        torch.where(half.isfinite(), half, anywhere[:, :12, :12]),
        torch.ones_like(half),
        smaller,
    )
    assert float(part.loss) == pytest.approx(0.0, abs=1e-2)


def test_the_gradient_of_the_depth_term_is_that_of_finite_differences(deep):
    cameras, pictures = views(deep), read_pictures(deep / "alpha", depths=True)
    guide = guidance(deep, l2=1e-9, alpha=0.0, depth=1.5)
    rng = torch.Generator().manual_seed(3)
    shape = (4, 24, 24, 1)
    alpha, ways = (torch.rand(shape, generator=rng, dtype=torch.float64) for _ in range(2))
    assert pictures.depths is not None
    near = pictures.depths[cameras.index, ..., None].double().nan_to_num(1.0)
    # Differences of every size, from those that are rounded to those of other surfaces.
    depth = alpha * near + 10.0 ** (-4.0 * torch.rand(shape, generator=rng, dtype=torch.float64)) * (
        ways - 0.5
    )
    depth.requires_grad_()
    alpha.requires_grad_()
    depth_signal(guide, pictures, depth, alpha, cameras).loss.backward()
    assert depth.grad is not None
    assert alpha.grad is not None
    slope = float((depth.grad * ways).sum() - (alpha.grad * ways).sum())

    def at(step: float) -> float:
        with torch.no_grad():
            return float(
                depth_signal(guide, pictures, depth + step * ways, alpha - step * ways, cameras).loss
            )

    assert slope == pytest.approx((at(1e-7) - at(-1e-7)) / 2e-7, rel=1e-5)
    assert abs(slope) > 1.0


def test_pictures_with_depths_need_a_renderer_that_gives_them(deep):
    cameras, pictures = views(deep), read_pictures(deep / "alpha")
    rgb, alpha = pictures.images[cameras.index], pictures.alpha[cameras.index]
    with pytest.raises(UserError, match="gives no depth to compare"):
        signal(guidance(deep), rgb, alpha, cameras)
    assert "depth_error" not in signal(guidance(deep, depth=0.0), rgb, alpha, cameras).metrics
