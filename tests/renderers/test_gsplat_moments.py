"""The moments of a moving cloud go to gsplat in one batch. Here a stand-in with gsplat's own signature for batches
renders them: the plain torch backend, moment by moment."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from splatting_scenes import random_cloud
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, Frames, GaussianCloud, RenderOutput
from threedgen.renderers import backends
from threedgen.renderers.base import render_frames
from threedgen.renderers.splatting import SplattingRenderer

VIEWS = 6
RING = orbit(torch.arange(VIEWS) * 60.0, torch.full((VIEWS,), 10.0), torch.full((VIEWS,), 2.5), 45.0, 12, 12)


class Gsplat:
    """`rasterization` for means [T, N, 3] and viewmats [T, C, 4, 4], and how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def rasterization(self, **given: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        self.calls += 1
        means, poses = given["means"], given["viewmats"]
        assert given["colors"].shape[:-2] == means.shape[:-1]
        assert given["Ks"].shape[:-2] == poses.shape[:-2]
        assert given["sh_degree"] == {1: 0, 4: 1}[given["colors"].shape[-2]]
        if means.ndim == 2:
            rgb, alpha, depth, radii = self._views(given, means, poses, given["Ks"], ())
            return torch.cat([rgb, depth], -1), alpha, {"means2d": torch.zeros(1), "radii": radii}
        drawn = [self._views(given, means, poses[i], given["Ks"][i], (i,)) for i in range(len(means))]
        rgb, alpha, depth, _ = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return torch.cat([rgb, depth], -1), alpha, {}

    def _views(self, given, means, poses, intrinsics, moment) -> tuple[Tensor, ...]:
        names = ("means", "quats", "scales", "opacities", "colors")
        cloud = GaussianCloud(*(given[name][moment] for name in names))
        sides = given["height"], given["width"], torch.zeros(len(poses))
        cameras = Cameras(
            poses.inverse(), intrinsics, *sides, near=given["near_plane"], far=given["far_plane"]
        )
        zeros = torch.zeros(len(poses), len(cloud), 2)
        return backends.load("splatting", "torch").splat(cloud, cameras, torch.zeros(len(poses), 3), zeros)


@pytest.fixture
def gsplat(monkeypatch: pytest.MonkeyPatch) -> Gsplat:
    stand_in = Gsplat()
    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=stand_in.rasterization))
    monkeypatch.setattr(backends, "choose", lambda kind, name, device: "gsplat")
    return stand_in


def moving(index: list[int], degrees: tuple[int, ...] = (1, 1, 1)) -> tuple[Frames, list[Tensor]]:
    clouds = [random_cloud(8, degree, seed) for seed, degree in enumerate(degrees)]
    leaves = [cloud.means.requires_grad_() for cloud in clouds]
    return Frames(tuple(clouds), torch.tensor(index), torch.linspace(0.0, 1.0, len(clouds))), leaves


def drawn_and_gradients(output: RenderOutput, leaves: list[Tensor]) -> list[Tensor]:
    assert output.depth is not None
    weights = torch.rand(output.rgb.shape, generator=torch.Generator().manual_seed(1))
    loss = (output.rgb * weights).sum() + output.alpha.square().sum() + output.depth.sum()
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [output.rgb, output.alpha, output.depth, *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("index", [[2, 0, 1, 1, 0, 2], [2, 2, 0, 0, 2, 0]])
@pytest.mark.parametrize("pictured", [False, True])
def test_one_batch_shows_what_moment_by_moment_shows(gsplat, index, pictured) -> None:
    scene, leaves = moving(index)
    shape = (VIEWS, 12, 12, 3) if pictured else (VIEWS, 3)
    background = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    together = drawn_and_gradients(SplattingRenderer()(scene, RING, background), leaves)
    assert gsplat.calls == 1
    apart = render_frames(SplattingRenderer(), scene, RING, background, None)
    assert gsplat.calls == 1 + len(set(index))
    for a, b in zip(together, drawn_and_gradients(apart, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("index", "degrees", "calls"),
    [([0, 0, 0, 1, 1, 2], (1, 1, 1), 3), ([0, 0, 1, 1, 2, 2], (1, 0, 1), 3)],
    ids=["seen unequally often", "of other shapes"],
)
def test_moments_that_share_no_batch_are_drawn_one_by_one(gsplat, index, degrees, calls) -> None:
    scene, _ = moving(index, degrees)
    output = SplattingRenderer()(scene, RING, torch.ones(3))
    assert gsplat.calls == calls
    assert output.rgb.shape == (VIEWS, 12, 12, 3)
