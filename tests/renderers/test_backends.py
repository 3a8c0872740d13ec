"""Choosing a backend: the fastest one that is available, or one line that says why a named one is not."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from types import MappingProxyType

import pytest
import torch
from splatting_scenes import cameras_around, cast, random_cloud

from threedgen.core.errors import UserError
from threedgen.kernels import why_absent
from threedgen.renderers import backends
from threedgen.renderers.splatting import SplattingRenderer


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    reasons = MappingProxyType({"native": "not compiled", "gsplat": "no CUDA device", "torch": None})
    monkeypatch.setattr(backends, "available", lambda kind: reasons)
    backends._warn_slow.cache_clear()
    yield
    backends._warn_slow.cache_clear()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: the kernels could not be built")
def test_the_kernels_were_built_if_there_is_a_compiler() -> None:
    """Without this test, a broken build would only skip the tests of the native backend."""
    assert why_absent() is None


@pytest.mark.skipif(why_absent() is not None, reason="no native kernels")
def test_auto_is_native_on_the_cpu() -> None:
    assert backends.choose("splatting", "auto", "cpu") == "native"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_absent_backends_say_why() -> None:
    reasons = backends.available("splatting")
    assert reasons["torch"] is None
    assert reasons["gsplat"] == "no CUDA device"
    with pytest.raises(UserError, match="'gsplat' is not available: no CUDA device"):
        backends.choose("splatting", "gsplat", "cpu")


def test_unknown_names_and_wrong_devices_are_user_errors() -> None:
    with pytest.raises(UserError, match=r"unknown splatting backend 'fast': use auto, native"):
        backends.choose("splatting", "fast", "cpu")
    with pytest.raises(UserError, match="no splatting backend runs on 'meta'"):
        backends.choose("splatting", "auto", "meta")


def test_native_does_not_take_cuda_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "available", lambda kind: dict.fromkeys(("native", "gsplat", "torch")))
    with pytest.raises(UserError, match="runs on cpu, not on cuda"):
        backends.choose("splatting", "native", "cuda")
    assert backends.choose("splatting", "auto", "cuda:1") == "gsplat"


@pytest.mark.usefixtures("no_native")
def test_without_kernels_torch_renders_and_warns_once_that_it_is_slow() -> None:
    with pytest.warns(RuntimeWarning, match=r"plain torch backend.*native: not compiled"):
        output = SplattingRenderer()(random_cloud(5, 0), cameras_around(8, 8), torch.zeros(3))
    assert output.rgb.shape == (3, 8, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SplattingRenderer()(random_cloud(5, 0), cameras_around(8, 8), torch.zeros(3))


def test_float64_keeps_its_precision() -> None:
    output = SplattingRenderer()(
        cast(random_cloud(5, 0), torch.float64), cameras_around(8, 8), torch.zeros(3)
    )
    assert output.rgb.dtype == torch.float64


def test_backgrounds_are_a_colour_colours_or_pictures() -> None:
    cloud, cameras, color = random_cloud(20, 0), cameras_around(9, 12), torch.tensor([0.1, 0.5, 0.9])
    render = SplattingRenderer()
    first = render(cloud, cameras, color).rgb
    torch.testing.assert_close(render(cloud, cameras, color.expand(3, 3)).rgb, first)
    torch.testing.assert_close(render(cloud, cameras, color.expand(3, 9, 12, 3)).rgb, first)
    with pytest.raises(ValueError, match="background must be"):
        render(cloud, cameras, torch.zeros(2, 3))


def test_gradients_of_the_screen_reach_density_control() -> None:
    cloud = random_cloud(20, 0)
    cloud.means.requires_grad_()
    output = SplattingRenderer()(cloud, cameras_around(16, 16), torch.zeros(3))
    output.rgb.square().sum().backward()
    assert output.screen is not None
    gradient = output.screen.means2d.grad
    assert gradient is not None
    assert gradient.shape == (3, 20, 2)
    seen = output.screen.radii > 0
    assert gradient[seen].any()
    assert not gradient[~seen].any()
